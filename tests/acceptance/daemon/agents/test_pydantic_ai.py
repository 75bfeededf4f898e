"""A pydantic-ai agent over ACP, unmodified, in the real daemon."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon.agents.conftest import Model
from tests.acceptance.daemon.conftest import Daemon, Launch, Until

pytestmark = [
    pytest.mark.timeout(300),  # the first one installs the agent
    pytest.mark.xdist_group("pydantic_ai"),
]

CODER = {"kind": "builtin", "value": "builtin:coder"}
GRANTED = [{"name": name} for name in ("read", "write", "shell")]

Start = Launch


def create(daemon: Daemon, **request: Any) -> str:
    """A new Worker whose agent is ready."""
    worker_id = daemon.create(profile=CODER, requested_capabilities=GRANTED, **request)
    execution = daemon.worker(worker_id)["execution"]
    assert execution["run_state"] == "idle", execution
    return str(worker_id)


def names(events: list[Any]) -> list[str]:
    return [one["payload"]["event"] for one in events]


def data(events: list[Any], name: str) -> list[Any]:
    return [one["payload"].get("data") for one in events if one["payload"]["event"] == name]


def items(events: list[Any], kind: str) -> list[Any]:
    return [one["item"] for one in data(events, "system_item") if one["item"]["kind"] == kind]


def asked(daemon: Daemon, worker_id: str, until: Until) -> dict[str, Any]:
    """The permission that the Worker asks for, when it does."""
    path = f"/v1/workers/{worker_id}/permissions"
    (permission,) = until(lambda: daemon.call("GET", path).ok("permissions"))
    return dict(permission)


def answer(daemon: Daemon, worker_id: str, permission: dict[str, Any], kind: str) -> None:
    (option,) = (one for one in permission["options"] if one["kind"] == kind)
    path = f"/v1/workers/{worker_id}/permissions/{permission['request_id']}"
    reply = daemon.call("POST", path, {"option_id": option["option_id"]})
    assert reply.status == 200, reply.body


def rest(daemon: Daemon, worker_id: str, ack: dict[str, Any]) -> list[Any]:
    """The events of the run of this input, when it is over."""
    daemon.idle(worker_id)
    return [event for event in daemon.log(worker_id) if event["cursor"] >= ack["cursor"]]


def carrying(url: str) -> list[str]:
    """The processes, the test aside, that have this in their environment."""
    found = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if path.name.isdecimal() and url.encode() in (path / "environ").read_bytes():
                found.append(path.name)
    return found


def test_text_and_usage_are_complete(start_agents: Start, model: tuple[Model, str]) -> None:
    scripted, _ = model
    daemon = start_agents()
    worker_id = create(daemon, intent={"kind": "task", "objective": "Mend the roof"})
    scripted.say("Let me ", "see.")
    events = daemon.run(worker_id, "hello")
    assert names(events) == [
        "user_message",
        "invoke_start",
        *(["text_delta"] * names(events).count("text_delta")),
        "text_done",
        "usage",
        "run_end",
    ]
    assert "".join(one["text"] for one in data(events, "text_delta")) == "Let me see."
    usage = {"input_tokens": 11, "output_tokens": 7, "cache_read_input_tokens": 0, "source": "agent"}
    assert data(events, "usage") == [usage]
    assert data(events, "run_end") == [{"result": "finished"}]
    assert [(one["role"], one["content"]) for one in daemon.items(worker_id)] == [
        ("user", "hello"),
        ("assistant", "Let me see."),
    ]
    ((role, told),) = scripted.messages()
    assert role == "user"
    assert "Mend the roof" in json.dumps(told)


def test_files_are_written_and_read_in_the_workers_folder(start_agents: Start, model: tuple[Model, str]) -> None:
    scripted, _ = model
    daemon = start_agents()
    worker_id = create(daemon)
    scripted.call("write_file", path="notes.txt", content="remember")
    scripted.call("read_file", path="notes.txt")
    scripted.call("read_file", path="/etc/passwd")
    scripted.say("done")
    events = daemon.run(worker_id, "take a note")
    write, read, refused = data(events, "tool_result")
    assert (write["is_error"], read["is_error"], read["output"]) == (False, False, "remember")
    assert "root:" not in json.dumps(events)
    assert refused["is_error"]
    assert [one["new_text"] for one in items(events, "diff")] == ["remember"]
    calls = [data(events, name) for name in ("tool_call_start", "tool_call_done", "tool_result")]
    assert len({tuple(one["id"] for one in of) for of in calls}) == 1


def test_a_command_runs_when_it_is_allowed_and_not_when_it_is_denied(
    start_agents: Start, model: tuple[Model, str], until: Until
) -> None:
    scripted, _ = model
    daemon = start_agents()
    worker_id = create(daemon)
    for kind, ran in (("allow_once", True), ("reject_once", False)):
        scripted.call("run_command", command="echo $((6 * 7))")
        scripted.say("so it is")
        ack = daemon.input(worker_id, "count")
        permission = asked(daemon, worker_id, until)
        with daemon.observe(worker_id) as observer:
            (shown,) = observer.envelope()["payload"]["data"]["permissions"]
        assert shown == permission
        answer(daemon, worker_id, permission, kind)
        events = rest(daemon, worker_id, ack)
        (request,), (resolved,) = items(events, "permission_request"), items(events, "permission_resolved")
        assert request["request_id"] == resolved["request_id"] == permission["request_id"]
        assert (resolved["outcome"], resolved["by"]) == ("selected", "token:default")
        order = names(events)
        assert order.index("tool_call_start") < order.index("system_item") < order.index("tool_result")
        (result,) = data(events, "tool_result")
        assert ("42" in (result.get("output") or "")) is ran
        assert result["is_error"] is not ran
        assert data(events, "run_end") == [{"result": "finished"}]


def test_a_permission_that_nobody_answers_expires_as_denied(start_agents: Start, model: tuple[Model, str]) -> None:
    scripted, _ = model
    daemon = start_agents(timeout_s=0.5)
    worker_id = create(daemon)
    scripted.call("run_command", command="echo $((6 * 7))")
    scripted.say("never mind")
    events = daemon.run(worker_id, "count")
    (resolved,) = items(events, "permission_resolved")
    assert (resolved["outcome"], resolved["by"]) == ("expired", "deadline")
    (result,) = data(events, "tool_result")
    assert result["is_error"]
    assert "42" not in (result.get("output") or "")
    assert data(events, "run_end") == [{"result": "finished"}]


def test_an_interrupt_ends_the_run_and_the_agent_goes_on(
    start_agents: Start, model: tuple[Model, str], until: Until
) -> None:
    scripted, _ = model
    daemon = start_agents()
    worker_id = create(daemon)
    scripted.hang("well, ")
    ack = daemon.input(worker_id, "think")
    until(lambda: "text_delta" in names(daemon.log(worker_id)))
    reply = daemon.call("POST", f"/v1/workers/{worker_id}/interrupt")
    assert reply.status == 200, reply.body
    events = rest(daemon, worker_id, ack)
    assert data(events, "text_done") == [{"text": "well, "}]
    assert data(events, "run_end") == [{"result": "rolled_back"}]
    assert [one["level"] for one in data(events, "alert")] == ["warn"]
    scripted.say("again")
    assert data(daemon.run(worker_id, "go on"), "text_done") == [{"text": "again"}]


def test_restarts_of_the_daemon_lose_nothing_that_was_said(start_agents: Start, model: tuple[Model, str]) -> None:
    scripted, _ = model
    daemon = start_agents()
    worker_id = create(daemon)
    scripted.say("Nice to meet you.")
    events = daemon.run(worker_id, "My name is Ann.")
    said = ["My name is Ann.", "Nice to meet you."]
    for end, question in (("stop", "Who am I?"), ("kill", "Who was I?")):
        getattr(daemon, end)()
        daemon = start_agents()
        scripted.say("You are Ann.")
        after = daemon.run(worker_id, question)
        before = [event for event in daemon.log(worker_id) if event["cursor"] <= events[-1]["cursor"]]
        assert before[-len(events) :] == events
        assert data(after, "text_done") == [{"text": "You are Ann."}]
        assert data(after, "alert") == []
        said += [question, "You are Ann."]
        told = json.dumps(scripted.messages())
        assert [told.count(text) for text in said[:-1]] == [said[:-1].count(text) for text in said[:-1]]
        assert [one["content"] for one in daemon.items(worker_id)] == said
        events = after


def test_a_run_that_a_restart_cuts_is_closed_and_the_agent_said_to_have_forgotten_it(
    start_agents: Start, model: tuple[Model, str], until: Until
) -> None:
    scripted, _ = model
    daemon = start_agents()
    worker_id = create(daemon)
    scripted.hang("well, ")
    ack = daemon.input(worker_id, "think")
    until(lambda: "text_delta" in names(daemon.log(worker_id)))
    assert carrying(model[1])
    daemon.kill()
    until(lambda: not carrying(model[1]))
    daemon = start_agents()
    events = rest(daemon, worker_id, ack)
    assert data(events, "text_done") == [{"text": "well, "}]
    assert names(events)[-2:] == ["error", "run_end"]
    scripted.say("again")
    after = daemon.run(worker_id, "go on")
    assert data(after, "text_done") == [{"text": "again"}]
    warned = [one["message"] for one in data(daemon.log(worker_id), "alert")]
    assert "the memory of the agent differs from the transcript" in warned
