"""Observers of a feed in a process of their own: they read, count and check.

`python -m benchmarks.observers` takes {"host", "port", "head", "count", "ticks"} on stdin: the head of the handshake
(text), how many observers, and how many ticks each is to get. It says one line when all have their first frame, and
what Seen has when each has its ticks. It fails where an observer misses a tick, gets one twice or out of order: at
every read of every observer the newest number must agree with the count, and MAX_FULL of the observers check each
number, and when it came.
"""

import json
import re
import select
import socket
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from benchmarks.percentile import percentile
from benchmarks.processes import Program, python
from benchmarks.servers import Server, handshake
from benchmarks.ticks import BEFORE_TIME, END, MARK

DEADLINE_S = 300.0
SETTLED_S = 0.1
"""How long nothing more may come behind the last tick."""

MAX_FULL = 100
TICK = re.compile(MARK + rb"(\d+)" + BEFORE_TIME + rb"(\d+)" + END)
LONGEST = 80
"""Bytes that no tick is longer than, from its MARK to its END."""

BUFFER = memoryview(bytearray(2**20))


@attrs.frozen
class Seen:
    """What all observers together saw.

    How many ticks; the first how long after the handshake; the last at what time of CLOCK_MONOTONIC, and how long
    after the first; how long each took from when it was due to its being read.
    """

    ticks: int
    first_s: float
    ended: float
    seconds: float
    p50_ms: float
    p99_ms: float


class Watch:
    """Observers that are there."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def seen(self) -> Seen:
        """Wait until each has all its ticks."""
        return Seen(**json.loads(self._program.read_line(DEADLINE_S)))


@contextmanager
def watching(server: Server, path: str, *, count: int, ticks: int, log: Path) -> Iterator[Watch]:
    """Have a feed observed, each observer awaiting so many ticks, from its first frame on."""
    host, port = server.address
    order = {"host": host, "port": port, "head": server.upgrade(path).decode(), "count": count, "ticks": ticks}
    with Program(python("benchmarks.observers"), log) as program:
        program.say(json.dumps(order))
        program.read_line()
        yield Watch(program)


class Observer:
    """One socket, which is to get so many ticks; `answered` is when its handshake was.

    `delays` are those of its ticks in nanoseconds, for a `full` one.
    """

    def __init__(self, address: tuple[str, int], head: bytes, awaited: int, *, full: bool) -> None:
        self.socket = socket.create_connection(address)
        self.ticks = 0
        self.delays = array("q")
        self._awaited = awaited
        self._full = full
        self._rest = b""
        self.answered = 0.0
        self.socket.sendall(head)

    @property
    def done(self) -> bool:
        """Whether it has all its ticks."""
        return self.ticks == self._awaited

    def greet(self) -> None:
        """Wait for the answer to the handshake and some of the first frame."""
        rest, self.answered = handshake(self.socket)
        self._take(rest)

    def read(self) -> None:
        """Read once. Raises ConnectionError at the end of the feed, ValueError for what is not to be there."""
        size = self.socket.recv_into(BUFFER)
        if not size:
            raise ConnectionError(f"the feed ended behind {self.ticks} ticks")
        self._take(self._rest + BUFFER[:size])

    def _take(self, data: bytes) -> None:
        end = data.rfind(END)
        if end >= 0:
            begin = self.ticks
            self.ticks += data.count(END)
            if self._full:
                self._check_each(begin, TICK.findall(data))
            newest = int(data[data.rfind(MARK, 0, end) + len(MARK) : end].partition(BEFORE_TIME)[0])
            if newest != self.ticks - 1 or newest >= self._awaited:
                raise ValueError(f"tick {newest} where {begin} to {self._awaited - 1} were to come")
        self._rest = data[max(end + 1, len(data) - LONGEST) :]

    def _check_each(self, begin: int, found: Sequence[tuple[bytes, bytes]]) -> None:
        now = time.monotonic_ns()
        if [int(number) for number, _ in found] != list(range(begin, self.ticks)):
            raise ValueError(f"ticks missing, repeated or out of order behind {begin} of them")
        self.delays.extend(now - int(at) for _, at in found)


def _run(host: str, port: int, head: str, count: int, ticks: int) -> dict[str, Any]:
    every = -(-count // MAX_FULL)
    observers = [Observer((host, port), head.encode(), ticks, full=index % every == 0) for index in range(count)]
    for observer in observers:
        observer.greet()
    print("watching", flush=True)
    began = time.monotonic() if any(observer.ticks for observer in observers) else 0.0
    missing = sum(not observer.done for observer in observers)
    waiting = {observer.socket.fileno(): observer for observer in observers}
    with select.epoll() as ready:
        for number in waiting:
            ready.register(number, select.EPOLLIN)
        while missing:
            for number, _ in ready.poll():
                observer = waiting[number]
                was_done = observer.done
                observer.read()
                began = began or (time.monotonic() if observer.ticks else 0.0)
                missing -= observer.done and not was_done
        ended = time.monotonic()
        for number, _ in ready.poll(SETTLED_S):
            waiting[number].read()
    delays = sorted(delay for observer in observers for delay in observer.delays)
    return {
        "ticks": count * ticks,
        "first_s": began - max(observer.answered for observer in observers),
        "ended": ended,
        "seconds": ended - began,
        "p50_ms": percentile(delays, 50) / 1e6,
        "p99_ms": percentile(delays, 99) / 1e6,
    }


if __name__ == "__main__":
    print(json.dumps(_run(**json.load(sys.stdin))), flush=True)
