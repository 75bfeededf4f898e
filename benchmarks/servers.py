"""The servers of a run: the daemon and its baselines."""

import contextlib
import http.client
import json
import secrets
import shutil
import socket
import sysconfig
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from benchmarks.processes import Program, python

REQUEST_DEADLINE_S = 60.0
CREATING = 8
"""The Workers that are created at the same time, so that they share commits."""

HEARTBEAT_S = 3_600
"""So long that no observer of a run is pinged."""


SWITCHED = b"HTTP/1.1 101 "
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


class Server(Program):
    """A program that serves HTTP and prints its address in a line when it is ready. Requests carry a token."""

    token = secrets.token_urlsafe(32)

    def read_address(self) -> None:
        """Wait for the line with the address."""
        line = self.read_line()
        url = urlsplit(next(word for word in line.split() if word.startswith("http://")))
        self.address = (str(url.hostname), int(url.port or 0))

    @property
    def url(self) -> str:
        """The URL that it serves."""
        host, port = self.address
        return f"http://{host}:{port}"

    def head(self, method: str, path: str, *fields: str) -> bytes:
        """Return the head of a request."""
        host, port = self.address
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{port}", f"Authorization: Bearer {self.token}", *fields]
        return "\r\n".join([*lines, "", ""]).encode()

    def upgrade(self, path: str) -> bytes:
        """Return the head of a WebSocket handshake."""
        return self.head("GET", path, *UPGRADE)

    def request_bytes(self, method: str, path: str, body: Any = None) -> bytes:
        """Return the bytes of a whole request."""
        if body is None:
            return self.head(method, path)
        data = json.dumps(body).encode()
        return self.head(method, path, "Content-Type: application/json", f"Content-Length: {len(data)}") + data

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Send a request on a new connection, and return the status and the body of the response."""
        connection = http.client.HTTPConnection(*self.address, timeout=REQUEST_DEADLINE_S)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """Return the decoded response to a GET."""
        return self._decoded(*self.ask("GET", path))

    def post(self, path: str, body: Any) -> Any:
        """Return the decoded response to a POST."""
        return self._decoded(*self.ask("POST", path, body))

    def _decoded(self, status: int, body: bytes) -> Any:
        if status != http.client.OK:
            raise AssertionError(f"{status}: {body.decode(errors='replace')}")
        return json.loads(body)


def handshake(connection: socket.socket) -> tuple[bytes, float]:
    """Wait for the response to a handshake.

    Returns:
        The bytes after the response, at least one, and the CLOCK_MONOTONIC time at which the response began.

    Raises:
        ConnectionError: The server refused the handshake.
    """
    said, answered = b"", 0.0
    while not said.partition(b"\r\n\r\n")[2]:
        read = connection.recv(2**10)
        said += read
        answered = answered or time.monotonic()
        if not read or not said.startswith(SWITCHED[: len(said)]):
            raise ConnectionError(said.decode(errors="replace"))
    return said.partition(b"\r\n\r\n")[2], answered


class Daemon(Server):
    """A `runtimed` whose endpoint file and log are in its own folder.

    `program` is the installed `runtimed`, or `python -m benchmarks.host` for the same with the LoadBackend.

    Attributes:
        ready_s: The seconds from its start until it served.
    """

    def __init__(
        self,
        program: list[str],
        folder: Path,
        *,
        store: str = "memory",
        settings: Mapping[str, object] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        given = {"heartbeat_s": HEARTBEAT_S, **(settings or {})}
        environment = {f"RUNTIMED_{name.upper()}": str(value) for name, value in given.items()}
        environment |= {"RUNTIMED_TOKEN": self.token, "XDG_RUNTIME_DIR": str(folder), "XDG_CONFIG_HOME": str(folder)}
        arguments = ["--listen", "127.0.0.1:0", "--store", store, "--log-level", "warning"]
        super().__init__([*program, *arguments], folder / "log", environment)

    def __enter__(self) -> Self:
        began = time.monotonic()
        super().__enter__()
        with contextlib.ExitStack() as unless_it_serves:
            unless_it_serves.push(self)
            self.read_address()
            unless_it_serves.pop_all()
        self.ready_s = time.monotonic() - began
        return self

    def create_worker(self, **request: Any) -> str:
        """Create a Worker, and return its id."""
        return str(self.post("/v1/workers", request)["worker"]["worker_id"])

    def create_workers(self, count: int) -> list[str]:
        """Create Workers, and return their ids."""
        with ThreadPoolExecutor(CREATING) as threads:
            return list(threads.map(lambda _: self.create_worker(), range(count)))


class Baseline(Server):
    """One of the programs in `benchmarks.baselines`. `answer` is the body of its responses, if it has any."""

    def __init__(self, name: str, folder: Path, *, answer: bytes = b"") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._answer = answer
        super().__init__(python(f"benchmarks.baselines.{name}"), folder / f"{name}.log")

    def __enter__(self) -> Self:
        super().__enter__()
        with contextlib.ExitStack() as unless_it_serves:
            unless_it_serves.push(self)
            self.say(self._answer.decode())
            self.read_address()
            unless_it_serves.pop_all()
        return self


def installed() -> list[str]:
    """Return the argv of the `runtimed` that is installed for this interpreter."""
    return [str(Path(sysconfig.get_path("scripts")) / "runtimed")]


def loaded() -> list[str]:
    """Return the argv of `runtimed` with the LoadBackend."""
    return python("benchmarks.host")


def remove(folder: Path) -> None:
    """Remove what a case has left on the disk."""
    shutil.rmtree(folder, ignore_errors=True)
