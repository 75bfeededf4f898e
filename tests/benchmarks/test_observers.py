import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks.ticks import tick

REPOSITORY = Path(__file__).parents[2]
HEAD = "GET / HTTP/1.1\r\n\r\n"


@contextmanager
def feed(numbers: Sequence[int]) -> Iterator[int]:
    """Serve one handshake, and send ticks in two parts that split one of them. Yields the port."""
    sent = b"".join(json.dumps(tick(number, number), separators=(",", ":")).encode() for number in numbers)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(len(HEAD))
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + sent[:25])
            connection.sendall(sent[25:])
            with suppress(ConnectionResetError):
                connection.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield listener.getsockname()[1]
        finally:
            serving.join()


def observe(numbers: Sequence[int], ticks: int) -> subprocess.CompletedProcess[str]:
    with feed(numbers) as port:
        order = {"host": "127.0.0.1", "port": port, "head": HEAD, "count": 1, "ticks": ticks}
        command = [sys.executable, "-m", "benchmarks.observers"]
        return subprocess.run(
            command, cwd=REPOSITORY, input=json.dumps(order), capture_output=True, text=True, timeout=30, check=False
        )


def test_an_observer_counts_ticks_that_come_once_and_in_order() -> None:
    done = observe(range(20), 20)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ticks"] == 20


@pytest.mark.parametrize(
    "numbers",
    [(0, 2, 1, 3), (0, 1, 1, 3), (0, 1, 1, 2, 3), (0, 2, 3, 4), (1, 2, 3, 4), (0, 1, 2, 3, 4)],
    ids=["swapped", "replaced", "repeated", "missing", "the first missing", "too many"],
)
def test_an_observer_fails_where_a_tick_is_missing_repeated_or_out_of_order(numbers: Sequence[int]) -> None:
    done = observe(numbers, 4)
    assert done.returncode == 1
    assert "ValueError" in done.stderr
