"""Bringing a Worker back: its session is found again, and nothing is said twice."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.acp.saved_session import load
from runtimed.model.worker import TaskIntent
from tests.execution.acp.conftest import NewHarness

ACCEPTED = BackendAnswer("accepted")
DIFFERS = "the memory of the agent differs from the transcript"
LOAD = {"loadSession": True}
RESUME: dict[str, Any] = {"sessionCapabilities": {"resume": {}}}


def user(text: str) -> list[Any]:
    return ["text", text, "user_message_chunk"]


def loading(*replay: list[Any], **script: Any) -> dict[str, Any]:
    """A script of an agent that replays this when its session is loaded."""
    steps = [*replay, ["answer", None]]
    return {"session": "s-1", "capabilities": LOAD, "session/load": steps, **script}


async def test_a_session_is_resumed_rather_than_loaded(new_harness: NewHarness) -> None:
    harness = new_harness({"session": "s-1", "capabilities": LOAD | RESUME})
    await harness.spawn()
    await harness.run("one")
    assert await harness.restart(("one",)) == ACCEPTED
    assert harness.heard("session/resume") == [{"sessionId": "s-1", "cwd": str(harness.home), "mcpServers": []}]
    assert harness.heard("session/load") == []
    assert (await harness.run("two")).alerts == []
    assert len(harness.heard("session/new")) == 1


async def test_a_replay_is_not_said_again(new_harness: NewHarness) -> None:
    replay = [user("Your purpose: x"), user("one"), ["text", "hello"], ["update", {"sessionUpdate": "plan"}]]
    harness = new_harness(loading(*replay, user("two"), ["texts", 500, "n"]))
    await harness.spawn()
    assert await harness.restart(("one", "two")) == ACCEPTED
    sink = await harness.run("three")
    assert sink.names == ["invoke_start", "text_delta", "text_done", "run_end"]
    assert (sink.text, sink.alerts) == ("hello", [])


async def test_a_replay_of_another_session_is_neither_said_again_nor_taken_for_ones_own(
    new_harness: NewHarness,
) -> None:
    other = {"sessionId": "s-2", "update": {"sessionUpdate": "user_message_chunk", "content": {"text": "two"}}}
    message = json.dumps({"jsonrpc": "2.0", "method": "session/update", "params": other})
    harness = new_harness(loading(user("one"), ["raw", message]))
    await harness.spawn()
    assert await harness.restart(("one",)) == ACCEPTED
    sink = await harness.run("three")
    assert sink.names == ["invoke_start", "text_delta", "text_done", "run_end"]


async def test_a_replay_that_comes_behind_the_response_is_not_said_again_either(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.execution.acp.handshake.REPLAY_SETTLE_S", 1.0)
    harness = new_harness({"session": "s-1", "capabilities": LOAD, "session/load": [["answer", None], user("one")]})
    await harness.spawn()
    await harness.restart(("one",))
    assert (await harness.run()).alerts == []


@pytest.mark.parametrize(
    "replay", [[], [user("one")], [user("two"), user("one")], [user("one"), user("two"), user("three")]]
)
async def test_an_agent_that_remembers_something_else_is_told_of(new_harness: NewHarness, replay: list[Any]) -> None:
    harness = new_harness(loading(*replay))
    await harness.spawn()
    assert await harness.restart(("one", "two")) == ACCEPTED
    sink = await harness.run()
    assert sink.alerts == [DIFFERS]


async def test_an_input_that_the_agent_never_learned_of_is_told_of_once(new_harness: NewHarness) -> None:
    harness = new_harness(loading(user("one")))
    await harness.spawn()
    await harness.restart(("one", "cut"))
    assert (await harness.run("two")).alerts == [DIFFERS]
    harness.rewrite(loading(user("one"), user("two")))
    await harness.restart(("one", "cut", "two"))
    assert (await harness.run("three")).alerts == []
    harness.rewrite(loading(user("one"), user("two"), user("three")))
    await harness.restart(("one", "cut", "two", "three"))
    assert (await harness.run()).alerts == []


@pytest.mark.parametrize(
    "replay",
    [[], [user("two")], [user("one")], [user("one"), user("other")], [user("one"), user("two"), user("other")]],
)
async def test_another_difference_is_told_of_although_one_is_known(
    new_harness: NewHarness, replay: list[Any]
) -> None:
    harness = new_harness(loading(user("one")))
    await harness.spawn()
    await harness.restart(("one", "cut"))
    assert (await harness.run("two")).alerts == [DIFFERS]
    harness.rewrite(loading(*replay))
    await harness.restart(("one", "cut", "two"))
    assert (await harness.run()).alerts == [DIFFERS]


async def test_what_an_agent_remembers_besides_is_told_of_although_nothing_was_said_since(
    new_harness: NewHarness,
) -> None:
    harness = new_harness(loading(user("one")))
    await harness.spawn()
    for replay, alerts in (["one"], [DIFFERS]), (["one"], []), (["one", "other"], [DIFFERS]), (["one", "other"], []):
        harness.rewrite(loading(*map(user, replay)))
        await harness.restart(("one", "cut"))
        assert (await harness.run("unheard")).alerts == alerts


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ({}, "it can neither resume nor load a session"),
        (
            {"capabilities": RESUME, "session/resume": [["error", -32602, "Unknown session"]]},
            "it refused session/resume: Unknown session",
        ),
    ],
)
async def test_where_the_session_is_gone_a_new_one_begins_with_the_objective_and_an_alert(
    new_harness: NewHarness, script: dict[str, Any], why: str
) -> None:
    harness = new_harness(script)
    await harness.spawn(TaskIntent("Mend the roof"))
    await harness.run("one")
    await harness.backend.stop(harness.worker_id, None)
    harness.listen_anew()
    assert await harness.spawn(TaskIntent("Mend the roof"), history=()) == ACCEPTED
    sink = await harness.run("two")
    assert sink.alerts == [f"the agent has lost the conversation: {why}"]
    assert len(harness.heard("session/new")) == 2
    assert len(harness.heard("session/prompt")[-1]["prompt"]) == 2


async def test_a_new_session_for_an_agent_that_was_told_nothing_yet_is_no_matter(
    new_harness: NewHarness,
) -> None:
    harness = new_harness()
    await harness.spawn()
    assert await harness.restart() == ACCEPTED
    assert (await harness.run()).alerts == []
    assert len(harness.heard("session/new")) == 2


async def test_a_refused_resume_is_followed_by_a_load(new_harness: NewHarness) -> None:
    script = {"capabilities": LOAD | RESUME, "session/resume": [["error", -32603, "no"]], "session": "s-1"}
    harness = new_harness(script)
    await harness.spawn()
    await harness.restart()
    assert (await harness.run()).alerts == []
    assert len(harness.heard("session/load")) == 1


async def test_the_objective_is_not_said_again_to_a_session_that_knows_it(new_harness: NewHarness) -> None:
    harness = new_harness({"session": "s-1", "capabilities": RESUME})
    await harness.spawn(TaskIntent("Mend the roof"))
    await harness.run("one")
    await harness.backend.stop(harness.worker_id, None)
    await harness.spawn(TaskIntent("Mend the roof"), history=())
    await harness.run("two")
    assert [len(told["prompt"]) for told in harness.heard("session/prompt")] == [2, 1]


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"session_id": 5, "introduced": true}', b"\xff", b"link", None]
)
async def test_a_lost_or_damaged_session_file_is_said_to_be_so(new_harness: NewHarness, damage: bytes | None) -> None:
    harness = new_harness({"session": "s-1", "capabilities": RESUME})
    await harness.spawn()
    path = harness.folder / "session.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    if damage == b"link":
        (harness.home / "planted.json").write_bytes(b'{"session_id": "s-2", "introduced": true}')
        path.symlink_to(harness.home / "planted.json")
    elif damage is not None:
        path.write_bytes(damage)
    assert await harness.restart(("one",)) == ACCEPTED
    sink = await harness.run()
    assert sink.alerts == ["the agent has lost the conversation: its session is not known"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_session_file_that_is_no_file_is_none_and_costs_no_descriptor(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "session.json")
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert load(tmp_path) is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before
