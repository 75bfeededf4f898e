"""One observer in a separate process. It keeps all frames, then checks that their text is complete.

`python -m benchmarks.listener` takes {"host", "port", "head", "file"} on stdin. It prints one line when it observes,
and the CLOCK_MONOTONIC time of the last frame when the run has ended. It fails unless the streamed text equals the
content of `file`.
"""

import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.processes import Program, python
from benchmarks.servers import Server, handshake

END = b'"event":"run_end"'
CHUNK = 2**18
DEADLINE_S = 120.0


class Listening:
    """A running observer."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def ended(self) -> float:
        """Wait for the end of the run, and return its CLOCK_MONOTONIC time."""
        return float(self._program.read_line(DEADLINE_S))


@contextmanager
def listening(server: Server, path: str, file: Path, log: Path) -> Iterator[Listening]:
    """Observe a feed until the end of a run. Its text must equal the content of the file."""
    host, port = server.address
    order = {"host": host, "port": port, "head": server.upgrade(path).decode(), "file": str(file)}
    with Program(python("benchmarks.listener"), log) as program:
        program.say(json.dumps(order))
        program.read_line()
        yield Listening(program)


def _run(host: str, port: int, head: str, file: str) -> float:
    with socket.create_connection((host, port)) as connection:
        connection.sendall(head.encode())
        chunks = [handshake(connection)[0]]
        print("listening", flush=True)
        while END not in b"".join(chunks[-2:]):
            chunk = connection.recv(CHUNK)
            if not chunk:
                raise ConnectionError("the feed ended before the run")
            chunks.append(chunk)
        ended = time.monotonic()
    payloads = [json.loads(frame)["envelope"]["payload"] for frame in _frames(b"".join(chunks))]
    text = "".join(payload["data"]["text"] for payload in payloads if payload["event"] == "text_delta")
    if text != Path(file).read_text():
        raise ValueError(f"{len(text)} characters of text came, not those of {file}")
    return ended


def _frames(data: bytes) -> Iterator[bytes]:
    """Yield the content of each complete frame. Frames of a server are unmasked and unfragmented."""
    place = 0
    while place + 10 <= len(data):
        size, place = data[place + 1], place + 2
        extra = {126: 2, 127: 8}.get(size, 0)
        size = int.from_bytes(data[place : place + extra]) if extra else size
        place += extra + size
        if place <= len(data):
            yield data[place - size : place]


if __name__ == "__main__":
    given: dict[str, Any] = json.load(sys.stdin)
    print(_run(**given), flush=True)
