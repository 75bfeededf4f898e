"""The daemon and its observers as separate processes, and what a test may do to them."""

import contextlib
import http.client
import json
import os
import re
import resource
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

REPOSITORY = Path(__file__).parents[3]
PROGRAMS = Path(__file__).parent / "programs"
DEADLINE_S = 30.0
ZERO = "wo_0000000000000000"
UNCONFINED = '[sandbox]\nmode = "off"\n'
"""The configuration of daemons whose processes tests look at."""

T = TypeVar("T")
Call = Callable[..., Any]
Stopped = Callable[..., contextlib.AbstractContextManager[None]]


class Until(Protocol):
    def __call__(self, condition: Callable[[], T | None], what: str = ..., deadline_s: float = ...) -> T: ...


def until(condition: Callable[[], T | None], what: str = "the condition", deadline_s: float = DEADLINE_S) -> T:
    """Return the first true answer of `condition`. Raises AssertionError at the deadline."""
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not come about within {deadline_s:g} s"
        time.sleep(0.02)
    return found


def children(pid: int) -> set[int]:
    """Return the children of a process."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(map(int, task.read_text().split()))
    return found


def descendants(pid: int) -> set[int]:
    """Return the descendants of a process."""
    found = children(pid)
    return found.union(*(descendants(child) for child in found))


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Stop processes that still run by SIGSTOP, and send SIGCONT at the end."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class Daemon:
    """One `python -m runtimed` on an `fs:` store, its files under `home`.

    `without` names a protection that it runs without, see programs/unprotected.py; `settings` are those of the
    environment, by their names. Its Workers are not confined, unless a configuration says so: a sandbox would end
    processes that the daemon is to find by itself.
    """

    def __init__(
        self,
        home: Path,
        *options: str,
        settings: Mapping[str, object] | None = None,
        without: str | None = None,
        listen: str = "127.0.0.1:0",
        environment: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.home = home
        program = ["-m", "runtimed"] if without is None else [str(PROGRAMS / "unprotected.py"), without]
        store = f"fs:{home / 'store'}"
        self.command = [*wrapper, sys.executable, *program, "--store", store, "--listen", listen, *options]
        self.name = secrets.token_hex(4)
        config = home / "config" / "runtimed" / "config.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(UNCONFINED)
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            **{f"RUNTIMED_{name.upper()}": str(value) for name, value in (settings or {}).items()},
            **(environment or {}),
        }
        with self._file("out").open("wb") as out, self._file("err").open("wb") as err:
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=home, stdout=out, stderr=err, stdin=subprocess.DEVNULL
            )

    def _file(self, name: str) -> Path:
        return self.home / f"{self.name}.{name}"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> list[str]:
        """The lines of its log."""
        return self._file("err").read_text().splitlines()

    def ready(self) -> "Daemon":
        """Wait until it serves."""
        until(lambda: self._file("out").read_text().endswith("\n") or self.process.poll() is not None, "the start")
        match = re.match(r"runtimed: listening on http://(\S+):(\d+) ", self._file("out").read_text())
        assert match, self.log
        self.host, self.port = match[1], int(match[2])
        self.token = (self.home / "store" / "token").read_text().strip()
        return self

    def allow_descriptors(self, soft: int) -> None:
        """Set its limit of open descriptors."""
        hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (min(soft, hard), hard))

    def agents(self) -> set[int]:
        """The processes that it has started: one for each shell."""
        return children(self.pid)

    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return len(list(self._descriptor_targets()))

    def connections(self, peer: str) -> int:
        """Return how many connections with an IPv4 address it has open."""
        sockets = self._sockets(peer) | self._sockets(peer)  # the kernel may leave some out of a table that changes
        return sum(target in sockets for target in self._descriptor_targets())

    def _sockets(self, peer: str) -> set[str]:
        address = int.from_bytes(socket.inet_aton(peer), "little")
        table = [line.split() for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]]
        return {f"socket:[{fields[9]}]" for fields in table if int(fields[2].split(":")[0], 16) == address}

    def _descriptor_targets(self) -> Iterator[str]:
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                yield str(entry.readlink())

    def resident_bytes(self) -> int:
        """Its resident memory in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @contextlib.contextmanager
    def client(self, timeout_s: float = DEADLINE_S) -> Iterator[Call]:
        """Yield a function that sends requests on one connection, and returns the value under the only key."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)

        def call(method: str, path: str, body: Any = None) -> Any:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            data = response.read()
            assert response.status == 200, data
            (value,) = json.loads(data).values()
            return value

        with contextlib.closing(connection):
            yield call

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request on a new connection."""
        with self.client() as call:
            return call(method, path, body)

    def create(self, profile: str) -> str:
        """Create a Worker, and return its id."""
        request = {"profile": {"kind": "builtin", "value": f"builtin:{profile}"}}
        worker = self.call("POST", "/v1/workers", request | {"requested_capabilities": [{"name": "shell"}]})
        assert worker["execution"]["run_state"] == "idle", worker
        return str(worker["worker_id"])

    def worker(self, worker_id: str, call: Call | None = None) -> dict[str, Any]:
        found: dict[str, Any] = (call or self.call)("GET", f"/v1/workers/{worker_id}")
        return found

    def newest(self, worker_id: str, call: Call | None = None) -> int:
        """Return the sequence of a Worker's newest event."""
        return int(self.worker(worker_id, call)["last_event_id"])

    def start(self, worker_id: str, content: str, call: Call | None = None) -> None:
        """Start a run of a Worker."""
        (call or self.call)("POST", f"/v1/workers/{worker_id}/input", {"kind": "user", "content": content})

    def idle(self, worker_id: str, call: Call | None = None, deadline_s: float = DEADLINE_S) -> None:
        """Wait for the end of a Worker's run."""

        def is_idle() -> bool:
            return bool(self.worker(worker_id, call)["execution"]["run_state"] == "idle")

        until(is_idle, f"{worker_id}'s run_end", deadline_s)

    def run(self, worker_id: str, content: str, call: Call | None = None, deadline_s: float = DEADLINE_S) -> None:
        """Start a run of a Worker, and wait for its end."""
        self.start(worker_id, content, call)
        self.idle(worker_id, call, deadline_s)

    def terminate(self) -> int:
        """Send SIGTERM, and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        """Send SIGKILL. Does nothing if it has ended."""
        self.process.kill()
        self.process.wait()


class Crowd:
    """The observers of programs/crowd.py in a separate process. That module lists the commands of `tell`."""

    def __init__(self, daemon: Daemon, plan: Mapping[str, Any], wrapper: Sequence[str] = ()) -> None:
        command = [*wrapper, sys.executable, str(PROGRAMS / "crowd.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._resume = plan.get("resume", False)
        usual: dict[str, Any] = {
            "resume": False,
            "connections": 0,
            "receive_buffer": None,
            "pace": None,
            "observers": [],
        }
        address = {"host": daemon.host, "port": daemon.port, "token": daemon.token}
        self._say(json.dumps(usual | address | dict(plan)))

    @property
    def pid(self) -> int:
        return self.process.pid

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")

    def tell(self, command: str) -> Any:
        """Send a command, and return its answer."""
        self._say(command)
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], DEADLINE_S)
        assert readable, f"the crowd did not answer to {command}"
        return json.loads(self.process.stdout.readline())

    def until(self, name: str, least: int, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Return the first state with a figure that high. Raises AssertionError if an observer has ended."""

        def state() -> dict[str, Any] | None:
            found: dict[str, Any] = self.tell("state")
            assert name == "ends" or self._resume or not found["ends"], "an observer was cut"
            return found if found[name] >= least else None

        return until(state, f"{name} of {least}", deadline_s)

    def reports(self) -> list[dict[str, Any]]:
        """Return what each observer has seen."""
        found: list[dict[str, Any]] = self.tell("report")
        return found

    def leave(self) -> None:
        """End all connections."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.process.wait()


Launch = Callable[..., Daemon]
Observe = Callable[..., Crowd]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start daemons on the store of the test. Those that still run at its end are killed."""
    with contextlib.ExitStack() as made:

        def start(*options: str, **given: Any) -> Daemon:
            one = Daemon(tmp_path, *options, **given)
            made.callback(one.kill)
            return one.ready()

        yield start


@pytest.fixture
def observe() -> Iterator[Observe]:
    """Observe Workers of a daemon in a separate process, each by `number` observers from a cursor on."""
    with contextlib.ExitStack() as made:

        def start(
            daemon: Daemon,
            *workers: str,
            number: int = 1,
            cursor: str | None = ZERO,
            wrapper: Sequence[str] = (),
            **plan: Any,
        ) -> Crowd:
            observers = [(worker, cursor) for worker in workers for _ in range(number)]
            crowd = Crowd(daemon, {"observers": observers, **plan}, wrapper)
            made.callback(crowd.leave)
            crowd.until("connected", len(observers))
            return crowd

        yield start


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether to use the full numbers (`--faults=long`)."""
    return bool(request.config.getoption("faults", "short") == "long")


@pytest.fixture
def long_run(long: bool) -> None:
    """Skip the test unless `--faults=long` is given."""
    if not long:
        pytest.skip("this takes long: --faults=long")


@pytest.fixture(name="until")
def until_fixture() -> Until:
    return until


@pytest.fixture(name="stopped")
def stopped_fixture() -> Stopped:
    return stopped


@pytest.fixture(name="descendants")
def descendants_fixture() -> Callable[[int], set[int]]:
    return descendants
