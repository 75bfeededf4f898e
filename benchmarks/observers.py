"""Observers of a feed in a separate process: they read, count and check.

`python -m benchmarks.observers` takes {"host", "port", "head", "count", "ticks"} on stdin: the head of the handshake
(text), how many observers, and how many ticks each will get. It prints one line when all have their first frame, and
the fields of Seen when each has its ticks. It fails if an observer misses a tick or gets one twice or out of order:
at every read the newest number must agree with the count, and MAX_FULL observers check each number and its delay.
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
"""How long to watch for surplus ticks after the last one."""

MAX_FULL = 100
TICK = re.compile(MARK + rb"(\d+)" + BEFORE_TIME + rb"(\d+)" + END)
LONGEST = 80
"""The most bytes of a tick from its MARK to its END."""

BUFFER = memoryview(bytearray(2**20))


@attrs.frozen
class Seen:
    """What all observers together saw.

    Attributes:
        ticks: How many ticks.
        first_s: The time from the handshake to the first tick.
        ended: The CLOCK_MONOTONIC time of the last tick.
        seconds: The time from the first tick to the last.
        p50_ms: The median time from when a tick was due to its being read.
        p99_ms: The 99th percentile of that time.
    """

    ticks: int
    first_s: float
    ended: float
    seconds: float
    p50_ms: float
    p99_ms: float


class Watch:
    """Running observers."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def seen(self) -> Seen:
        """Wait until each observer has all its ticks."""
        return Seen(**json.loads(self._program.read_line(DEADLINE_S)))


@contextmanager
def watching(server: Server, path: str, *, count: int, ticks: int, log: Path) -> Iterator[Watch]:
    """Observe a feed, each observer from its first frame until it has all its ticks."""
    host, port = server.address
    order = {"host": host, "port": port, "head": server.upgrade(path).decode(), "count": count, "ticks": ticks}
    with Program(python("benchmarks.observers"), log) as program:
        program.say(json.dumps(order))
        program.read_line()
        yield Watch(program)


class Observer:
    """One observer.

    Attributes:
        ticks: How many ticks it has.
        delays: The delays of its ticks in nanoseconds, if it is a full one.
        answered: The CLOCK_MONOTONIC time of the response to its handshake.
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
        """Wait for the response to the handshake and the begin of the first frame."""
        rest, self.answered = handshake(self.socket)
        self._take(rest)

    def read(self) -> None:
        """Read once. Raises ConnectionError at the end of the feed, ValueError for an unexpected tick."""
        size = self.socket.recv_into(BUFFER)
        if not size:
            raise ConnectionError(f"the feed ended after {self.ticks} ticks")
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
            raise ValueError(f"ticks missing, repeated or out of order after {begin} of them")
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
