"""Helpers of the feed's tests: a fake backend, and observers on real sockets."""

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from runtimed.core import BackendAnswer, Dispatch, EventSink, Runtime, Spawn
from runtimed.core.state.change import EncodedEvent
from runtimed.feed import Feed, Observer, Selection, View
from runtimed.feed.encoding import Encoding, Envelopes
from runtimed.feed.view import EVERYTHING
from runtimed.model.event import SystemItem
from runtimed.model.identity import EventCursor, WorkerId, WorkerRef
from runtimed.model.principal import ADMIN, Principal
from runtimed.model.worker import CreateWorkerRequest

MARKS = itertools.count(1)
DEADLINE_S = 10


class FakeBackend:
    """An ExecutionBackend whose Workers emit what a test emits into their sinks."""

    def __init__(self) -> None:
        self.sinks: dict[WorkerId, EventSink] = {}

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        self.sinks[spawn.worker_id] = sink
        return BackendAnswer("accepted")

    async def dispatch(self, dispatch: Dispatch) -> BackendAnswer:
        return BackendAnswer("accepted")

    def start(self, worker_id: WorkerId, input_id: str) -> None: ...

    def withdraw(self, worker_id: WorkerId, input_id: str) -> None: ...

    async def interrupt(self, worker_id: WorkerId) -> BackendAnswer:
        return BackendAnswer("accepted")

    async def stop(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        return BackendAnswer("accepted")

    async def cancel(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        return BackendAnswer("accepted")

    async def delete(self, worker_id: WorkerId) -> None: ...

    async def close(self) -> None: ...


async def worker_of(runtime: Runtime, principal: Principal = ADMIN, **labels: str) -> WorkerRef:
    return (await runtime.create_worker(CreateWorkerRequest(labels=labels), principal=principal)).worker_ref


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.001)


async def say(runtime: Runtime, backend: FakeBackend, ref: WorkerRef, texts: Sequence[str]) -> None:
    """Emit an event of a Worker for each text, and wait until all are published."""
    mark = next(MARKS)
    last = MarkSubscriber(f'"mark":{mark}}}'.encode())
    runtime.subscribe(last)
    marks: list[dict[str, int]] = [*({} for _ in texts[:-1]), {"mark": mark}]
    for text, marked in zip(texts, marks, strict=True):
        await backend.sinks[ref.worker_id].emit(SystemItem({"kind": "said", "text": text, **marked}))
    await until(lambda: last.seen)
    runtime.unsubscribe(last)


async def said(runtime: Runtime, backend: FakeBackend, refs: Iterable[WorkerRef]) -> None:
    """Wait until everything these Workers have emitted is published."""
    for ref in refs:
        await say(runtime, backend, ref, ["the end"])


class MarkSubscriber:
    """An EventSubscriber that waits for an event whose payload contains a mark."""

    def __init__(self, mark: bytes) -> None:
        self.mark = mark
        self.seen = False

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        self.seen = self.seen or any(self.mark in event.payload for event in events)

    def changed(self, worker_id: WorkerId) -> None: ...

    def forget(self, worker_id: WorkerId) -> None: ...


class Watcher:
    """The peer of an observer's connection. It reads only when a test says so."""

    observer: Observer
    began: int

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""
        self.ended: list[Exception] = []

    @property
    def envelopes(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.data.split(b"\n")[:-1]]

    @property
    def cursors(self) -> list[str]:
        """The cursors of all events except the snapshot."""
        return [one["cursor"] for one in self.envelopes if one["payload"]["event"] != "snapshot"]

    def has_some(self) -> bool:
        return bool(self.envelopes)

    def has_ended(self) -> bool:
        return bool(self.ended)

    def has_lines(self, least: int) -> bool:
        return self.data.count(b"\n") >= least

    def has_exactly(self, lines: int) -> bool:
        return self.data.count(b"\n") == lines

    def has_cursors(self, expected: list[str]) -> bool:
        return self.cursors == expected

    def mentions(self, text: str, times: int) -> bool:
        return self.data.count(f'"{text}"'.encode()) == times

    def take(self, size: int) -> None:
        """Read what has arrived, at most `size` bytes."""
        with contextlib.suppress(BlockingIOError):
            self.data += self.sock.recv(size)

    def takes_to_its_end(self) -> bool:
        """Read what has arrived, and return whether the observer has ended."""
        self.take(2**16)
        return self.has_ended()

    async def read(self) -> None:
        self.data += await asyncio.get_running_loop().sock_recv(self.sock, 2**16)

    async def read_until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await self.read()


@asynccontextmanager
async def watching(
    feed: Feed,
    ref: WorkerRef | None,
    cursor: int | None = None,
    *,
    selection: Selection | None = None,
    encoding: Encoding | None = None,
    buffer: int | None = None,
    principal: Principal = ADMIN,
) -> AsyncIterator[Watcher]:
    """Observe on a new socket pair, and yield the peer. `buffer` limits the kernel's buffers, in bytes."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    _, writer = await asyncio.open_connection(sock=ours)
    watcher = Watcher(theirs)
    view = View(ref, encoding or Envelopes(), selection or EVERYTHING)
    place = None if cursor is None else EventCursor(feed.runtime.runtime_id, cursor)
    try:
        observing = feed.observe(
            view, place, writer.transport, writer.drain, watcher.ended.append, principal=principal
        )
        async with observing as observer:
            watcher.observer, watcher.began = observer, observer.sequence
            yield watcher
    finally:
        writer.transport.abort()
        theirs.close()


async def published(runtime: Runtime, ref: WorkerRef | None) -> list[EncodedEvent]:
    """Read all events of a Worker, or of all Workers, page by page."""
    found: list[EncodedEvent] = []
    while True:
        after = found[-1].sequence if found else 0
        page = await (runtime.all_events(after) if ref is None else runtime.events(ref, after))
        if not page:
            return found
        found += page


async def cursors_behind(runtime: Runtime, ref: WorkerRef | None, sequence: int) -> list[str]:
    return [f"wo_{event.sequence:016x}" for event in await published(runtime, ref) if event.sequence > sequence]
