"""Helpers of the feed's tests: a fake backend, and observers on real sockets."""

import asyncio
import contextlib
import itertools
import json
import socket
from contextlib import asynccontextmanager

from runtimed.core import BackendAnswer
from runtimed.feed import View
from runtimed.feed.encoding import Envelopes
from runtimed.model.event import SystemItem
from runtimed.model.identity import EventCursor, WorkerId
from runtimed.model.worker import CreateWorkerRequest

MARKS = itertools.count(1)
DEADLINE_S = 10


class FakeBackend:
    """An ExecutionBackend whose Workers emit what a test emits into their sinks."""

    def __init__(self):
        self.sinks = {}

    async def spawn(self, spawn, sink):
        self.sinks[spawn.worker_id] = sink
        return BackendAnswer("accepted")

    async def dispatch(self, dispatch):
        return BackendAnswer("accepted")

    def start(self, worker_id, input_id): ...

    def withdraw(self, worker_id, input_id): ...

    async def interrupt(self, worker_id):
        return BackendAnswer("accepted")

    async def stop(self, worker_id, reason):
        return BackendAnswer("accepted")

    async def cancel(self, worker_id, reason):
        return BackendAnswer("accepted")

    async def delete(self, worker_id): ...

    async def close(self): ...


async def worker_of(runtime, **labels):
    return (await runtime.create_worker(CreateWorkerRequest(labels=labels))).worker_ref


async def until(condition):
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.001)


async def say(runtime, backend, ref, texts):
    """Emit an event of a Worker for each text, and wait until all are published."""
    mark = next(MARKS)
    last = MarkSubscriber(f'"mark":{mark}}}'.encode())
    runtime.subscribe(last)
    marks = [{} for _ in texts[:-1]] + [{"mark": mark}]
    for text, marked in zip(texts, marks, strict=True):
        await backend.sinks[ref.worker_id].emit(SystemItem({"kind": "said", "text": text, **marked}))
    await until(lambda: last.seen)
    runtime.unsubscribe(last)


async def said(runtime, backend, refs):
    """Wait until everything these Workers have emitted is published."""
    for ref in refs:
        await say(runtime, backend, ref, ["the end"])


class MarkSubscriber:
    """An EventSubscriber that waits for an event whose payload contains a mark."""

    def __init__(self, mark):
        self.mark = mark
        self.seen = False

    def publish(self, worker_id, events):
        self.seen = self.seen or any(self.mark in event.payload for event in events)

    def changed(self, worker_id: WorkerId) -> None: ...

    def forget(self, worker_id): ...


class Watcher:
    """The peer of an observer's connection. It reads only when a test says so."""

    def __init__(self, sock):
        self.sock = sock
        self.data = b""
        self.ended = []

    @property
    def envelopes(self):
        return [json.loads(line) for line in self.data.split(b"\n")[:-1]]

    @property
    def cursors(self):
        """The cursors of all events except the snapshot."""
        return [one["cursor"] for one in self.envelopes if one["payload"]["event"] != "snapshot"]

    def take(self, size):
        """Read what has arrived, at most `size` bytes."""
        with contextlib.suppress(BlockingIOError):
            self.data += self.sock.recv(size)

    async def read(self):
        self.data += await asyncio.get_running_loop().sock_recv(self.sock, 2**16)

    async def read_until(self, condition):
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await self.read()


@asynccontextmanager
async def watching(feed, ref, cursor=None, *, selection=None, encoding=None, buffer=None):
    """Observe on a new socket pair, and yield the peer. `buffer` limits the kernel's buffers, in bytes."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    _, writer = await asyncio.open_connection(sock=ours)
    watcher = Watcher(theirs)
    view = View(ref, encoding or Envelopes(), *([selection] if selection else []))
    place = None if cursor is None else EventCursor(feed.runtime.runtime_id, cursor)
    try:
        async with feed.observe(view, place, writer.transport, writer.drain, watcher.ended.append) as observer:
            watcher.observer, watcher.began = observer, observer.sequence
            yield watcher
    finally:
        writer.transport.abort()
        theirs.close()


async def published(runtime, ref):
    """Read all events of a Worker, or of all Workers, page by page."""
    found = []
    while True:
        after = found[-1].sequence if found else 0
        page = await (runtime.all_events(after) if ref is None else runtime.events(ref, after))
        if not page:
            return found
        found += page


async def cursors_behind(runtime, ref, sequence):
    return [f"wo_{event.sequence:016x}" for event in await published(runtime, ref) if event.sequence > sequence]
