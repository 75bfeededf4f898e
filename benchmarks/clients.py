"""HTTP clients in a separate process. Each keeps one connection and repeats its request after every answer.

`python -m benchmarks.clients` takes {"host", "port", "seconds", "requests": [text]} on stdin, with one request for
each client, and prints the fields of a Load. One thread uses raw sockets, so the server is the bottleneck.
"""

import json
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import attrs

from benchmarks.percentile import percentile
from benchmarks.processes import Program, python
from benchmarks.rows import Row, Target
from benchmarks.servers import Server

WARM_UP_S = 0.5
DEADLINE_S = 120.0
MAX_ANSWER = 2**18
OK = b"HTTP/1.1 200 "


@attrs.frozen
class Load:
    """The result of a group of clients.

    Attributes:
        rate: Answers a second.
        p50_ms: The median time of a request.
        p99_ms: The 99th percentile of that time.
        answered: How many answers each client got, including those outside of the measured time.
        cpu_s: The processor time of the server for all of them.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    answered: Sequence[int]
    cpu_s: float

    @property
    def per_cpu_s(self) -> float:
        """Answers for each second of the server's processor time."""
        return sum(self.answered) / self.cpu_s


def load_row(case: str, ours: Sequence[Load], baseline: Sequence[Load], target: Target) -> Row:
    """Return a row of rates. Its note has the rates by processor time, which depend less on other load."""
    note = "for a second of processor time, ours answers {:,.0f} and the baseline {:,.0f}".format(
        *(median(load.per_cpu_s for load in loads) for loads in (ours, baseline))
    )
    return Row(case, "/s", [load.rate for load in ours], [load.rate for load in baseline], target, note)


def put_load(server: Server, requests: Sequence[bytes], seconds: float, log: Path) -> Load:
    """Repeat all requests at the same time for a number of seconds."""
    host, port = server.address
    order = {"host": host, "port": port, "seconds": seconds, "requests": [text.decode() for text in requests]}
    with Program(python("benchmarks.clients"), log) as clients:
        before = server.cpu_seconds()
        clients.say(json.dumps(order))
        said = json.loads(clients.read_line(DEADLINE_S))
        return Load(**said, cpu_s=server.cpu_seconds() - before)


class Client:
    """One connection and its request."""

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._answer = b""
        self.asked = 0.0
        self.answers = 0

    def ask(self) -> None:
        """Send the request."""
        self.asked = time.perf_counter()
        self.socket.sendall(self._request)

    def answered(self) -> bool:
        """Read once, and return whether the answer is complete. Raises ValueError for an error response."""
        self._answer += self.socket.recv(MAX_ANSWER)
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end or len(body) < _length(head):
            if not self._answer:
                raise ValueError("the server closed the connection")
            return False
        if not head.startswith(OK):
            raise ValueError(self._answer.decode(errors="replace"))
        self._answer = b""
        self.answers += 1
        return True


def _length(head: bytes) -> int:
    start = head.index(b"Content-Length: ") + len(b"Content-Length: ")
    end = head.find(b"\r\n", start)
    return int(head[start:] if end < 0 else head[start:end])


def _run(host: str, port: int, seconds: float, requests: Sequence[str]) -> dict[str, Any]:
    clients = [Client((host, port), request.encode()) for request in requests]
    for client in clients:
        client.ask()
    begin = time.perf_counter() + WARM_UP_S
    took = sorted(_ask_on(clients, begin, begin + seconds))
    for client in clients:
        client.socket.close()
    return {
        "rate": len(took) / seconds,
        "p50_ms": percentile(took, 50) * 1_000,
        "p99_ms": percentile(took, 99) * 1_000,
        "answered": [client.answers for client in clients],
    }


def _ask_on(clients: Sequence[Client], begin: float, until: float) -> Iterator[float]:
    """Repeat the requests until a time, then wait for the last answers. Yields the times of those in the interval."""
    waiting = {client.socket.fileno(): client for client in clients}
    with select.epoll() as ready:
        for number in waiting:
            ready.register(number, select.EPOLLIN)
        while waiting:
            for number, _ in ready.poll():
                client = waiting[number]
                if not client.answered():
                    continue
                now = time.perf_counter()
                if begin <= now < until:
                    yield now - client.asked
                if now < until:
                    client.ask()
                else:
                    ready.unregister(number)
                    del waiting[number]


if __name__ == "__main__":
    print(json.dumps(_run(**json.load(sys.stdin))), flush=True)
