"""A daemon for each test that needs one, and `runtimectl` as users start it."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

import runtimectl
from tests import programs
from tests.conftest import COVERAGE_VARIABLES, granting
from tests.programs import RUNTIMECTL, RUNTIMED

DEADLINE_S = 60
REFUSED = "python3 -c 'import urllib.request as r; r.urlopen(\"http://10.0.0.1/\")' 2>&1 | tail -1"
"""A script that asks for an address that `network = "public"` refuses."""

REFUSAL = "network: connection to 10.0.0.1:80 refused: its address is not public, and no rule writes the address out"
ROOT = Path(runtimectl.__file__).parent.parent


class Daemon:
    """A `runtimed` process that serves until `end`. `token_file` is for the test that gives it one."""

    url: str
    runtime_id: str
    token_file: str

    def __init__(self, env: dict[str, str], *options: str) -> None:
        command = [*RUNTIMED, "--listen", "127.0.0.1:0", *options]
        self.process = programs.start(command, env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def await_ready(self) -> None:
        assert self.process.stdout is not None
        ready = re.fullmatch(
            r"runtimed: listening on (\S+) runtime=(\S+) store=\w+\n", self.process.stdout.readline()
        )
        assert ready is not None, "the daemon printed no ready line"
        self.url, self.runtime_id = ready.groups()

    def end(self, with_signal: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        self.process.wait(DEADLINE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Tail:
    """A `runtimectl` process in the background, whose output a test can wait for."""

    def __init__(self, env: dict[str, str], *args: str) -> None:
        self.process = programs.start(
            [*RUNTIMECTL, *args], env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.out: list[str] = []
        self.err: list[str] = []
        streams = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._readers = [threading.Thread(target=_collect, args=pair) for pair in streams]
        for reader in self._readers:
            reader.start()

    def wait_for(self, text: str, *, stream: str = "out") -> None:
        wait_until(lambda: any(text in line for line in getattr(self, stream)), f"{text!r} on std{stream}")

    def finished(self) -> int:
        code = self.process.wait(DEADLINE_S)
        for reader in self._readers:
            reader.join(DEADLINE_S)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.finished()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


Until = Callable[[Callable[[], object], str], None]
Ctl = Callable[..., subprocess.CompletedProcess[str]]
StartCtl = Callable[..., Tail]
StartDaemon = Callable[..., Daemon]
NewWorker = Callable[..., str]
ServeRaw = Callable[[Callable[[socket.socket], None]], str]


def _collect(stream: TextIO, into: list[str]) -> None:
    while line := stream.readline():
        into.append(line)


def wait_until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.02)


@pytest.fixture
def until() -> Until:
    """Waits until a condition holds."""
    return wait_until


@pytest.fixture
def env(plain_env: dict[str, str]) -> dict[str, str]:
    """The environment of every process of a test: its own folders, and nothing of the user's."""
    return plain_env | COVERAGE_VARIABLES


@pytest.fixture
def plain_env(user_folders: Path) -> dict[str, str]:
    """The same for a process whose imports are counted: measuring it would add some."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(user_folders / "home"),
        "XDG_RUNTIME_DIR": str(user_folders / "run"),
        "XDG_CONFIG_HOME": str(user_folders / "config"),
        "LANG": "C.UTF-8",
    }


@pytest.fixture
def start_daemon(env: dict[str, str], user_folders: Path, shared: Path) -> Iterator[StartDaemon]:
    """Starts a daemon with these options; without any, with a memory store. Its Workers can write to `shared`."""
    started: list[Daemon] = []
    config = user_folders / "config" / "runtimed" / "config.toml"
    config.parent.mkdir()
    config.write_text(granting(shared))

    def start(*options: str) -> Daemon:
        started.append(Daemon(env, *(options or ("--store", "memory"))))
        started[-1].await_ready()
        return started[-1]

    yield start
    for daemon in started:
        daemon.end()


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    """A daemon with an empty memory store."""
    return start_daemon()


@pytest.fixture
def ctl(env: dict[str, str]) -> Ctl:
    """Runs `runtimectl` to its end. `extra` adds variables, `stdin` is piped in."""

    def run(*args: str, stdin: str = "", extra: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return programs.run([*RUNTIMECTL, *args], {**env, **(extra or {})}, text=stdin, timeout=DEADLINE_S)

    return run


@pytest.fixture
def start_ctl(env: dict[str, str]) -> Iterator[StartCtl]:
    """Starts `runtimectl` in the background."""
    started: list[Tail] = []

    def start(*args: str) -> Tail:
        started.append(Tail(env, *args))
        return started[-1]

    yield start
    for tail in started:
        tail.close()


@pytest.fixture
def dead_url() -> Iterator[str]:
    """A URL at which nothing listens, and nothing can start to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def serve_raw() -> Iterator[ServeRaw]:
    """Starts a server that passes each connection to a function. Returns its URL."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(handle: Callable[[socket.socket], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threads.append(threading.Thread(target=_accept, args=(listener, handle)))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield serve
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(DEADLINE_S)


def _accept(listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError, IndexError):  # the client is gone, or sent nothing
            handle(connection)


@pytest.fixture
def new_worker(daemon: Daemon, ctl: Ctl) -> NewWorker:
    """Creates a Worker and returns its id."""

    def create(*options: str) -> str:
        return ctl("workers", "create", "-o", "name", *options).stdout.strip()

    return create
