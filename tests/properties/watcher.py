"""Observers that join, leave, fall behind and resume, and record everything that they see."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import attrs

from runtimed.errors import RuntimedError
from runtimed.feed import Feed, Selection, View
from runtimed.feed.encoding import Envelopes
from runtimed.model.identity import EventCursor, WorkerId, WorkerRef, cursor_sequence


class Wire(asyncio.WriteTransport):
    """A transport that passes writes to `take`, and whose peer reads nothing while `flowing` is not set."""

    def __init__(self, take: Callable[[bytes], None], flowing: asyncio.Event) -> None:
        super().__init__()
        self._take = take
        self._flowing = flowing

    def write(self, data: Any) -> None:
        self._take(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0 if self._flowing.is_set() else 2**30

    def is_closing(self) -> bool:
        return False


@attrs.define(eq=False)
class Watcher:
    """An observer of one Worker or of all. It resumes after the last event that it has seen.

    Attributes:
        wired: It has a transport and receives a snapshot first. If not, it reads.
        began: The sequence at which its first visit began.
        seen: Every event of all visits.
        snapshots: The snapshots it received, with their sequences.
        ended: Why the last visit ended.
        asked: The sequence at which that visit began.
        floor: The sequence after which events were retained when it ended.
        head: The newest sequence when it ended.
        deaf: Ignore what arrives: the Runtime has crashed.
    """

    worker_id: WorkerId | None
    wired: bool
    names: frozenset[str] = frozenset()
    labels: frozenset[tuple[str, str]] = frozenset()
    began: int | None = None
    seen: list[tuple[int, WorkerId, Any]] = attrs.field(factory=list)
    snapshots: list[tuple[int, Any]] = attrs.field(factory=list)
    flowing: asyncio.Event = attrs.field(factory=asyncio.Event)
    ended: RuntimedError | None = None
    asked: int = 0
    floor: int = 0
    head: int = 0
    visit: asyncio.Task[None] | None = None
    deaf: bool = False

    @property
    def place(self) -> int:
        return self.seen[-1][0] if self.seen else self.began or 0

    @property
    def here(self) -> bool:
        return self.visit is not None and not self.visit.done()

    def join(self, feed: Feed, cursor: int | None) -> None:
        """Begin a visit after a cursor, or after the newest event."""
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.ended, self.deaf = None, False
        self.asked = cursor or 0
        self.visit = asyncio.get_running_loop().create_task(self._visit(feed, cursor))

    async def leave(self) -> None:
        if self.visit is not None:
            self.visit.cancel()
            await asyncio.wait([self.visit])

    async def _visit(self, feed: Feed, sequence: int | None) -> None:
        runtime = feed.runtime
        ref = runtime.ref(self.worker_id) if self.worker_id else None
        cursor = None if sequence is None else EventCursor(runtime.runtime_id, sequence)
        try:
            if self.began is None:
                self.began = feed.check(ref, cursor).newest if sequence is None else sequence
            await (self._be_written_to if self.wired else self._read)(feed, ref, cursor)
        except RuntimedError as error:
            self.ended = error
            self.head = runtime.head
            known = ref is None or any(w.worker_id == ref.worker_id for w in runtime.workers())
            self.floor = (runtime.retained_after(ref) if ref else runtime.fleet_retained_after) if known else 0

    async def _read(self, feed: Feed, ref: WorkerRef | None, cursor: EventCursor | None) -> None:
        with feed.open(ref, cursor) as reader:
            while True:
                for envelope in await reader.read():
                    self._take(envelope)
                await self.flowing.wait()

    async def _be_written_to(self, feed: Feed, ref: WorkerRef | None, cursor: EventCursor | None) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(error: Exception) -> None:
            if not over.done():
                over.set_exception(error)

        async def drain() -> None:
            await flowing.wait()

        view = View(ref, Envelopes(), Selection(self.labels, self.names))
        flowing = self.flowing
        try:
            async with feed.observe(view, cursor, Wire(self._take, flowing), drain, ended):
                await over
        finally:
            flowing.set()  # a closed connection wakes whoever waits for it

    def _take(self, lines: bytes) -> None:
        for envelope in map(json.loads, () if self.deaf else lines.splitlines()):
            sequence = cursor_sequence(envelope["cursor"])
            assert sequence is not None
            if envelope["payload"]["event"] == "snapshot":
                assert envelope["event_id"] == f"snapshot:{envelope['cursor']}"
                self.snapshots.append((sequence, envelope["payload"]["data"]))
            else:
                assert envelope["event_id"] == envelope["cursor"]
                self.seen.append((sequence, envelope["worker_id"], envelope["payload"]))
