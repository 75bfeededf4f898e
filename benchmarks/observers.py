"""Observers of a feed in a process of their own: they only read and count.

`python -m benchmarks.observers` takes {"host", "port", "head", "count", "ticks"} on stdin: the head of the handshake
(text), how many observers, and how many ticks each is to get. It says one line when all have their first frame, and
{"seconds", "first_s", "ticks"} when each has its ticks: the time from the first tick at any of them to the last at
all, and from the handshake to the first.
"""

import json
import select
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from benchmarks.processes import Program, python
from benchmarks.servers import Server
from benchmarks.ticks import MARK

DEADLINE_S = 300.0
BUFFER = bytearray(2**20)
SWITCHED = b"HTTP/1.1 101 "
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


@attrs.frozen
class Seen:
    """What all observers together saw: how many ticks, in how many seconds, the first after how many."""

    ticks: int
    seconds: float
    first_s: float


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
    order = {"host": host, "port": port, "head": server.head("GET", path, *UPGRADE).decode()}
    with Program(python("benchmarks.observers"), log) as program:
        program.say(json.dumps({**order, "count": count, "ticks": ticks}))
        program.read_line()
        yield Watch(program)


class Observer:
    """One socket. It counts the MARKs that go by, also one that two reads share."""

    def __init__(self, address: tuple[str, int], head: bytes) -> None:
        self.socket = socket.create_connection(address)
        self.ticks = 0
        self._tail = b""
        self.socket.sendall(head)

    def greet(self) -> None:
        """Wait for the answer to the handshake and some of the first frame."""
        said = b""
        while not said.partition(b"\r\n\r\n")[2]:
            read = self.socket.recv(2**10)
            said += read
            if not read or not said.startswith(SWITCHED[: len(said)]):
                raise ConnectionError(said.decode(errors="replace"))
        self.ticks = said.count(MARK)
        self._tail = said[-len(MARK) + 1 :]

    def read(self) -> int:
        """Read once; the number of ticks that this completed. Raises ConnectionError at the end of the feed."""
        size = self.socket.recv_into(BUFFER)
        if not size:
            raise ConnectionError(f"the feed ended behind {self.ticks} ticks")
        shared = len(MARK) - 1
        found = BUFFER.count(MARK, 0, size) + (self._tail + BUFFER[: min(shared, size)]).count(MARK)
        self._tail = (self._tail + BUFFER[max(0, size - shared) : size])[-shared:]
        self.ticks += found
        return found


def _run(host: str, port: int, head: str, count: int, ticks: int) -> dict[str, Any]:
    asked = time.perf_counter()
    observers = [Observer((host, port), head.encode()) for _ in range(count)]
    for observer in observers:
        observer.greet()
    print("watching", flush=True)
    waiting = {observer.socket.fileno(): observer for observer in observers}
    began = time.perf_counter() if any(observer.ticks for observer in observers) else 0.0
    with select.epoll() as ready:
        for number in waiting:
            ready.register(number, select.EPOLLIN)
        while waiting:
            for number, _ in ready.poll():
                observer = waiting[number]
                if observer.read():
                    began = began or time.perf_counter()
                    if observer.ticks >= ticks:
                        ready.unregister(number)
                        del waiting[number]
    seconds = time.perf_counter() - began
    total = sum(observer.ticks for observer in observers)
    return {"ticks": total, "seconds": seconds, "first_s": began - asked}


if __name__ == "__main__":
    print(json.dumps(_run(**json.load(sys.stdin))), flush=True)
