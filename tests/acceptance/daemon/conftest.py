"""The daemon as a process, and a client that knows the contract and nothing of the code."""

import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests import programs
from tests.acceptance.conftest import Shaped
from tests.certificates import Authority
from tests.conftest import COVERAGE_VARIABLES, granting, make_shared
from tests.programs import RUNTIMED

REPOSITORY = Path(__file__).parents[3]
CURL = shutil.which("curl")
DEADLINE_S = 60.0
"""How long is waited for what must come about; no test waits that long on a machine that is not overloaded."""
JSON_TYPE = "application/json"
ZERO = "wo_0000000000000000"
EARLIER_WORKERS = 300
"""How many Workers a shared daemon has had before the first test: more than a page, and than a byte can count."""

SAYING = frozenset({"execution", "transcript_len", "last_event_id", "last_cursor"})
"""The fields of a Worker that its output changes."""

T = TypeVar("T")


class Until(Protocol):
    def __call__(self, condition: Callable[[], T | None]) -> T: ...


def until(condition: Callable[[], T | None]) -> T:
    """The first true answer of `condition`; fails at the deadline."""
    end = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)
    return found


@dataclass(frozen=True)
class Answer:
    """One HTTP response."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes
    shaped: Shaped = field(repr=False)

    def __post_init__(self) -> None:
        assert not [name for name, _ in self.headers if name.lower().startswith("access-control-")]
        assert b"Traceback" not in self.body

    def header(self, name: str) -> str | None:
        """The value of a header, None without it."""
        return next((value for found, value in self.headers if found.lower() == name.lower()), None)

    def ok(self, key: str, shape: str | None = None) -> Any:
        """What a 200 holds under its only key, strictly decoded."""
        assert self.status == 200, self.body
        assert self.header("Content-Type") == JSON_TYPE
        value = json.loads(self.body)
        assert list(value) == [key]
        if shape:
            self.shaped(value[key], shape)
        return value[key]

    def refused(self, status: int, code: str) -> str:
        """The message of an error, strictly decoded."""
        assert self.status == status, self.body
        assert self.header("Content-Type") == JSON_TYPE
        value = json.loads(self.body)
        self.shaped(value, "Error")
        assert value["error"]["code"] == code, value
        return str(value["error"]["message"])


class NoEvent(Exception):
    """A feed has told something else."""


class Observer:
    """One feed socket; every frame is strictly decoded."""

    def __init__(self, connection: ClientConnection, shaped: Shaped) -> None:
        self.connection = connection
        self.shaped = shaped

    def frame(self) -> dict[str, Any]:
        """The next frame."""
        text = self.connection.recv(timeout=DEADLINE_S)
        assert isinstance(text, str)
        value: dict[str, Any] = json.loads(text)
        self.shaped(value, "Frame")
        return value

    def envelope(self) -> dict[str, Any]:
        """The envelope of the next frame. Raises NoEvent where that is not an event."""
        frame = self.frame()
        if "envelope" not in frame:
            raise NoEvent(frame)
        envelope: dict[str, Any] = frame["envelope"]
        return envelope

    def up_to(self, name: str) -> list[dict[str, Any]]:
        """The envelopes up to the next event of that name, with it."""
        found = [self.envelope()]
        while found[-1]["payload"]["event"] != name:
            found.append(self.envelope())
        return found

    def up_to_cursor(self, cursor: str) -> list[dict[str, Any]]:
        """The envelopes up to that cursor, with it."""
        found = [self.envelope()]
        while found[-1]["cursor"] != cursor:
            found.append(self.envelope())
        return found

    def rest(self) -> list[dict[str, Any]]:
        """The frames up to the close by the daemon."""
        found = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                found.append(self.frame())
        return found


class Daemon:
    """One `python -m runtimed`, its files under `home`. With an authority it serves TLS."""

    def __init__(
        self,
        home: Path,
        shaped: Shaped,
        store: str,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        plain: bool = False,
        authority: Authority | None = None,
        **process: Any,
    ) -> None:
        if authority is not None:
            server = authority.issue("server")
            options = (*options, "--tls-cert", str(server.cert), "--tls-key", str(server.key))
        self.authority = authority
        self.home = home
        self.shaped = shaped
        self.store = store
        # Below a wrapper it may be a user or in a place that cannot write what is measured.
        self.given = ({} if wrapper else COVERAGE_VARIABLES) | dict(environment or {})
        self.others: set[str] = set()
        self.newest = ""
        self.command = [*wrapper, *RUNTIMED, *options]
        if not plain:
            self.command += [] if "--store" in options else ["--store", store]
            self.command += [] if "--listen" in options else ["--listen", "127.0.0.1:0"]
        self.name = secrets.token_hex(4)
        with self._file("out").open("wb") as out, self._file("err").open("wb") as err:
            streams = {"stdout": out, "stderr": err, "stdin": subprocess.DEVNULL}
            self.process = programs.start(self.command, self.environment, cwd=home, **streams, **process)

    @property
    def environment(self) -> dict[str, str]:
        """A plain environment in which nothing of the user is found."""
        folder = self.home / "run"
        folder.mkdir(mode=0o700, exist_ok=True)
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(folder),
            "XDG_CONFIG_HOME": str(self.home / "config"),
        } | self.given

    def _file(self, name: str) -> Path:
        return self.home / f"{self.name}.{name}"

    @property
    def output(self) -> str:
        return self._file("out").read_text()

    @property
    def errors(self) -> str:
        return self._file("err").read_text()

    @property
    def pid(self) -> int:
        return self.process.pid

    def ready(self) -> "Daemon":
        """Wait for the line that says where it serves."""
        until(lambda: self.output.endswith("\n") or self.process.poll() is not None)
        match = re.fullmatch(r"runtimed: listening on (\S+) runtime=(\S+) store=(memory|fs)\n", self.output)
        assert match, self.errors
        self.url, self.runtime_id = match[1], match[2]
        self.path = self.url.removeprefix("unix:") if self.url.startswith("unix:") else None
        self.host = "localhost" if self.path else self.url.partition("://")[2]
        if port := re.search(r":(\d+)$", self.host):
            self.address = (self.host[: port.start()].strip("[]"), int(port[1]))
        self.token = self._token()
        return self

    @property
    def endpoint(self) -> Path:
        return self.home / "run" / "runtimed" / f"{self.runtime_id}.json"

    def _token(self) -> str:
        if "RUNTIMED_TOKEN" in self.given:
            return self.given["RUNTIMED_TOKEN"]
        path = Path(self.store.removeprefix("fs:")) / "token"
        if self.store.startswith("fs:") and path.exists():
            return path.read_text().strip()
        found = json.loads(self.endpoint.read_text())
        return str(found.get("token") or Path(found["token_file"]).read_text().strip())

    def ended(self) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(DEADLINE_S)

    def stop(self) -> None:
        """SIGTERM, and a clean end."""
        self.process.send_signal(signal.SIGTERM)
        assert self.ended() == 0, self.errors
        self.clean()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.ended()
        self.clean()

    def clean(self) -> None:
        """What holds of each daemon whatever happened to it."""
        assert "Traceback" not in self.errors, self.errors
        assert self.output.count("\n") <= 1 or "--help" in self.command

    def finish(self) -> None:
        """Leave nothing running."""
        try:
            if self.process.poll() is None:
                self.stop()
        finally:
            self.process.kill()
            self.process.wait()
        self.clean()

    def dial(self) -> socket.socket:
        """Open a connection: by TCP, TLS or a Unix socket, as the daemon serves."""
        if self.path is not None:
            unix = socket.socket(socket.AF_UNIX)
            unix.settimeout(DEADLINE_S)
            unix.connect(self.path)
            return unix
        tcp = socket.create_connection(self.address, timeout=DEADLINE_S)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.authority is None:
            return tcp
        return self.authority.client_context().wrap_socket(tcp, server_hostname=self.address[0])

    def headers(self, body: Any, headers: Sequence[str], token: str | None, content_type: str | None) -> list[str]:
        """The header lines of a request."""
        found = list(headers)
        if token is not None:
            found.append(f"Authorization: Bearer {token or self.token}")
        if body is not None:
            found.append(f"Content-Type: {content_type or ''}")
        return found

    def curl(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Sequence[str] = (),
        *,
        token: str | None = "",
        content_type: str | None = JSON_TYPE,
        options: Sequence[str] = (),
    ) -> Answer:
        """A request by curl. `token` None sends none, "" the right one; `content_type` None sends none."""
        lines = self.headers(body, headers, token, content_type)
        if CURL is None:
            pytest.skip("curl is not installed")
        command = [CURL, "-q", "-sS", "-i", "--http1.1", "--path-as-is", "-X", method, *options]
        command += ["--max-time", f"{DEADLINE_S:g}"]
        command += ["--noproxy", "*", "-H", "Expect:", *(part for line in lines for part in ("-H", line))]
        command += ["-I"] if method == "HEAD" else []
        command += ["--data-binary", "@-"] if body is not None else []
        command += ["--cacert", str(self.authority.ca)] if self.authority else []
        command += ["--unix-socket", self.path] if self.path else []
        url = path if path.startswith("http://") else f"{'http://localhost' if self.path else self.url}{path}"
        limit_s = 2 * DEADLINE_S
        done = subprocess.run([*command, url], input=_bytes(body), capture_output=True, timeout=limit_s, check=False)
        assert done.returncode == 0, done.stderr
        return _parsed(done.stdout, self.shaped)

    def call(self, method: str, path: str, body: Any = None, headers: Sequence[str] = (), **given: Any) -> Answer:
        """The same as `curl`, in this process, where a test needs many."""
        token, content_type = given.get("token", ""), given.get("content_type", JSON_TYPE)
        lines = self.headers(body, headers, token, content_type)
        connection = http.client.HTTPConnection(self.host, timeout=DEADLINE_S)
        connection.sock = self.dial()
        with contextlib.closing(connection):
            connection.request(method, path, _bytes(body), dict(line.split(": ", 1) for line in lines))
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read(), self.shaped)

    def raw(self, *parts: bytes) -> Answer | None:
        """What is answered to these very bytes; None when the connection is closed without an answer."""
        with self.dial() as connection:
            with contextlib.suppress(ConnectionError):
                for part in parts:
                    connection.sendall(part)
            return answered(connection, self.shaped)

    def raw_answer(self, *parts: bytes) -> Answer:
        """What is answered to these very bytes. Fails when there is no answer."""
        answer = self.raw(*parts)
        assert answer is not None, "the connection was closed without an answer"
        return answer

    def head(self, line: str, *headers: str, host: str | None = None) -> bytes:
        """The bytes of a request's head, with the right token and Host."""
        lines = [line, f"Host: {host or self.host}", f"Authorization: Bearer {self.token}", *headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @contextlib.contextmanager
    def observe(self, worker_id: str, cursor: str | None = None, **given: Any) -> Iterator[Observer]:
        """Observe a Worker by a WebSocket."""
        with self._observe(self.feed_url(worker_id, cursor), **given) as observer:
            yield observer

    @contextlib.contextmanager
    def observe_all(self, query: str = "", **given: Any) -> Iterator[Observer]:
        """Observe all Workers by a WebSocket."""
        with self._observe(f"ws://{self.host}/v1/events/ws{query}", **given) as observer:
            yield observer

    @contextlib.contextmanager
    def _observe(self, url: str, **given: Any) -> Iterator[Observer]:
        headers = {"Authorization": f"Bearer {self.token}"} | given.pop("headers", {})
        with connect(
            url,
            sock=self.dial(),
            additional_headers=headers,
            proxy=None,
            max_size=None,
            max_queue=None,
            open_timeout=DEADLINE_S,
            **given,
        ) as connection:
            yield Observer(connection, self.shaped)

    def feed_url(self, worker_id: str, cursor: str | None = None) -> str:
        query = "" if cursor is None else f"?cursor={cursor}"
        return f"ws://{self.host}/v1/workers/{worker_id}/events/ws{query}"

    def runtime(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", "/v1/runtime").ok("runtime", "RuntimeSummary")
        return found

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", "/v1/workers").ok("workers")
        for worker in found:
            self.shaped(worker, "WorkerSummary")
        return found

    def worker(self, worker_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/v1/workers/{worker_id}").ok("worker", "WorkerDetail")
        return found

    def bundles(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", "/v1/config-bundles").ok("bundles")
        return found

    def items(self, worker_id: str) -> list[dict[str, Any]]:
        path = f"/v1/workers/{worker_id}/transcript"
        found: list[dict[str, Any]] = self.call("GET", path).ok("transcript", "TranscriptProjection")["items"]
        return found

    def create(self, **request: Any) -> str:
        """A new Worker; its id."""
        return str(self.call("POST", "/v1/workers", request).ok("worker", "WorkerDetail")["worker_id"])

    def echo(self) -> str:
        return self.create(profile={"kind": "builtin", "value": "builtin:echo"})

    def unknown_worker(self) -> str:
        """An id that no Worker of this daemon has or had: far above the newest."""
        newest = max([self.newest, *self.younger()]).removeprefix("worker-") or "0"
        return f"worker-{int(newest, 16) + (1 << 24):08x}"

    def younger(self) -> list[str]:
        """The Workers since the test began."""
        after = f"?after={self.newest}" if self.newest else ""
        return [worker["worker_id"] for worker in self.call("GET", f"/v1/workers{after}").ok("workers")]

    def begin(self) -> None:
        """Another test begins: the Workers so far are those of others."""
        self.others.update(found := self.younger())
        self.newest = max([self.newest, *found])

    def shell(self) -> str:
        profile = {"kind": "builtin", "value": "builtin:shell"}
        worker_id = self.create(profile=profile, requested_capabilities=[{"name": "shell"}])
        assert self.worker(worker_id)["execution"]["run_state"] == "idle"
        return worker_id

    def input(self, worker_id: str, content: str, kind: str = "user") -> dict[str, Any]:
        """An accepted input; its ack."""
        answer = self.call("POST", f"/v1/workers/{worker_id}/input", {"kind": kind, "content": content})
        ack: dict[str, Any] = answer.ok("ack", "InteractionAck")
        return ack

    def idle(self, worker_id: str) -> None:
        """Wait for the end of the run."""
        until(lambda: self.worker(worker_id)["execution"]["run_state"] != "busy")

    def run(self, worker_id: str, content: str, kind: str = "user") -> list[dict[str, Any]]:
        """The events of one whole run."""
        ack = self.input(worker_id, content, kind)
        self.idle(worker_id)
        return [event for event in self.log(worker_id) if event["cursor"] >= ack["cursor"]]

    def log(self, worker_id: str) -> list[dict[str, Any]]:
        """All events of a Worker so far."""
        newest = self.worker(worker_id)["last_cursor"]
        with self.observe(worker_id, ZERO) as observer:
            return observer.up_to_cursor(newest)[1:] if newest != ZERO else []

    def busy_workers(self) -> list[str]:
        """The Workers since the test began whose run is not over."""
        after = f"&after={self.newest}" if self.newest else ""
        workers = self.call("GET", f"/v1/workers?status=running{after}").ok("workers")
        return [worker["worker_id"] for worker in workers if worker["execution"]["run_state"] == "busy"]

    def state(self) -> list[Answer]:
        """All that a refused request must leave alone, and what the Workers of other tests say."""
        found = [self.call("GET", f"/v1/{name}") for name in ("workers", "runtime", "config-bundles")]
        assert [answer.status for answer in found] == [200, 200, 200]
        return found

    def without_sayings(self, state: list[Answer]) -> Any:
        """The same without what the Workers of other tests may still say."""
        listing, *rest = state
        workers = {worker["worker_id"]: worker for worker in listing.ok("workers")}
        for other in self.others & workers.keys():
            workers[other] = {name: value for name, value in workers[other].items() if name not in SAYING}
        return workers, *(answer.body for answer in rest)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Whatever is asked within changes nothing."""
        before = self.state()
        yield
        after = self.state()
        if [answer.body for answer in after] != [answer.body for answer in before]:
            assert self.without_sayings(after) == self.without_sayings(before)


Launch = Callable[..., Daemon]


def _bytes(body: Any) -> bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def _parsed(data: bytes, shaped: Shaped) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Answer(int(first.split()[1]), pairs, body, shaped)


def answered(connection: socket.socket, shaped: Shaped) -> Answer | None:
    """The response that comes on a connection; None when it is closed without one."""
    response = http.client.HTTPResponse(connection)
    with contextlib.closing(response):
        try:
            response.begin()
            return Answer(response.status, response.getheaders(), response.read(), shaped)
        except (ConnectionError, http.client.BadStatusLine):
            return None


def _start(home: Path, shaped: Shaped, name: str, authority: Authority | None = None) -> Iterator[Daemon]:
    store = f"fs:{home / 'store'}" if name == "fs" else "memory"
    options = ("--listen", f"unix:{home / 'socket'}") if name == "unix" else ()
    config = home / "config" / "runtimed" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(granting(make_shared(home)))
    made = Daemon(home, shaped, store, options, authority=authority)
    try:
        yield _used(made.ready())
    finally:
        made.finish()


def _used(daemon: Daemon) -> Daemon:
    """Have a daemon look as after many tests: what a test assumes of a fresh one fails always, not in some orders."""
    with contextlib.closing(http.client.HTTPConnection(daemon.host, timeout=DEADLINE_S)) as connection:
        connection.sock = daemon.dial()
        for _ in range(EARLIER_WORKERS):
            headers = {"Authorization": f"Bearer {daemon.token}", "Content-Type": JSON_TYPE}
            connection.request("POST", "/v1/workers", b"{}", headers)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
    stopped, deleted = daemon.echo(), daemon.echo()
    for worker_id in (stopped, deleted):
        daemon.run(worker_id, "hello")
        daemon.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")
    assert daemon.call("DELETE", f"/v1/workers/{deleted}").status == 204
    return daemon


@pytest.fixture(scope="session")
def memory_daemon(tmp_path_factory: pytest.TempPathFactory, shaped: Shaped) -> Iterator[Daemon]:
    yield from _start(tmp_path_factory.mktemp("memory"), shaped, "memory")


@pytest.fixture(scope="session")
def fs_daemon(tmp_path_factory: pytest.TempPathFactory, shaped: Shaped) -> Iterator[Daemon]:
    yield from _start(tmp_path_factory.mktemp("fs"), shaped, "fs")


@pytest.fixture(scope="session")
def tls_daemon(tmp_path_factory: pytest.TempPathFactory, shaped: Shaped, authority: Authority) -> Iterator[Daemon]:
    yield from _start(tmp_path_factory.mktemp("tls"), shaped, "tls", authority)


@pytest.fixture(scope="session")
def unix_daemon(tmp_path_factory: pytest.TempPathFactory, shaped: Shaped) -> Iterator[Daemon]:
    yield from _start(tmp_path_factory.mktemp("unix"), shaped, "unix")


@pytest.fixture(params=["memory", "fs"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon that all tests share, one for each store: assume nothing of others, and leave no run behind."""
    yield from shared_daemon(request)


one_store = pytest.mark.parametrize("daemon", ["fs"], indirect=True)
"""Runs a test with one of the two: what is refused before any store is asked needs no other."""

EACH_TRANSPORT = (
    "fs",
    pytest.param("tls", marks=pytest.mark.xdist_group("tls daemon")),
    pytest.param("unix", marks=pytest.mark.xdist_group("unix daemon")),
)
"""The shared daemons by their transports: TCP, TLS and a Unix socket. The last two run once for all processes."""


def shared_daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """The shared daemon that the parameter of a fixture names: `memory`, `fs`, `tls` or `unix`.

    A run that ends during the next test would change what that test finds unchanged.
    """
    shared: Daemon = request.getfixturevalue(f"{request.param}_daemon")
    shared.begin()
    yield shared
    until(lambda: not shared.busy_workers())


@pytest.fixture(params=["memory", "fs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The `--store` of a daemon of the test's own."""
    return "memory" if request.param == "memory" else f"fs:{tmp_path / 'store'}"


@pytest.fixture
def launch(tmp_path: Path, shaped: Shaped) -> Iterator[Launch]:
    """Start daemons of the test's own; each ends with SIGTERM and exit 0 unless the test ended it."""
    with contextlib.ExitStack() as made:

        def start(*options: str, store: str = "memory", env: Mapping[str, str] | None = None, **given: Any) -> Daemon:
            one = Daemon(tmp_path, shaped, store, options, env, **given)
            made.callback(one.finish)
            return one

        yield start


@pytest.fixture(name="until")
def until_fixture() -> Until:
    return until
