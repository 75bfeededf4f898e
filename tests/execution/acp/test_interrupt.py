"""Ending a run while the Worker goes on."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.acp import opening
from runtimed.execution.acp.memory import Memory, keep
from runtimed.model.event import ErrorRaised
from runtimed.model.worker import TaskIntent

ACCEPTED = BackendAnswer("accepted")
CALL = {"sessionUpdate": "tool_call", "toolCallId": "c1", "title": "sleep", "status": "in_progress"}
THEN = [["text", "again"], ["end"]]


async def test_a_run_is_over_when_the_interrupt_returns_and_the_next_one_begins(
    new_bench: Callable[..., Any],
) -> None:
    first = [["update", CALL], ["until_cancel"], ["end", "cancelled"]]
    bench = new_bench({"session/prompt": [first, THEN]}, stop_grace_s=30)
    await bench.spawn()
    await bench.begin()
    await bench.sink.until(lambda: "tool_call_start" in bench.sink.names)
    assert await bench.backend.interrupt(bench.worker_id) == ACCEPTED
    assert bench.sink.ends == ["rolled_back"]
    assert [(result.summary, result.is_error) for result in bench.sink.results] == [("cancelled", True)]
    assert bench.sink.alerts == ["the run was interrupted"]
    await bench.run()
    assert bench.sink.text == "again"
    assert len(bench.heard("initialize")) == 1


async def test_an_interrupt_while_nothing_runs_changes_nothing(new_bench: Callable[..., Any]) -> None:
    bench = new_bench()
    assert await bench.backend.interrupt(bench.worker_id) == ACCEPTED
    await bench.spawn()
    assert await bench.backend.interrupt(bench.worker_id) == ACCEPTED
    assert (await bench.run()).text == "hello"


async def test_an_interrupt_right_behind_the_start_ends_the_run(new_bench: Callable[..., Any]) -> None:
    bench = new_bench({"session/prompt": [[["until_cancel"], ["end", "cancelled"]]]}, stop_grace_s=30)
    await bench.spawn()
    await bench.begin()
    assert await bench.backend.interrupt(bench.worker_id) == ACCEPTED
    assert bench.sink.ends == ["rolled_back"]
    assert len(bench.heard("initialize")) == 1


async def test_an_interrupt_right_behind_the_start_takes_nothing_from_the_introduction(
    new_bench: Callable[..., Any],
) -> None:
    bench = new_bench()
    await bench.spawn(TaskIntent("Mend the roof"))
    await bench.begin("one")
    await bench.backend.interrupt(bench.worker_id)
    await bench.run("two")
    (told,) = bench.heard("session/prompt")
    assert [block["text"] for block in told["prompt"]] == ["Your objective: Mend the roof", "two"]


@pytest.mark.parametrize("amid", [False, True])
async def test_an_introduction_that_an_interrupt_kept_back_is_made_after_a_restart(
    new_bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, amid: bool
) -> None:
    loop, keeping, free = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def slowly(folder: Path, memory: Memory) -> None:
        keep(folder, memory)
        if memory.introduced:
            loop.call_soon_threadsafe(keeping.set)
            free.wait(10)

    monkeypatch.setattr(opening, "keep", slowly)
    bench = new_bench({"session": "s-1", "capabilities": {"loadSession": True}}, stop_grace_s=30)
    await bench.spawn(TaskIntent("Mend the roof"))
    await bench.begin("one")
    if amid:
        await keeping.wait()
    interrupting = asyncio.create_task(bench.backend.interrupt(bench.worker_id))
    await asyncio.sleep(0)
    free.set()
    assert await interrupting == ACCEPTED
    await bench.backend.stop(bench.worker_id, None)
    bench.listen_anew()
    await bench.spawn(TaskIntent("Mend the roof"), history=())
    await bench.run("two")
    (told,) = bench.heard("session/prompt")
    assert [block["text"] for block in told["prompt"]] == ["Your objective: Mend the roof", "two"]


async def test_an_interrupt_of_an_input_whose_agent_was_lost_before_its_start_returns(
    new_bench: Callable[..., Any],
) -> None:
    bench = new_bench({"session/prompt": [[["end"], ["until_file", "go"], ["leave", 1]]]})
    await bench.spawn()
    await bench.run()
    assert await bench.offer() == ACCEPTED
    await asyncio.to_thread((bench.home / "go").touch)
    await bench.sink.until(lambda: bench.sink.losses)
    bench.backend.start(bench.worker_id, "input-2")
    async with asyncio.timeout(10):
        assert await bench.backend.interrupt(bench.worker_id) == ACCEPTED


async def test_an_agent_that_answers_a_cancel_with_an_error_was_interrupted_nevertheless(
    new_bench: Callable[..., Any],
) -> None:
    bench = new_bench({"session/prompt": [[["text", "a"], ["until_cancel"], ["error", -32603, "aborted"]]]})
    await bench.spawn()
    await bench.begin()
    await bench.sink.until(lambda: bench.sink.text)
    await bench.backend.interrupt(bench.worker_id)
    assert bench.sink.of(ErrorRaised) == []
    assert bench.sink.ends == ["rolled_back"]


@pytest.mark.parametrize(
    ("capabilities", "method"),
    [({"loadSession": True}, "session/load"), ({"sessionCapabilities": {"resume": {}}}, "session/resume")],
)
async def test_an_agent_that_ignores_the_cancel_is_started_again_with_its_session(
    new_bench: Callable[..., Any], capabilities: dict[str, Any], method: str
) -> None:
    script = {"session": "s-1", "capabilities": capabilities}
    bench = new_bench(
        {**script, "session/prompt": [[["update", CALL], ["ignore_end"], ["until_cancel"], ["hang"]]]},
        stop_grace_s=2,
    )
    await bench.spawn()
    await bench.begin()
    await bench.sink.until(lambda: "tool_call_start" in bench.sink.names)
    bench.rewrite({**script, "session/prompt": [THEN]})
    assert await bench.backend.interrupt(bench.worker_id) == ACCEPTED
    assert bench.sink.ends == ["rolled_back"]
    assert [result.summary for result in bench.sink.results] == ["cancelled"]
    await bench.run()
    assert bench.sink.text == "again"
    assert bench.sink.alerts == ["the agent did not end its run within 2 seconds: it is started again"]
    assert [told["sessionId"] for told in bench.heard(method)] == ["s-1"]
    assert [told["sessionId"] for told in bench.heard("session/cancel")] == ["s-1"]


async def test_an_agent_that_talks_on_and_on_is_started_again_too(new_bench: Callable[..., Any]) -> None:
    bench = new_bench({"session/prompt": [[["ignore_end"], ["flood"]]]}, stop_grace_s=0.2)
    await bench.spawn()
    await bench.begin()
    await bench.sink.until(lambda: bench.sink.text)
    bench.rewrite({"session/prompt": [THEN]})
    assert await bench.backend.interrupt(bench.worker_id) == ACCEPTED
    assert bench.sink.ends == ["rolled_back"]
    assert (await bench.run()).text.endswith("again")


async def test_an_agent_that_cannot_be_started_again_is_lost(new_bench: Callable[..., Any]) -> None:
    bench = new_bench({"session/prompt": [[["ignore_end"], ["text", "a"], ["hang"]]]}, stop_grace_s=0.3)
    await bench.spawn()
    await bench.begin()
    await bench.sink.until(lambda: bench.sink.text)
    bench.rewrite({"initialize": [["leave", 1, "no more"]]})
    await bench.backend.interrupt(bench.worker_id)
    await bench.sink.until(lambda: bench.sink.losses)
    assert bench.sink.ends == ["rolled_back"]
    ((reason, message),) = bench.sink.losses
    assert reason == "unresponsive"
    assert message.endswith("ended with status 1; its last words: no more")


@pytest.mark.parametrize("status", [0, 1])
async def test_an_agent_that_exits_when_it_is_cancelled_is_started_again_and_its_session_loaded(
    new_bench: Callable[..., Any], status: int
) -> None:
    script = {"session": "s-1", "capabilities": {"loadSession": True}}
    first = [["update", CALL], ["until_cancel"], ["leave", status]]
    bench = new_bench({**script, "session/prompt": [first]}, stop_grace_s=30)
    await bench.spawn()
    await bench.begin()
    await bench.sink.until(lambda: "tool_call_start" in bench.sink.names)
    bench.rewrite({**script, "session/prompt": [THEN]})
    assert await bench.backend.interrupt(bench.worker_id) == ACCEPTED
    assert bench.sink.ends == ["rolled_back"]
    assert [result.summary for result in bench.sink.results] == ["cancelled"]
    await bench.run()
    assert bench.sink.text == "again"
    assert bench.sink.alerts == ["the run was interrupted and the agent ended: it is started again"]
    assert [told["sessionId"] for told in bench.heard("session/load")] == ["s-1"]
    assert bench.sink.losses == []
