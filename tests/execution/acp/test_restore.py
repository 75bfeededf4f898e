"""Bringing a Worker back: its session is found again, and nothing is said twice."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.acp.memory import recall
from runtimed.model.worker import TaskIntent

ACCEPTED = BackendAnswer("accepted")
DIFFERS = "what the agent remembers is not what the transcript has"
LOAD = {"loadSession": True}
RESUME = {"sessionCapabilities": {"resume": {}}}


def user(text: str) -> list[Any]:
    return ["text", text, "user_message_chunk"]


def loading(*replay: list[Any], **script: Any) -> dict[str, Any]:
    """A script of an agent that replays this when its session is loaded."""
    steps = [*replay, ["answer", None]]
    return {"session": "s-1", "capabilities": LOAD, "session/load": steps, **script}


async def test_a_session_is_resumed_rather_than_loaded(new_bench: Callable[..., Any]) -> None:
    bench = new_bench({"session": "s-1", "capabilities": LOAD | RESUME})
    await bench.spawn()
    await bench.run("one")
    assert await bench.restart(("one",)) == ACCEPTED
    assert bench.heard("session/resume") == [{"sessionId": "s-1", "cwd": str(bench.home), "mcpServers": []}]
    assert bench.heard("session/load") == []
    assert (await bench.run("two")).alerts == []
    assert len(bench.heard("session/new")) == 1


async def test_a_replay_is_not_said_again(new_bench: Callable[..., Any]) -> None:
    replay = [user("Your purpose: x"), user("one"), ["text", "hello"], ["update", {"sessionUpdate": "plan"}]]
    bench = new_bench(loading(*replay, user("two"), ["texts", 500, "n"]))
    await bench.spawn()
    assert await bench.restart(("one", "two")) == ACCEPTED
    sink = await bench.run("three")
    assert sink.names == ["invoke_start", "text_delta", "text_done", "run_end"]
    assert (sink.text, sink.alerts) == ("hello", [])


async def test_a_replay_of_another_session_is_neither_said_again_nor_taken_for_ones_own(
    new_bench: Callable[..., Any],
) -> None:
    other = {"sessionId": "s-2", "update": {"sessionUpdate": "user_message_chunk", "content": {"text": "two"}}}
    message = json.dumps({"jsonrpc": "2.0", "method": "session/update", "params": other})
    bench = new_bench(loading(user("one"), ["raw", message]))
    await bench.spawn()
    assert await bench.restart(("one",)) == ACCEPTED
    sink = await bench.run("three")
    assert sink.names == ["invoke_start", "text_delta", "text_done", "run_end"]


async def test_a_replay_that_comes_behind_the_response_is_not_said_again_either(
    new_bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.execution.acp.opening.REPLAY_SETTLE_S", 1.0)
    bench = new_bench({"session": "s-1", "capabilities": LOAD, "session/load": [["answer", None], user("one")]})
    await bench.spawn()
    await bench.restart(("one",))
    assert (await bench.run()).alerts == []


@pytest.mark.parametrize(
    "replay", [[], [user("one")], [user("two"), user("one")], [user("one"), user("two"), user("three")]]
)
async def test_an_agent_that_remembers_something_else_is_told_of(
    new_bench: Callable[..., Any], replay: list[Any]
) -> None:
    bench = new_bench(loading(*replay))
    await bench.spawn()
    assert await bench.restart(("one", "two")) == ACCEPTED
    sink = await bench.run()
    assert sink.alerts == [DIFFERS]


async def test_an_input_that_the_agent_never_learned_of_is_told_of_once(new_bench: Callable[..., Any]) -> None:
    bench = new_bench(loading(user("one")))
    await bench.spawn()
    await bench.restart(("one", "cut"))
    assert (await bench.run("two")).alerts == [DIFFERS]
    bench.rewrite(loading(user("one"), user("two")))
    await bench.restart(("one", "cut", "two"))
    assert (await bench.run("three")).alerts == []
    bench.rewrite(loading(user("one"), user("two"), user("three")))
    await bench.restart(("one", "cut", "two", "three"))
    assert (await bench.run()).alerts == []


@pytest.mark.parametrize(
    "replay",
    [[], [user("two")], [user("one")], [user("one"), user("other")], [user("one"), user("two"), user("other")]],
)
async def test_another_difference_is_told_of_although_one_is_known(
    new_bench: Callable[..., Any], replay: list[Any]
) -> None:
    bench = new_bench(loading(user("one")))
    await bench.spawn()
    await bench.restart(("one", "cut"))
    assert (await bench.run("two")).alerts == [DIFFERS]
    bench.rewrite(loading(*replay))
    await bench.restart(("one", "cut", "two"))
    assert (await bench.run()).alerts == [DIFFERS]


async def test_what_an_agent_remembers_besides_is_told_of_although_nothing_was_said_since(
    new_bench: Callable[..., Any],
) -> None:
    bench = new_bench(loading(user("one")))
    await bench.spawn()
    for replay, alerts in (["one"], [DIFFERS]), (["one"], []), (["one", "other"], [DIFFERS]), (["one", "other"], []):
        bench.rewrite(loading(*map(user, replay)))
        await bench.restart(("one", "cut"))
        assert (await bench.run("unheard")).alerts == alerts


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
    new_bench: Callable[..., Any], script: dict[str, Any], why: str
) -> None:
    bench = new_bench(script)
    await bench.spawn(TaskIntent("Mend the roof"))
    await bench.run("one")
    await bench.backend.stop(bench.worker_id, None)
    bench.listen_anew()
    assert await bench.spawn(TaskIntent("Mend the roof"), history=()) == ACCEPTED
    sink = await bench.run("two")
    assert sink.alerts == [f"the agent does not know any more what was said: {why}"]
    assert len(bench.heard("session/new")) == 2
    assert len(bench.heard("session/prompt")[-1]["prompt"]) == 2


async def test_a_new_session_for_an_agent_that_was_told_nothing_yet_is_no_matter(
    new_bench: Callable[..., Any],
) -> None:
    bench = new_bench()
    await bench.spawn()
    assert await bench.restart() == ACCEPTED
    assert (await bench.run()).alerts == []
    assert len(bench.heard("session/new")) == 2


async def test_a_refused_resume_is_followed_by_a_load(new_bench: Callable[..., Any]) -> None:
    script = {"capabilities": LOAD | RESUME, "session/resume": [["error", -32603, "no"]], "session": "s-1"}
    bench = new_bench(script)
    await bench.spawn()
    await bench.restart()
    assert (await bench.run()).alerts == []
    assert len(bench.heard("session/load")) == 1


async def test_the_objective_is_not_said_again_to_a_session_that_knows_it(new_bench: Callable[..., Any]) -> None:
    bench = new_bench({"session": "s-1", "capabilities": RESUME})
    await bench.spawn(TaskIntent("Mend the roof"))
    await bench.run("one")
    await bench.backend.stop(bench.worker_id, None)
    await bench.spawn(TaskIntent("Mend the roof"), history=())
    await bench.run("two")
    assert [len(told["prompt"]) for told in bench.heard("session/prompt")] == [2, 1]


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"session_id": 5, "introduced": true}', b"\xff", b"link", None]
)
async def test_a_lost_or_damaged_session_file_is_said_to_be_so(
    new_bench: Callable[..., Any], damage: bytes | None
) -> None:
    bench = new_bench({"session": "s-1", "capabilities": RESUME})
    await bench.spawn()
    path = bench.folder / "session.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    if damage == b"link":
        (bench.home / "planted.json").write_bytes(b'{"session_id": "s-2", "introduced": true}')
        path.symlink_to(bench.home / "planted.json")
    elif damage is not None:
        path.write_bytes(damage)
    assert await bench.restart(("one",)) == ACCEPTED
    sink = await bench.run()
    assert sink.alerts == ["the agent does not know any more what was said: its session is not known"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_session_file_that_is_no_file_is_none_and_costs_no_descriptor(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "session.json")
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert recall(tmp_path) is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before
