"""Ending a run while the Worker goes on."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.acp import handshake
from runtimed.execution.acp.saved_session import SavedSession, save
from runtimed.model.event import ErrorRaised
from runtimed.model.worker import TaskIntent
from tests.execution.acp.conftest import NewHarness

ACCEPTED = BackendAnswer("accepted")
CALL = {"sessionUpdate": "tool_call", "toolCallId": "c1", "title": "sleep", "status": "in_progress"}
THEN = [["text", "again"], ["end"]]


async def test_a_run_is_over_when_the_interrupt_returns_and_the_next_one_begins(
    new_harness: NewHarness,
) -> None:
    first = [["update", CALL], ["until_cancel"], ["end", "cancelled"]]
    harness = new_harness({"session/prompt": [first, THEN]}, stop_grace_s=30)
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: "tool_call_start" in harness.sink.names)
    assert await harness.backend.interrupt(harness.worker_id) == ACCEPTED
    assert harness.sink.ends == ["rolled_back"]
    assert [(result.summary, result.is_error) for result in harness.sink.results] == [("cancelled", True)]
    assert harness.sink.alerts == ["the run was interrupted"]
    await harness.run()
    assert harness.sink.text == "again"
    assert len(harness.heard("initialize")) == 1


async def test_an_interrupt_while_nothing_runs_changes_nothing(new_harness: NewHarness) -> None:
    harness = new_harness()
    assert await harness.backend.interrupt(harness.worker_id) == ACCEPTED
    await harness.spawn()
    assert await harness.backend.interrupt(harness.worker_id) == ACCEPTED
    assert (await harness.run()).text == "hello"


async def test_an_interrupt_right_behind_the_start_ends_the_run(new_harness: NewHarness) -> None:
    harness = new_harness({"session/prompt": [[["until_cancel"], ["end", "cancelled"]]]}, stop_grace_s=30)
    await harness.spawn()
    await harness.begin()
    assert await harness.backend.interrupt(harness.worker_id) == ACCEPTED
    assert harness.sink.ends == ["rolled_back"]
    assert len(harness.heard("initialize")) == 1


async def test_an_interrupt_right_behind_the_start_takes_nothing_from_the_introduction(
    new_harness: NewHarness,
) -> None:
    harness = new_harness()
    await harness.spawn(TaskIntent("Mend the roof"))
    await harness.begin("one")
    await harness.backend.interrupt(harness.worker_id)
    await harness.run("two")
    (told,) = harness.heard("session/prompt")
    assert [block["text"] for block in told["prompt"]] == ["Your objective: Mend the roof", "two"]


@pytest.mark.parametrize("amid", [False, True])
async def test_an_introduction_that_an_interrupt_kept_back_is_made_after_a_restart(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch, amid: bool
) -> None:
    loop, keeping, free = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def slowly(folder: Path, saved: SavedSession) -> None:
        save(folder, saved)
        if saved.introduced:
            loop.call_soon_threadsafe(keeping.set)
            free.wait(10)

    monkeypatch.setattr(handshake, "save", slowly)
    harness = new_harness({"session": "s-1", "capabilities": {"loadSession": True}}, stop_grace_s=30)
    await harness.spawn(TaskIntent("Mend the roof"))
    await harness.begin("one")
    if amid:
        await keeping.wait()
    interrupting = asyncio.create_task(harness.backend.interrupt(harness.worker_id))
    await asyncio.sleep(0)
    free.set()
    assert await interrupting == ACCEPTED
    await harness.backend.stop(harness.worker_id, None)
    harness.listen_anew()
    await harness.spawn(TaskIntent("Mend the roof"), history=())
    await harness.run("two")
    (told,) = harness.heard("session/prompt")
    assert [block["text"] for block in told["prompt"]] == ["Your objective: Mend the roof", "two"]


async def test_an_interrupt_of_an_input_whose_agent_was_lost_before_its_start_returns(
    new_harness: NewHarness,
) -> None:
    harness = new_harness({"session/prompt": [[["end"], ["until_file", "go"], ["leave", 1]]]})
    await harness.spawn()
    await harness.run()
    assert await harness.offer() == ACCEPTED
    await asyncio.to_thread((harness.home / "go").touch)
    await harness.sink.until(lambda: harness.sink.losses)
    harness.backend.start(harness.worker_id, "input-2")
    async with asyncio.timeout(10):
        assert await harness.backend.interrupt(harness.worker_id) == ACCEPTED


async def test_an_agent_that_answers_a_cancel_with_an_error_was_interrupted_nevertheless(
    new_harness: NewHarness,
) -> None:
    harness = new_harness({"session/prompt": [[["text", "a"], ["until_cancel"], ["error", -32603, "aborted"]]]})
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.text)
    await harness.backend.interrupt(harness.worker_id)
    assert harness.sink.of(ErrorRaised) == []
    assert harness.sink.ends == ["rolled_back"]


@pytest.mark.parametrize(
    ("capabilities", "method"),
    [({"loadSession": True}, "session/load"), ({"sessionCapabilities": {"resume": {}}}, "session/resume")],
)
async def test_an_agent_that_ignores_the_cancel_is_started_again_with_its_session(
    new_harness: NewHarness, capabilities: dict[str, Any], method: str
) -> None:
    script = {"session": "s-1", "capabilities": capabilities}
    harness = new_harness(
        {**script, "session/prompt": [[["update", CALL], ["ignore_end"], ["until_cancel"], ["hang"]]]},
        stop_grace_s=2,
    )
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: "tool_call_start" in harness.sink.names)
    harness.rewrite({**script, "session/prompt": [THEN]})
    assert await harness.backend.interrupt(harness.worker_id) == ACCEPTED
    assert harness.sink.ends == ["rolled_back"]
    assert [result.summary for result in harness.sink.results] == ["cancelled"]
    await harness.run()
    assert harness.sink.text == "again"
    assert harness.sink.alerts == ["the agent did not end its run within 2 seconds: it is started again"]
    assert [told["sessionId"] for told in harness.heard(method)] == ["s-1"]
    assert [told["sessionId"] for told in harness.heard("session/cancel")] == ["s-1"]


async def test_an_agent_that_talks_on_and_on_is_started_again_too(new_harness: NewHarness) -> None:
    harness = new_harness({"session/prompt": [[["ignore_end"], ["flood"]]]}, stop_grace_s=0.2)
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.text)
    harness.rewrite({"session/prompt": [THEN]})
    assert await harness.backend.interrupt(harness.worker_id) == ACCEPTED
    assert harness.sink.ends == ["rolled_back"]
    assert (await harness.run()).text.endswith("again")


async def test_an_agent_that_cannot_be_started_again_is_lost(new_harness: NewHarness) -> None:
    harness = new_harness({"session/prompt": [[["ignore_end"], ["text", "a"], ["hang"]]]}, stop_grace_s=0.3)
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.text)
    harness.rewrite({"initialize": [["leave", 1, "no more"]]})
    await harness.backend.interrupt(harness.worker_id)
    await harness.sink.until(lambda: harness.sink.losses)
    assert harness.sink.ends == ["rolled_back"]
    ((reason, message),) = harness.sink.losses
    assert reason == "unresponsive"
    assert message.endswith("ended with status 1; stderr: no more")


@pytest.mark.parametrize("status", [0, 1])
async def test_an_agent_that_exits_when_it_is_cancelled_is_started_again_and_its_session_loaded(
    new_harness: NewHarness, status: int
) -> None:
    script = {"session": "s-1", "capabilities": {"loadSession": True}}
    first = [["update", CALL], ["until_cancel"], ["leave", status]]
    harness = new_harness({**script, "session/prompt": [first]}, stop_grace_s=30)
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: "tool_call_start" in harness.sink.names)
    harness.rewrite({**script, "session/prompt": [THEN]})
    assert await harness.backend.interrupt(harness.worker_id) == ACCEPTED
    assert harness.sink.ends == ["rolled_back"]
    assert [result.summary for result in harness.sink.results] == ["cancelled"]
    await harness.run()
    assert harness.sink.text == "again"
    assert harness.sink.alerts == ["the run was interrupted and the agent ended: it is started again"]
    assert [told["sessionId"] for told in harness.heard("session/load")] == ["s-1"]
    assert harness.sink.losses == []
