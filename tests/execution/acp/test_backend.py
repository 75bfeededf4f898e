"""Agents that behave, and agents that don't."""

import asyncio
import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.acp import inbox, update_throttle
from runtimed.execution.acp.inbox import MAX_WAITING
from runtimed.model.event import ErrorRaised, InvokeStart, TextDone, ToolCallArgsDelta, Usage
from runtimed.model.worker import AssistantIntent, RoleIntent, TaskIntent
from tests.execution.acp.conftest import NewHarness
from tests.execution.conftest import Traces

ACCEPTED = BackendAnswer("accepted")


def prompt(*steps: list[Any], **script: Any) -> dict[str, Any]:
    """A script in which every prompt leads to these steps."""
    return {"session/prompt": [list(steps)], **script}


async def test_a_prompt_is_answered(new_harness: NewHarness) -> None:
    harness = new_harness()
    assert await harness.spawn() == ACCEPTED
    sink = await harness.run()
    assert sink.names == ["invoke_start", "text_delta", "text_done", "run_end"]
    assert sink.text == "hello"
    assert sink.ends == ["finished"]


async def test_an_agent_runs_in_its_own_folder_and_is_told_of_no_capability_that_was_not_granted(
    new_harness: NewHarness,
) -> None:
    harness = new_harness(capabilities=("read",))
    await harness.spawn()
    (greeting,), (session,) = harness.heard("initialize"), harness.heard("session/new")
    assert greeting["protocolVersion"] == 1
    assert greeting["clientCapabilities"] == {
        "fs": {"readTextFile": True, "writeTextFile": False},
        "terminal": False,
        "elicitation": {"form": {}},
        "session": {"notices": {}},
    }
    assert session == {"cwd": str(harness.home), "mcpServers": []}


@pytest.mark.parametrize(
    ("intent", "said"),
    [
        (TaskIntent("Mend the roof"), ["Your objective: Mend the roof", "one"]),
        (RoleIntent("reviewer", "Find bugs"), ["Your role: reviewer\nYour purpose: Find bugs", "one"]),
        (AssistantIntent("Help"), ["Your purpose: Help", "one"]),
        (AssistantIntent(), ["one"]),
    ],
)
async def test_the_intent_comes_before_the_first_prompt_only(
    new_harness: NewHarness, intent: Any, said: list[str]
) -> None:
    harness = new_harness()
    await harness.spawn(intent)
    await harness.run("one")
    await harness.run("two")
    told = [[block["text"] for block in one["prompt"]] for one in harness.heard("session/prompt")]
    assert told == [said, ["two"]]


async def test_a_system_input_is_marked_as_such(new_harness: NewHarness) -> None:
    harness = new_harness()
    await harness.spawn()
    sink = await harness.run("The build is red.", kind="system")
    assert sink.events[0] == InvokeStart("notify")
    ((block,),) = (told["prompt"] for told in harness.heard("session/prompt"))
    assert block["text"] == "Message of the system, not of the user:\n\nThe build is red."


async def test_one_run_at_a_time(new_harness: NewHarness) -> None:
    harness = new_harness(prompt(["until_cancel"], ["end", "cancelled"]))
    await harness.spawn()
    await harness.begin()
    assert (await harness.offer()).outcome == "busy"
    await harness.backend.interrupt(harness.worker_id)
    assert (await harness.offer()).outcome == "accepted"


async def test_text_that_is_no_unicode_is_refused(new_harness: NewHarness) -> None:
    harness = new_harness()
    await harness.spawn()
    assert (await harness.offer("\ud800")).outcome == "rejected"


NOISE = [
    ["raw", "123"],
    ["raw", "[]"],
    ["raw", '"text"'],
    ["raw", "null"],
    ["raw", "Starting up..."],
    ["raw", "{not json"],
    ["raw", ""],
    ["raw", "{}"],
    ["raw", '{"id": []}'],
    ["raw", '{"id": {}, "result": 1}'],
    ["raw", '{"id": 99999, "result": 1}'],
    ["raw", '{"id": 99999, "error": "odd"}'],
    ["raw", '{"method": []}'],
    ["raw", '{"method": "session/update"}'],
    ["raw", '{"method": "session/update", "params": [1]}'],
    ["raw", '{"method": "session/update", "params": {"update": 7}}'],
    ["raw", '{"method": "session/update", "params": {"update": {}}}'],
    ["raw", '{"method": "_vendor/note", "params": {"a": 1}}'],
    ["raw", '{"jsonrpc": "2.0", "method": "unheard/of"}'],
    ["raw", "[" * 5000],
    ["raw", '{"a":' * 5000],
]


async def test_what_is_no_message_is_left_out(new_harness: NewHarness, caplog: pytest.LogCaptureFixture) -> None:
    harness = new_harness(prompt(["text", "a"], *NOISE, ["text", "b"], ["end"], start=NOISE))
    assert await harness.spawn() == ACCEPTED
    sink = await harness.run()
    assert sink.text == "ab"
    assert [item["kind"] for item in sink.items] == ["unknown"] * 2
    assert (sink.ends, sink.losses) == (["finished"], [])
    logged = [record for record in caplog.records if record.name != SWEEPING]
    assert [record for record in logged if record.levelname in {"WARNING", "ERROR"}] == []


SWEEPING = "runtimed.execution.processes.cgroup"
"""Tells of what a killed daemon, of another test run for one, has left on the machine."""

# The daemon numbers its requests from 0: initialize, session/new, and then one for each prompt.
LOGGED = [
    ["raw", json.dumps(line)]
    for number in (0, 1, 2, "2", True)
    for line in (
        {"level": 30, "id": number, "msg": "calling the model"},
        {"id": number},
        {"id": number, "error": None},
        {"jsonrpc": "2.0", "id": number, "msg": "no answer"},
        {"level": 50, "id": number, "error": "no route to host"},
        {"level": 30, "id": number, "method": "GET", "url": "/v1/models"},
    )
]


async def test_a_json_object_that_an_agent_logs_is_no_answer_whatever_its_id(new_harness: NewHarness) -> None:
    harness = new_harness(prompt(*LOGGED, ["text", "done"], ["end"], start=LOGGED))

    assert await harness.spawn() == ACCEPTED
    sink = await harness.run()

    assert (sink.text, sink.ends, sink.alerts) == ("done", ["finished"], [])
    assert harness.answers() == []


async def test_an_error_that_is_no_object_fails_the_run_alone(new_harness: NewHarness) -> None:
    harness = new_harness(prompt(["raw", '{"jsonrpc": "2.0", "id": 2, "error": "out of tea"}']))
    await harness.spawn()
    sink = await harness.run()
    (error,) = sink.of(ErrorRaised)
    assert (error.code, error.message) == ("provider_error", "out of tea")
    assert sink.ends == ["rolled_back"]


async def test_stderr_is_drained(new_harness: NewHarness) -> None:
    harness = new_harness(prompt(["stderr", 300_000], ["text", "a"], ["end"], start=[["stderr", 300_000]]))
    assert await harness.spawn() == ACCEPTED
    assert (await harness.run()).text == "a"


async def test_a_line_of_100_mb_is_left_out_and_said_to_be(new_harness: NewHarness) -> None:
    harness = new_harness(prompt(["text", "a"], ["long_line", 100_000_000], ["text", "b"], ["end"]))
    await harness.spawn()
    sink = await harness.run()
    assert sink.text == "ab"
    (alert,) = sink.alerts
    assert "left out" in alert


async def test_text_with_halves_of_characters_and_control_characters_is_told_on(
    new_harness: NewHarness,
) -> None:
    harness = new_harness(prompt(["text", "a\ud83d\x00\x1b[31m"], ["end"]))
    await harness.spawn()
    assert (await harness.run()).text == "a\ufffd\x00\x1b[31m"


async def test_updates_keep_their_order_and_none_is_lost(new_harness: NewHarness) -> None:
    harness = new_harness(prompt(["texts", 3000, "n"], ["end"]))
    await harness.spawn()
    sink = await harness.run()
    assert sink.text == "".join(f"n{number} " for number in range(3000))


async def test_an_agent_is_not_read_while_many_bytes_of_it_wait(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_WAITING_BYTES", 10)
    waiting = inbox.Inbox()
    waiting.listening = True
    waiting.weigh(11)
    room = asyncio.create_task(waiting.room())
    await asyncio.wait({room}, timeout=0.05)
    assert not room.done()
    waiting.take()
    await room
    harness = new_harness(prompt(["texts", 3000, "n"], ["end"]))
    await harness.spawn()
    assert (await harness.run()).text == "".join(f"n{number} " for number in range(3000))


async def test_what_an_agent_says_before_its_session_is_open_is_kept_up_to_a_number(
    new_harness: NewHarness,
) -> None:
    opening = [["texts", 1000, "n"], ["answer", {"sessionId": "s-1"}]]
    harness = new_harness(prompt(["end"], session="s-1", **{"session/new": opening}))
    assert await harness.spawn() == ACCEPTED
    sink = await harness.run()
    assert sink.text == "".join(f"n{number} " for number in range(1000 - MAX_WAITING, 1000))


async def test_updates_that_come_after_the_response_belong_to_the_run(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.execution.acp.update_reader.SETTLE_S", 1.0)
    harness = new_harness(prompt(["text", "a"], ["end"], ["texts", 50, "late"]))
    await harness.spawn()
    sink = await harness.run()
    assert sink.text.startswith("alate0 ")
    assert sink.text.endswith("late49 ")
    assert sink.names[-1] == "run_end"


async def test_what_is_said_between_runs_is_not_held_back(new_harness: NewHarness) -> None:
    harness = new_harness(prompt(["end"], ["until_file", "go"], ["text", "by the way"]))
    await harness.spawn()
    sink = await harness.run()
    await asyncio.to_thread((harness.home / "go").touch)
    await sink.until(lambda: TextDone("by the way") in sink.events)
    assert sink.names.index("run_end") < sink.names.index("text_delta")


async def test_a_meta_field_named_session_id_changes_nothing(new_harness: NewHarness) -> None:
    harness = new_harness(prompt(["meta", {"session_id": "other", "update": 1}], ["text", "a"], ["end"]))
    await harness.spawn()
    assert (await harness.run()).text == "a"


async def test_unknown_updates_are_kept_and_an_unknown_stop_reason_is_no_crash(
    new_harness: NewHarness,
) -> None:
    new_kind = {"sessionUpdate": "mood_update", "mood": "fine"}
    harness = new_harness(prompt(["update", new_kind], ["end", "tea_break"]))
    await harness.spawn()
    sink = await harness.run()
    assert sink.items == [{"kind": "mood_update", "content": {"mood": "fine"}}]
    assert "tea_break" in sink.alerts[0]
    assert sink.ends == ["finished"]


async def test_usage_is_told(new_harness: NewHarness) -> None:
    usage = {"totalTokens": 9, "inputTokens": 5, "outputTokens": 4}
    harness = new_harness(prompt(["end_with", {"stopReason": "end_turn", "usage": usage}]))
    await harness.spawn()
    assert (await harness.run()).of(Usage) == [Usage(5, 4, source="agent")]


async def test_a_run_that_ends_without_an_answer_tells_the_usage_that_updates_told(
    new_harness: NewHarness,
) -> None:
    counted = {"sessionUpdate": "tool_call", "toolCallId": "c", "_meta": {"usage": {"inputTokens": 5}}}
    harness = new_harness(prompt(["update", counted], ["error", -32603, "no credit left"]))
    await harness.spawn()

    sink = await harness.run()

    assert sink.of(Usage) == [Usage(5, None, source="agent")]
    assert sink.names[-3:] == ["usage", "error", "run_end"]


async def test_a_prompt_that_is_answered_without_a_stop_reason_says_so(new_harness: NewHarness) -> None:
    harness = new_harness(prompt(["text", "done"], ["end_with", None]))
    await harness.spawn()

    sink = await harness.run()

    assert sink.alerts == ["the agent answered the prompt without a stop reason"]
    assert sink.ends == ["finished"]


async def test_updates_that_replace_each_other_are_told_once_a_second_and_the_last_one_by_the_end_of_the_run(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_throttle, "INTERVAL_S", 1000.0)
    filling = [["update", {"sessionUpdate": "usage_update", "used": used, "size": 100}] for used in range(60)]
    harness = new_harness(prompt(*filling, ["text", "done"], ["end"]))
    await harness.spawn()

    sink = await harness.run()

    assert [item["content"]["used"] for item in sink.items] == [0, 59]
    assert sink.names[-1] == "run_end"


async def test_an_update_that_was_held_back_is_told_when_its_time_has_come_though_nothing_else_comes(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_throttle, "INTERVAL_S", 0.3)
    updates = [{"sessionUpdate": "session_info_update", "title": title} for title in "abc"]
    lines = [json.dumps({"method": "session/update", "params": {"update": update}}) for update in updates]
    harness = new_harness(prompt(["end"], ["pause", 0.2], ["raw", "\n".join(lines)]))
    await harness.spawn()

    sink = await harness.run()
    await sink.until(lambda: len(sink.items) == 2)

    assert [item["content"]["title"] for item in sink.items] == ["a", "c"]


async def test_an_update_that_is_held_back_is_told_before_its_worker_stops(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_throttle, "INTERVAL_S", 1000.0)
    filling = [["update", {"sessionUpdate": "usage_update", "used": used, "size": 100}] for used in range(9)]
    harness = new_harness(prompt(*filling, ["text", "on"], ["until_cancel"]))
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.text == "on")

    await harness.backend.stop(harness.worker_id, None)

    assert [item["content"]["used"] for item in harness.sink.items] == [0, 8]


async def test_an_error_of_the_provider_that_an_agent_tells_beside_its_answer_fails_the_run(
    new_harness: NewHarness,
) -> None:
    told = [
        {
            "codex": {
                "error": {"message": "Reconnecting... 1/1", "additionalDetails": "High demand.", "willRetry": True}
            }
        },
        {"codex": {"threadStatus": {"type": "systemError"}}},
    ]
    steps = [["update", {"sessionUpdate": "session_info_update", "_meta": meta}] for meta in told]
    harness = new_harness(prompt(*steps, ["text", "High demand."], ["end"]))
    await harness.spawn()

    sink = await harness.run()

    (error,) = sink.of(ErrorRaised)
    assert (error.code, error.message) == ("provider_error", "Reconnecting... 1/1: High demand.")
    assert sink.ends == ["rolled_back"]


OTHER = {"jsonrpc": "2.0", "method": "session/update"}


def of_other(**update: Any) -> list[Any]:
    """A step in which the agent tells an update of a session of a subagent."""
    return ["raw", json.dumps({**OTHER, "params": {"sessionId": "sub-1", "update": update}})]


async def test_an_update_of_another_session_is_told_apart_with_its_id(new_harness: NewHarness) -> None:
    words = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "not mine"}}
    call = {"sessionUpdate": "tool_call", "toolCallId": "c", "status": "completed"}
    counted = {"sessionUpdate": "usage_update", "used": 3, "size": 9, "_meta": {"usage": {"inputTokens": 7}}}
    others = [of_other(**words), of_other(**call), of_other(**counted)]
    harness = new_harness(prompt(["text", "mine"], *others, ["text", " too"], ["end"]))
    await harness.spawn()

    sink = await harness.run()

    assert sink.names[:2] == ["invoke_start", "text_delta"]
    assert (sink.text, sink.ends, sink.results, sink.of(Usage)) == ("mine too", ["finished"], [], [])
    assert sink.items == [
        {"kind": "acp_session_update", "session_id": "sub-1", "content": content}
        for content in (words, call, counted)
    ]


async def test_the_updates_of_two_sessions_do_not_replace_each_other(new_harness: NewHarness) -> None:
    harness = new_harness(
        prompt(
            of_other(sessionUpdate="session_info_update", title="sub"),
            *[["update", {"sessionUpdate": "session_info_update", "title": "own"}]],
            ["end"],
        )
    )
    await harness.spawn()

    sink = await harness.run()

    assert [item["content"]["title"] for item in sink.items] == ["sub", "own"]


async def test_a_failed_prompt_is_an_error_and_the_next_one_runs(new_harness: NewHarness) -> None:
    failing = [["text", "well"], ["error", -32603, "Internal error", {"details": "no credit left"}]]
    harness = new_harness({"session/prompt": [failing, [["text", "ok"], ["end"]]]})
    await harness.spawn()
    sink = await harness.run()
    (error,) = sink.of(ErrorRaised)
    assert (error.code, error.message) == ("provider_error", "Internal error: no credit left")
    assert sink.names[-4:] == ["text_delta", "text_done", "error", "run_end"]
    assert (await harness.run()).ends == ["rolled_back", "finished"]


async def test_an_error_that_is_nested_too_deeply_fails_the_run_alone(new_harness: NewHarness) -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    harness = new_harness({"session/prompt": [[["error", -32603, "Internal error", deep]], [["end"]]]})
    await harness.spawn()
    await harness.run()
    assert (await harness.run()).ends == ["rolled_back", "finished"]
    (error,) = harness.sink.of(ErrorRaised)
    assert error.message == "Internal error"


async def test_an_exit_amid_a_run_is_told_with_its_last_words(new_harness: NewHarness) -> None:
    harness = new_harness(prompt(["text", "so"], ["leave", 3, "Segmentation fault"]))
    await harness.spawn()
    sink = await harness.run()
    assert sink.text == "so"
    assert sink.losses == [("exit", "the agent ended with status 3; stderr: Segmentation fault")]
    assert (await harness.offer()).outcome == "errored"


async def test_the_arguments_of_a_tool_that_an_exit_cuts_off_are_told(new_harness: NewHarness) -> None:
    call = {"sessionUpdate": "tool_call", "toolCallId": "c1", "title": "ls", "rawInput": {"path": "."}}
    harness = new_harness(prompt(["update", call], ["leave", 1]))
    await harness.spawn()
    sink = await harness.run()
    assert [event.json for event in sink.of(ToolCallArgsDelta)] == ['{"path":"."}']
    assert sink.losses


async def test_an_exit_between_runs_is_told(new_harness: NewHarness) -> None:
    harness = new_harness(prompt(["end"], ["pause", 0.3], ["leave", 0]))
    await harness.spawn()
    sink = await harness.run()
    await sink.until(lambda: sink.losses)
    assert sink.losses == [("exit", "the agent ended with status 0")]


async def test_an_exit_right_behind_the_response_is_told(new_harness: NewHarness) -> None:
    harness = new_harness(prompt(["text", "bye"], ["end"], ["leave", 0]))
    await harness.spawn()
    sink = await harness.run()
    await sink.until(lambda: sink.losses)
    assert sink.ends == ["finished"]
    assert sink.losses == [("exit", "the agent ended with status 0")]


async def test_what_cannot_be_passed_on_ends_the_agent_and_says_so(
    new_harness: NewHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness = new_harness(prompt(["text", "too much"], ["hang"]))
    await harness.spawn()
    harness.sink.refused = "text_delta"
    sink = await harness.run()
    assert [reason for reason, _ in sink.losses] == ["protocol"]
    assert "ValueError: refused" in caplog.text


async def test_an_agent_that_closes_its_output_and_lives_on_is_lost(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.execution.processes.line_process.STDOUT_CHECK_S", 0.2)
    harness = new_harness(prompt(["text", "a"], ["close_output"], ["hang"]))
    await harness.spawn()
    sink = await harness.run()
    assert sink.losses == [("unresponsive", "the agent was ended: it closed its output and kept running")]


async def test_a_lost_worker_can_be_spawned_again(new_harness: NewHarness) -> None:
    harness = new_harness(prompt(["leave", 1]))
    await harness.spawn()
    await harness.run()
    harness.rewrite(prompt(["text", "back"], ["end"]))
    harness.listen_anew()
    assert await harness.spawn() == ACCEPTED
    assert (await harness.run()).text == "back"


async def test_an_exit_amid_a_permission_withdraws_the_question(new_harness: NewHarness) -> None:
    ask = '{"jsonrpc":"2.0","id":7,"method":"session/request_permission","params":{"toolCall":{"toolCallId":"c"},'
    raw = ask + '"options":[{"optionId":"yes","name":"Yes","kind":"allow_once"}]}}'
    harness = new_harness(prompt(["raw", raw], ["pause", 0.3], ["leave", 1]))
    await harness.spawn()
    sink = await harness.run()
    assert len(sink.questions) == 1
    assert sink.losses == [("exit", "the agent ended with status 1")]


async def test_an_agent_that_is_silent_when_greeted_is_given_up(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.execution.session.backend.START_MARGIN_S", 30.0)
    harness = new_harness({"initialize": [["hang"]]}, start_timeout_s=0.5)
    answer = await harness.spawn()
    assert answer.outcome == "errored"
    assert "did not answer initialize in time: its start took 0.5 seconds (start_timeout_s)" in (answer.message or "")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ({"initialize": [["answer", {"protocolVersion": 2}]]}, "speaks version 2 of ACP: expected 1"),
        ({"initialize": [["answer", None]]}, "answer to initialize is not one of ACP"),
        ({"initialize": [["leave", 4, "no such model"]]}, "ended with status 4; stderr: no such model"),
        ({"initialize": [["error", -32603, "Internal error"]]}, "Internal error"),
        ({"session/new": [["answer", {"sessionId": 5}]]}, "answer to session/new is not one of ACP"),
        ({"session/new": [["error", -32000, "No key", {"message": "set X"}]]}, "No key: set X"),
    ],
)
async def test_an_agent_that_cannot_be_used_says_why(
    new_harness: NewHarness, script: dict[str, Any], why: str
) -> None:
    answer = await new_harness(script).spawn()
    assert answer.outcome == "errored"
    assert why in (answer.message or "")


async def test_a_program_that_is_no_agent_is_named_with_what_it_was_asked_and_what_to_look_at(
    new_harness: NewHarness,
) -> None:
    answer = await new_harness(command=(shutil.which("cat"),)).spawn()
    assert answer.outcome == "errored"
    assert answer.message == (
        'the agent could not be started: cat refused to open a session: Method not found: {"method":"initialize"}; '
        "check whether its command speaks ACP, and whether it needs an option for that"
    )


async def test_a_command_that_is_not_there_is_told(new_harness: NewHarness, caplog: pytest.LogCaptureFixture) -> None:
    answer = await new_harness(command=("no-such-agent",)).spawn()
    assert answer.outcome == "errored"
    assert answer.message == (
        "the agent could not be started: "
        "command: 'no-such-agent' does not exist: expected a program in PATH, or a path to one"
    )
    (logged,) = [record for record in caplog.records if "cannot start" in record.getMessage()]
    assert (vars(logged)["worker_id"], vars(logged)["program"]) == ("worker-00000001", "agent")
    answer = await new_harness(command=()).spawn()
    assert (answer.outcome, "command" in (answer.message or "")) == ("rejected", True)


async def test_without_the_library_a_spawn_says_what_to_install(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "runtimed.execution.acp.driver", None)
    answer = await new_harness().spawn()
    assert answer == BackendAnswer("unsupported", "this daemon was installed without ACP: install runtimed[acp]")


LOCKED = {
    "initialize": [["answer", {"protocolVersion": 1, "authMethods": [{"id": "api-key", "name": "API key"}]}]],
    "session/new": [["error", -32000, "Authentication required"]],
}


async def test_an_agent_that_wants_to_be_authenticated_says_what_to_configure(
    new_harness: NewHarness,
) -> None:
    answer = await new_harness(LOCKED).spawn()
    assert answer.outcome == "errored"
    assert "set auth_method of its profile to one of api-key" in (answer.message or "")


async def test_an_agent_is_authenticated_the_way_its_profile_says(new_harness: NewHarness) -> None:
    harness = new_harness({**LOCKED, "authenticate": [["unlock"], ["answer", {}]]}, auth_method="api-key")
    assert await harness.spawn() == ACCEPTED
    assert harness.heard("authenticate") == [{"methodId": "api-key"}]


async def test_ending_a_worker_leaves_nothing_of_an_agent_that_ignores_it(
    new_harness: NewHarness, tmp_path: Path
) -> None:
    mark = f"{tmp_path}/script.json"
    harness = new_harness(prompt(["ignore_end"], ["daemon"], ["text", "ready"], ["end"]))
    await harness.spawn()
    await harness.run()
    assert "while :" in str(await asyncio.to_thread(_processes, mark))
    assert await harness.backend.stop(harness.worker_id, None) == ACCEPTED
    assert await asyncio.to_thread(_processes, mark) == []


def _processes(mark: str) -> list[str]:
    found = subprocess.run(["ps", "-wweo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if mark in line]


async def test_stopping_a_worker_while_its_agent_starts_ends_both(new_harness: NewHarness) -> None:
    harness = new_harness({"initialize": [["hang"]]})
    spawning = asyncio.create_task(harness.spawn())
    while not harness.home.exists():
        await asyncio.sleep(0.01)
    await harness.backend.cancel(harness.worker_id, None)
    assert (await spawning).outcome == "errored"


def test_the_library_is_loaded_with_the_first_worker() -> None:
    code = "import sys, runtimed.execution; sys.exit(any(name in sys.modules for name in ('acp', 'pydantic')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SPIN = ["call_python", "while True: pass"]
GROW = ["call_python", "x = [bytearray(1 << 20) for _ in range(500)]; import time; time.sleep(1000)"]
FORK = ["call_python", "import os, time; [os.fork() for _ in range(10)]; time.sleep(1000)"]


@pytest.mark.parametrize(
    ("limits", "steps", "reason"),
    [
        ({"max_run_s": 0.3}, [["text", "a"], ["hang"]], "timeout"),
        ({"max_run_s": 0.3}, [["flood"]], "timeout"),
        ({"max_output_bytes": 10_000}, [["texts", 1000, "n"], ["hang"]], "output"),
        ({"max_output_bytes": 10_000}, [["call_python", "while True: raw('no message')"]], "output"),
        ({"max_cpu_s": 0.3}, [["text", "a"], SPIN], "cpu"),
        ({"max_memory_bytes": 100 << 20}, [["text", "a"], GROW], "oom"),
        ({"max_processes": 30}, [["text", "a"], FORK], "processes"),
    ],
)
async def test_an_agent_that_uses_too_much_is_ended_with_the_reason(
    new_harness: NewHarness, limits: dict[str, Any], steps: list[Any], reason: str
) -> None:
    harness = new_harness(prompt(*steps), **limits)
    assert await harness.spawn() == ACCEPTED
    sink = await harness.run()
    ((found, message),) = sink.losses
    assert found == reason
    assert next(iter(limits)) in message
    assert (await harness.offer()).outcome == "errored"


async def test_an_agent_that_is_cancelled_again_while_it_is_being_ended_is_ended(
    new_harness: NewHarness, traces: Traces
) -> None:
    harness = new_harness({"initialize": [["hang"]]}, env={"TRACE": traces.mark})
    for milliseconds in range(10):
        spawning = asyncio.create_task(harness.spawn())
        await traces.until(lambda pids: pids)
        cancelling = asyncio.create_task(harness.backend.cancel(harness.worker_id, None))
        await asyncio.sleep(milliseconds / 1000)
        await harness.backend.cancel(harness.worker_id, None)
        await cancelling
        assert (await spawning).outcome == "errored"
        assert await traces.pids() == []


DEEP = "[" * 1000 + "]" * 1000
UPDATE = '{"method": "session/update", "params": {"sessionId": "s", "update": %s}}'
DIFF = '{"sessionUpdate": "tool_call", "toolCallId": "c", "content": [{"type": "diff", "path": %s}]}'
ASK = '{"id": 5, "method": "session/request_permission", "params": {"toolCall": {}, "options": [%s]}}'


@pytest.mark.parametrize(
    "line",
    [
        UPDATE % '{"sessionUpdate": %s}',
        UPDATE % DIFF,
        ASK % '{"optionId": "yes", "kind": "allow_once", "name": %s}',
        '{"id": 99999, "error": %s}',
        '{"id": 99999, "error": {"code": 1, "message": %s}}',
    ],
)
async def test_a_structure_in_place_of_a_text_ends_nothing(new_harness: NewHarness, line: str) -> None:
    harness = new_harness(prompt(["raw", line % DEEP], ["text", "on"], ["end"]), permissions="allow")
    await harness.spawn()
    sink = await harness.run()
    assert (sink.text, sink.ends, sink.losses) == ("on", ["finished"], [])


@pytest.mark.parametrize("answer", ['"result": {"stopReason": %s}', '"error": {"code": 1, "message": %s}'])
async def test_a_structure_in_place_of_a_reason_ends_the_run_alone(new_harness: NewHarness, answer: str) -> None:
    code = f"""raw('{{"id": %d, {answer % DEEP}}}' % state["request"])"""
    harness = new_harness({"session/prompt": [[["call_python", code]], [["end"]]]})
    await harness.spawn()
    await harness.run()
    sink = await harness.run()
    assert (len(sink.ends), sink.ends[-1], sink.losses) == (2, "finished", [])


async def test_many_rounds_leave_no_descriptor_no_task_and_no_process(
    new_harness: NewHarness, traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "runtimed.execution.processes.resource_monitor.INTERVAL_S", 1_000.0
    )  # a canceled look still has a file open
    harness = new_harness(env={"TRACE": traces.mark})
    held = []
    for _ in range(10):
        assert await harness.spawn() == ACCEPTED
        await harness.run()
        await harness.backend.stop(harness.worker_id, None)
        gc.collect()
        held.append((len(await asyncio.to_thread(os.listdir, "/proc/self/fd")), len(asyncio.all_tasks())))
    assert held[-1] == held[1]
    assert await traces.pids() == []
