"""Which daemon a command asks, with which token, and the errors if there is none."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtimectl.conftest import Ctl, Daemon, ServeRaw, StartDaemon


@pytest.fixture
def lab(start_daemon: StartDaemon, tmp_path: Path) -> Daemon:
    """A daemon with a token file, and the options that name both."""
    token = tmp_path / "lab.token"
    token.touch(0o600)
    token.write_text("token-of-the-lab\n")
    daemon = start_daemon("--store", "memory", "--display-name", "lab", "--token-file", str(token))
    daemon.token_file = str(token)
    return daemon


@pytest.fixture
def other(start_daemon: StartDaemon) -> Daemon:
    """A second daemon."""
    return start_daemon("--store", "memory", "--display-name", "other")


def who(ctl: Ctl, *args: str, **settings: Any) -> str:
    found = ctl("status", "-o", "name", *args, **settings)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def test_the_only_running_daemon_is_found_without_options(ctl: Ctl, lab: Daemon) -> None:
    assert who(ctl) == lab.runtime_id


def test_without_a_daemon_the_error_says_how_to_start_one(ctl: Ctl) -> None:
    found = ctl("status")
    assert (found.returncode, found.stdout) == (6, "")
    assert found.stderr == "runtimectl: no daemon is running here; start one with: runtimed --store fs:PATH\n"


def test_several_daemons_are_listed_and_one_must_be_chosen(ctl: Ctl, lab: Daemon, other: Daemon) -> None:
    found = ctl("status")
    assert found.returncode == 2
    assert lab.url in found.stderr
    assert other.url in found.stderr
    assert who(ctl, "--url", other.url) == other.runtime_id


def test_options_come_before_environment_before_context_before_endpoint(
    ctl: Ctl, lab: Daemon, other: Daemon, start_daemon: StartDaemon
) -> None:
    ctl("context", "set", "lab", "--url", lab.url, "--token-file", lab.token_file)
    ctl("context", "set", "other", "--url", other.url)
    ctl("context", "use", "other")
    assert who(ctl) == other.runtime_id
    assert who(ctl, extra={"RUNTIMECTL_CONTEXT": "lab"}) == lab.runtime_id
    assert who(ctl, extra={"RUNTIMECTL_URL": lab.url, "RUNTIMECTL_CONTEXT": "other"}) == lab.runtime_id
    assert who(ctl, "--context", "other", extra={"RUNTIMECTL_URL": lab.url}) == other.runtime_id
    assert who(ctl, "--url", lab.url, extra={"RUNTIMECTL_URL": other.url}) == lab.runtime_id
    ctl("context", "remove", "other")
    assert ctl("status").returncode == 2


def test_a_token_comes_from_a_file_or_the_environment(ctl: Ctl, lab: Daemon, env: dict[str, str]) -> None:
    elsewhere = {"XDG_RUNTIME_DIR": env["HOME"]}
    assert ctl("status", "--url", lab.url, extra=elsewhere).returncode == 4
    assert who(ctl, "--url", lab.url, "--token-file", lab.token_file, extra=elsewhere) == lab.runtime_id
    for name, value in (("RUNTIMECTL_TOKEN", "token-of-the-lab"), ("RUNTIMECTL_TOKEN_FILE", lab.token_file)):
        assert who(ctl, "--url", lab.url, extra={**elsewhere, name: value}) == lab.runtime_id


def test_a_wrong_token_is_exit_4(ctl: Ctl, lab: Daemon) -> None:
    found = ctl("status", extra={"RUNTIMECTL_TOKEN": "another"})
    assert (found.returncode, found.stdout) == (4, "")
    assert found.stderr.startswith("runtimectl: unauthorized: ")
    found = ctl("events", "tail", "worker-00000001", extra={"RUNTIMECTL_TOKEN": "another"})
    assert found.returncode == 4


def test_the_token_of_a_context_is_sent_to_no_other_daemon(ctl: Ctl, serve_raw: ServeRaw, lab: Daemon) -> None:
    heard: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        heard.append(connection.recv(65536))

    ctl("context", "set", "lab", "--url", lab.url, "--token-file", lab.token_file)
    ctl("context", "use", "lab")
    assert ctl("status", "--url", serve_raw(handle)).returncode == 6
    assert b"GET /v1/runtime " in heard[0]
    assert b"token" not in heard[0]


def test_a_token_file_that_others_can_read_is_refused(ctl: Ctl, lab: Daemon) -> None:
    Path(lab.token_file).chmod(0o644)
    found = ctl("status", "--token-file", lab.token_file)
    assert found.returncode == 2
    assert found.stderr == f"runtimectl: token file {lab.token_file}: mode 0644 lets others read it; expected 0600\n"


@pytest.mark.parametrize("content", ["", "two words", "x" * 5000, "\x1b"])
def test_a_token_file_that_holds_no_token_is_refused(ctl: Ctl, lab: Daemon, content: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.token"
    path.touch(0o600)
    path.write_text(content)
    assert ctl("status", "--token-file", str(path)).returncode == 2


def test_a_daemon_on_a_unix_socket_is_reached_in_every_spelling(
    ctl: Ctl, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    path = tmp_path / "d.sock"
    daemon = start_daemon("--store", "memory", "--listen", f"unix:{path}")
    token = json.loads(next((tmp_path / "run" / "runtimed").glob("*.json")).read_text())["token"]
    for url in (f"unix:{path}", f"unix://{path}", f"http+unix://{str(path).replace('/', '%2F')}"):
        assert who(ctl, "--url", url, extra={"RUNTIMECTL_TOKEN": token}) == daemon.runtime_id


def test_a_port_where_nobody_listens_is_exit_6(ctl: Ctl, dead_url: str) -> None:
    found = ctl("status", "--url", dead_url)
    assert (found.returncode, found.stderr) == (6, f"runtimectl: cannot reach {dead_url}: Connection refused\n")
    assert ctl("status", "--url", "unix:/nowhere/at.sock").returncode == 6


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", 6),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{", 6),
        (b"SSH-2.0-something\r\n", 7),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", 7),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", 7),
        (b'HTTP/1.1 200 OK\r\n\r\n{"runtime": 1}', 7),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 7),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", 7),
        (b"HTTP/1.1 500 Oops\r\n\r\n<html>", 7),
        (b'HTTP/1.1 503 No\r\n\r\n{"error": {"code": "unavailable", "message": "later"}}', 7),
        (b'HTTP/1.1 507 Full\r\n\r\n{"error": {"code": "store_full", "message": "no room"}}', 7),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n<html>", 4),
        (b'HTTP/1.1 421 No\r\n\r\n{"error": {"code": "misdirected_request", "message": "who?"}}', 5),
        (b'HTTP/1.1 409 No\r\n\r\n{"error": {"code": "x", "message": "\x1b[31m"}}', 5),
    ],
)
def test_each_unexpected_response_has_its_exit_code_and_one_line(
    ctl: Ctl, serve_raw: ServeRaw, answer: bytes, code: int
) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    found = ctl("status", "--url", serve_raw(handle))
    assert (found.returncode, found.stdout) == (code, "")
    assert found.stderr.startswith("runtimectl: ")
    assert found.stderr.count("\n") == 1
    assert "\x1b" not in found.stderr


def test_a_daemon_that_hangs_ends_the_command_after_the_timeout(ctl: Ctl, serve_raw: ServeRaw) -> None:
    def handle(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    assert ctl("status", "--url", serve_raw(handle), "--timeout", "0.5").returncode == 8


@pytest.mark.parametrize("worker", [{}, {"worker_id": "w", "runtime_id": "r", "last_cursor": "wo_0"}])
@pytest.mark.parametrize("args", [("events", "tail"), ("transcript", "--follow")])
def test_a_worker_without_required_fields_is_exit_7(
    ctl: Ctl, serve_raw: ServeRaw, worker: dict[str, Any], args: tuple[str, ...]
) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps({"worker": worker}).encode())

    found = ctl(*args, "worker-00000001", "--url", serve_raw(handle))
    assert (found.returncode, found.stderr.count("\n")) == (7, 1)


@pytest.mark.parametrize("spelled", ["http://localhost:{}", "http://LOCALHOST:{}/", "http://127.0.0.1:{}/"])
def test_the_names_of_loopback_find_the_same_endpoint(ctl: Ctl, daemon: Daemon, other: Daemon, spelled: str) -> None:
    url = spelled.format(daemon.url.rpartition(":")[2])
    assert who(ctl, "--url", url) == daemon.runtime_id
    ctl("context", "set", "here", "--url", url)
    assert who(ctl, "--context", "here") == daemon.runtime_id


def test_the_token_of_an_endpoint_is_sent_to_its_address_whatever_localhost_resolves_to(
    ctl: Ctl, daemon: Daemon, tmp_path: Path
) -> None:
    """Another program listens on the same port of the other loopback address."""
    port = int(daemon.url.rpartition(":")[2])
    try:
        trap = socket.create_server(("::1", port), family=socket.AF_INET6)
    except OSError:
        pytest.skip("there is no IPv6 here")
    with trap:
        assert who(ctl, "--url", f"http://localhost:{port}") == daemon.runtime_id
        trap.settimeout(0)
        with pytest.raises(BlockingIOError):
            trap.accept()


@pytest.mark.parametrize(
    "command", [("status",), ("events", "tail", "--all"), ("workers", "delete", "worker-00000001")]
)
def test_without_a_token_the_error_names_the_places_that_were_searched(
    ctl: Ctl, lab: Daemon, env: dict[str, str], command: tuple[str, ...]
) -> None:
    found = ctl(*command, "--url", lab.url, extra={"XDG_RUNTIME_DIR": env["HOME"]})
    assert found.returncode == 4
    assert found.stderr.startswith(f"runtimectl: {'worker-00000001: ' if 'delete' in command else ''}unauthorized: ")
    for place in ("no token found", "--token-file", "RUNTIMECTL_TOKEN_FILE", "RUNTIMECTL_TOKEN", lab.url):
        assert place in found.stderr
    assert f"{env['HOME']}/runtimed" in found.stderr


def test_without_a_token_the_error_names_the_context(ctl: Ctl, lab: Daemon, env: dict[str, str]) -> None:
    ctl("context", "set", "bare", "--url", lab.url)
    found = ctl("status", "--context", "bare", extra={"XDG_RUNTIME_DIR": env["HOME"]})
    assert found.returncode == 4
    assert "--context bare" in found.stderr


LeaveEndpoint = Callable[[str], int]


@pytest.fixture
def gone(env: dict[str, str]) -> LeaveEndpoint:
    """Writes the endpoint file of a daemon that was killed, and returns its process id."""

    def leave(url: str) -> int:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        folder = Path(env["XDG_RUNTIME_DIR"]) / "runtimed"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "gone.json").write_text(
            json.dumps({"url": url, "runtime_id": "gone", "pid": ended.pid, "token": "t"})
        )
        return ended.pid

    return leave


def test_without_a_daemon_the_error_names_the_process_that_has_ended(ctl: Ctl, gone: LeaveEndpoint) -> None:
    pid = gone("http://127.0.0.1:1")
    found = ctl("status")
    assert found.returncode == 6
    assert f"process {pid} that served http://127.0.0.1:1 has ended" in found.stderr


def test_a_daemon_whose_process_has_ended_is_exit_6_even_if_its_socket_is_open(ctl: Ctl, gone: LeaveEndpoint) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        pid = gone(url)
        began = time.monotonic()
        found = ctl("status", "--url", url)
    assert (found.returncode, found.stdout) == (6, "")
    assert found.stderr == f"runtimectl: cannot reach {url}: process {pid} that served it has ended\n"
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("command", ["status", "workers list", "events tail --all"])
def test_no_token_is_sent_to_another_process_at_the_address_of_an_ended_daemon(
    ctl: Ctl, gone: LeaveEndpoint, serve_raw: ServeRaw, tmp_path: Path, command: str
) -> None:
    heard: list[bytes] = []
    leaving = threading.Event()

    def handle(connection: socket.socket) -> None:
        connection.settimeout(20)
        while not leaving.is_set() and (part := connection.recv(65536)):
            heard.append(part)

    url = serve_raw(handle)
    gone(url)
    found = ctl(*command.split(), "--url", url, extra={"RUNTIMECTL_TOKEN": "of-the-daemon"})
    leaving.set()
    assert found.returncode == 6
    assert b"of-the-daemon" not in b"".join(heard)


PATIENT = """
import sys
from runtimectl.client import http
from runtimectl.cli import main

def patiently(address, answers=http._answers):
    http.SILENCE_S, silence_s = 60.0, http.SILENCE_S
    try:
        return answers(address)
    finally:
        http.SILENCE_S = silence_s

http._answers = patiently
sys.exit(main())
"""
"""A `runtimectl` that waits long enough for the daemon at an ended one's address, on a busy machine too."""


def test_a_slow_daemon_is_awaited_at_the_address_of_an_ended_one(
    env: dict[str, str], gone: LeaveEndpoint, serve_raw: ServeRaw
) -> None:
    body = b'{"runtime": {"runtime_id": "slow"}}'
    answer = b"HTTP/1.1 200 OK\r\n\r\n" + body

    def handle(connection: socket.socket) -> None:
        if b"/v1/workers" in connection.recv(65536):
            answers.append(kept.enter_context(connection.dup()))
        else:
            connection.sendall(answer)
            for waiting in answers:
                waiting.sendall(b'HTTP/1.1 200 OK\r\n\r\n{"workers": []}')
                waiting.close()

    answers: list[socket.socket] = []
    url = serve_raw(handle)
    gone(url)
    command = [sys.executable, "-c", PATIENT, "workers", "list", "--url", url, "-o", "json"]
    with contextlib.ExitStack() as kept:
        found = subprocess.run(
            command, env={**env, "RUNTIMECTL_TOKEN": "x"}, capture_output=True, text=True, timeout=60, check=False
        )
    assert (found.returncode, found.stdout) == (0, '{"workers": []}\n')
