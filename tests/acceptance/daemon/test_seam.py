"""Contract section 6: no event is skipped, repeated or reordered where replay becomes live."""

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from tests.acceptance.conftest import Shaped
from tests.acceptance.daemon.conftest import Daemon

from .conftest import DEADLINE_S

OBSERVERS = 60
ZERO = "wo_0000000000000000"
CHATTY = "i=0; while [ ! -e '{}' ]; do i=$((i+1)); echo line $i; [ $((i % 3)) != 0 ] || sleep 0.005; done"


async def _observe(
    daemon: Daemon, worker_id: str, cursor: str | None, seen: Callable[[], None] = lambda: None
) -> list[Any]:
    """The envelopes of one observer, from its snapshot to the end of the run."""
    frames: list[Any] = []
    headers = {"Authorization": f"Bearer {daemon.token}"}
    url = daemon.feed_url(worker_id, cursor)
    async with connect(url, additional_headers=headers, proxy=None, open_timeout=DEADLINE_S) as connection:
        while not frames or frames[-1]["payload"]["event"] != "run_end":
            frames.append(json.loads(await asyncio.wait_for(connection.recv(), DEADLINE_S))["envelope"])
            if len(frames) == 1:
                seen()
    return frames


class Crowd:
    """Observers that join a run at random moments with random cursors; the run goes on until all of them are in."""

    def __init__(self, daemon: Daemon, worker_id: str, gate: Path) -> None:
        self._daemon, self._worker_id, self._gate = daemon, worker_id, gate
        self._dice = random.Random(0)
        self._missing = OBSERVERS

    async def watch(self) -> list[tuple[str | None, list[Any]]]:
        """The cursor and the envelopes of each observer."""
        return await asyncio.gather(*(self._join() for _ in range(OBSERVERS)))

    async def _join(self) -> tuple[str | None, list[Any]]:
        await asyncio.sleep(self._dice.uniform(0, 1))
        newest = (await asyncio.to_thread(self._daemon.worker, self._worker_id))["last_cursor"]
        cursor = f"wo_{self._dice.randint(0, int(newest[3:], 16)):016x}"
        chosen = self._dice.choice([None, ZERO, newest, cursor, cursor])
        return chosen, await _observe(self._daemon, self._worker_id, chosen, self._seen)

    def _seen(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._gate.touch()


def _text(envelopes: list[Any]) -> str:
    return "".join(one["payload"]["data"]["text"] for one in envelopes if one["payload"]["event"] == "text_delta")


async def test_observers_that_join_a_chatty_run_at_any_moment_miss_nothing_and_see_nothing_twice(
    daemon: Daemon, shaped: Shaped
) -> None:
    worker_id = await asyncio.to_thread(daemon.shell)
    gate = daemon.home / "shared" / f"gate-{worker_id}"
    await asyncio.to_thread(daemon.input, worker_id, CHATTY.format(gate))
    seen = await Crowd(daemon, worker_id, gate).watch()
    log = await asyncio.to_thread(daemon.log, worker_id)
    items = await asyncio.to_thread(daemon.items, worker_id)
    lines = _text(log)
    assert lines == "".join(f"line {number}\n" for number in range(1, lines.count("\n") + 1))
    assert [one["cursor"] for one in log] == sorted({one["cursor"] for one in log})
    for chosen, (snapshot, *events) in seen:
        shaped({"kind": "event", "envelope": snapshot}, "Frame")
        cursor = snapshot["cursor"]
        assert cursor == (chosen or cursor)
        assert snapshot["event_id"] == f"snapshot:{cursor}"
        assert events == [one for one in log if one["cursor"] > cursor]
        data = snapshot["payload"]["data"]
        assert data["entries"] == [one for one in items if one["cursor"] <= cursor]
        blocks = data.get("in_flight", {"blocks": []})["blocks"]
        told = "".join(one["text"] for one in blocks if one["kind"] == "text") + _text(events)
        truncated = any(one.get("truncated") for one in blocks)
        assert lines.endswith(told) if truncated else told == lines
    assert len({chosen for chosen, _ in seen}) > OBSERVERS // 4


async def test_readers_of_many_workers_at_once_each_see_their_own(daemon: Daemon) -> None:
    workers = [await asyncio.to_thread(daemon.echo) for _ in range(10)]
    observing = [asyncio.create_task(_observe(daemon, one, ZERO)) for one in workers]
    await asyncio.gather(*(asyncio.to_thread(daemon.input, one, f"hello {one}") for one in workers))
    for worker_id, observer in zip(workers, observing, strict=True):
        frames = await observer
        log = await asyncio.to_thread(daemon.log, worker_id)
        assert frames[1:] == log
        assert _text(log) == f"hello {worker_id}"
