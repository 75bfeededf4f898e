"""What an agent is asked to do with its session when its Worker stops or is deleted."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.execution.acp.conftest import ACCEPTED, Harness, NewHarness, Roll

ABLE: dict[str, Any] = {"sessionCapabilities": {"close": {}, "delete": {}}}
SCRIPT = {
    "capabilities": ABLE,
    "session": "s-1",
    "session/close": [["answer", {}]],
    "session/delete": [["answer", {}]],
}


def methods(harness: Harness) -> list[str]:
    """The methods that the agents of a Worker were told, in order."""
    lines = Path(harness.home.parent.parent / "heard.jsonl").read_text().splitlines()
    return [message["method"] for message in map(json.loads, lines) if "method" in message]


async def test_a_stop_closes_the_session_and_a_cancel_does_not(new_harness: NewHarness) -> None:
    harness = new_harness(SCRIPT, stop_grace_s=30)
    await harness.spawn()
    await harness.backend.stop(harness.worker_id, None)
    assert harness.heard("session/close") == [{"sessionId": "s-1"}]

    await harness.spawn()
    await harness.backend.cancel(harness.worker_id, None)

    assert len(harness.heard("session/close")) == 1


async def test_a_stop_amid_a_run_cancels_it_before_it_closes_the_session(new_harness: NewHarness) -> None:
    prompt = [[["text", "go"], ["until_cancel"], ["end", "cancelled"]]]
    harness = new_harness({**SCRIPT, "session/prompt": prompt}, stop_grace_s=30)
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.text)

    assert await harness.backend.stop(harness.worker_id, None) == ACCEPTED

    assert methods(harness)[-3:] == ["session/prompt", "session/cancel", "session/close"]


@pytest.mark.parametrize(
    "closing", [[["error", -32603, "no"]], [["hang"]], [["leave", 1]], [["texts", 1000, "x" * 1000], ["answer", {}]]]
)
async def test_an_agent_that_cannot_close_its_session_ends_all_the_same(
    new_harness: NewHarness, closing: list[Any]
) -> None:
    harness = new_harness({**SCRIPT, "session/close": closing}, stop_grace_s=2)
    await harness.spawn()

    assert await harness.backend.stop(harness.worker_id, None) == ACCEPTED


async def test_the_deletion_of_a_worker_deletes_its_session_and_leaves_no_process(
    new_harness: NewHarness,
) -> None:
    harness = new_harness({**SCRIPT, "start": [["enroll"]]}, stop_grace_s=30)
    roll = Roll(harness.home.parent.parent)
    await harness.spawn()
    await harness.backend.stop(harness.worker_id, None)

    await harness.backend.delete(harness.worker_id)

    await harness.backend.delete(harness.worker_id)

    first, _ = roll.names
    assert harness.heard("session/delete") == [{"sessionId": f"session-{first}"}]
    assert all(map(roll.is_gone, roll.names))


@pytest.mark.parametrize(
    ("script", "spawned"),
    [({**SCRIPT, "capabilities": {}}, True), (SCRIPT, False)],
    ids=["an agent that can't delete", "a Worker that never ran"],
)
async def test_no_agent_is_started_where_there_is_nothing_to_delete(
    new_harness: NewHarness, script: dict[str, Any], *, spawned: bool
) -> None:
    harness = new_harness({**script, "start": [["enroll"]]})
    if spawned:
        await harness.spawn()
        await harness.backend.stop(harness.worker_id, None)

    await harness.backend.delete(harness.worker_id)

    assert len(Roll(harness.home.parent.parent).names) == spawned


@pytest.mark.parametrize("deleting", [[["error", -32603, "no"]], [["leave", 1]]])
async def test_a_session_that_the_agent_does_not_delete_is_logged(
    new_harness: NewHarness, deleting: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    harness = new_harness({**SCRIPT, "session/delete": deleting})
    await harness.spawn()
    await harness.backend.stop(harness.worker_id, None)

    async with asyncio.timeout(30):
        await harness.backend.delete(harness.worker_id)

    assert "cannot delete the session of a Worker" in caplog.text
