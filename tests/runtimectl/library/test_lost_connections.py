"""Wherever a connection is lost, an input happens once, and each of its events is seen once, in order."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from runtimectl import AsyncClient, Client
from runtimectl.client import feed
from runtimectl.library import repeats
from runtimed.model.event import EventEnvelope, RunEnd
from tests.runtimectl.conftest import DEADLINE_S, StartDaemon

START = "wo_0000000000000000"
NAMES = ["user_message", "invoke_start", "text_delta", "text_done", "run_end"]
UP, DOWN = 0, 1
CLOSE_BYTES = 16
"""More than the close of a WebSocket takes; how much of it is passed is left to chance."""

RESET_AT_CLOSE = struct.pack("ii", 1, 0)

Seen = tuple[str, list[EventEnvelope]]
Program = Callable[[str, Path], Seen]


class CuttingProxy:
    """Passes connections on to a daemon, and cuts one of them behind a byte.

    Attributes:
        daemon: The address of the daemon.
        passed: The bytes that came from clients and from the daemon since `arm`.
    """

    def __init__(self) -> None:
        self.daemon = ("", 0)
        self.passed = [0, 0]
        self._cut_at: dict[int, int] = {}
        self._is_reset = False
        self._serving: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.authority = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def arm(self, cut_at: dict[int, int], *, is_reset: bool = False) -> None:
        """Count anew, and cut once: behind this many bytes of a direction, with a reset or in good order."""
        self.passed = [0, 0]
        self._cut_at, self._is_reset = cut_at, is_reset

    @property
    def is_armed(self) -> bool:
        """Whether the cut has yet to come."""
        return bool(self._cut_at)

    def settle(self) -> None:
        """Wait until all connections are over. Their clients must have left."""
        while self._serving:
            self._serving.pop().join(DEADLINE_S)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(DEADLINE_S)
        self._listener.close()
        self.settle()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                serving = threading.Thread(target=self._serve, args=(client,))
                serving.start()
                self._serving.append(serving)

    def _serve(self, client: socket.socket) -> None:
        is_cut = threading.Event()
        with client, socket.create_connection(self.daemon) as daemon:
            down = threading.Thread(target=self._pass, args=(DOWN, daemon, client, is_cut))
            down.start()
            self._pass(UP, client, daemon, is_cut)
            down.join()

    def _pass(self, direction: int, source: socket.socket, sink: socket.socket, is_cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while not is_cut.is_set() and (data := source.recv(65536)):
                self.passed[direction] += len(data)
                if self.passed[direction] >= self._cut_at.get(direction, self.passed[direction] + 1):
                    data = data[: len(data) - self.passed[direction] + self._cut_at.pop(direction)]
                    is_cut.set()
                sink.sendall(data)
        is_reset = is_cut.is_set() and self._is_reset
        for end in (source, sink):
            with contextlib.suppress(OSError):
                if is_reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
                end.shutdown(socket.SHUT_RD if is_reset else socket.SHUT_RDWR)


@pytest.fixture
def proxy() -> Iterator[CuttingProxy]:
    found = CuttingProxy()
    yield found
    found.close()


@pytest.fixture
def direct(start_daemon: StartDaemon, proxy: CuttingProxy, token_file: Path) -> Iterator[Client]:
    """A client of the daemon behind the proxy, which goes past the proxy."""
    daemon = start_daemon("--store", "memory", "--token-file", str(token_file), "--allow-host", proxy.authority)
    address = urlsplit(daemon.url)
    proxy.daemon = (str(address.hostname), int(address.port or 0))
    with Client(daemon.url, token_file=str(token_file)) as client:
        yield client


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost connection is opened again at once."""
    monkeypatch.setattr(feed, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(repeats, "FIRST_DELAY_S", 0.001)


def converse(url: str, token_file: Path) -> Seen:
    """Create a Worker, give it an input, and read to the end of the run. Returns its id and what was seen."""
    seen = []
    with Client(url, token_file=str(token_file)) as client:
        worker = client.create_worker()
        worker.input("hello")
        with worker.events(START) as events:
            for event in events:
                seen.append(event)
                if isinstance(event.payload, RunEnd):
                    break
    return worker.id, seen


async def aconverse(url: str, token_file: Path) -> Seen:
    seen = []
    async with AsyncClient(url, token_file=str(token_file)) as client:
        worker = await client.create_worker()
        await worker.input("hello")
        async with worker.events(START) as events:
            async for event in events:
                seen.append(event)
                if isinstance(event.payload, RunEnd):
                    break
    return worker.id, seen


@pytest.mark.parametrize(
    ("program", "step"),
    [
        pytest.param(converse, 19, id="sync"),
        pytest.param(lambda *args: asyncio.run(aconverse(*args)), 61, id="async"),
    ],
)
def test_an_input_happens_once_and_each_event_is_seen_once_wherever_a_connection_is_cut(
    program: Program, step: int, direct: Client, proxy: CuttingProxy, token_file: Path
) -> None:
    talks = [program(f"http://{proxy.authority}", token_file)]
    proxy.settle()
    ends = [passed - CLOSE_BYTES for passed in proxy.passed]
    for direction in (UP, DOWN):
        for number, cut_at in enumerate(range(0, ends[direction], step)):
            proxy.arm({direction: cut_at}, is_reset=number % 2 == 1)
            talks.append(program(f"http://{proxy.authority}", token_file))
            proxy.settle()
            assert not proxy.is_armed, f"no cut behind {cut_at} bytes of direction {direction}"

    assert [worker.worker_id for worker in direct.workers()] == [worker_id for worker_id, _ in talks]
    for worker_id, seen in talks:
        with direct.worker(worker_id).events(START) as events:
            kept = [next(events) for _ in NAMES]
        assert [event.payload.event for event in kept] == NAMES
        assert seen == kept
