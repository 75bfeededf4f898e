"""The daemon as a process: its streams, its signals, and the errors at its start."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from runtimed.signals import STOP_SIGNALS
from tests import programs
from tests.certificates import Authority
from tests.programs import RUNTIMED

DEADLINE_S = 30
TOKEN = "a-secret-of-these-tests"


Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts daemons. Those that still run at the end of the test are killed."""
    with contextlib.ExitStack() as started:

        def start(*options: str, **how: Any) -> subprocess.Popen[str]:
            how = {"env": os.environ, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
            command = [*RUNTIMED, "--listen", "127.0.0.1:0", "--log-format", "text", *options]
            daemon = started.enter_context(programs.start(command, **how))
            started.callback(daemon.kill)
            return daemon

        yield start


def ended(daemon: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = daemon.communicate(timeout=DEADLINE_S)
    assert "Traceback" not in (err or "")
    return daemon.returncode, out, err


def next_line(daemon: subprocess.Popen[str]) -> str:
    assert daemon.stdout is not None
    return daemon.stdout.readline()


def next_log_line(daemon: subprocess.Popen[str]) -> str:
    assert daemon.stderr is not None
    return daemon.stderr.readline()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_shuts_the_daemon_down_gracefully(run: Run, number: signal.Signals) -> None:
    daemon = run(env=os.environ | {"RUNTIMED_TOKEN": TOKEN})
    line = next_line(daemon)
    assert line.startswith("runtimed: listening on http://127.0.0.1:")
    with unfinished_request(line.split()[3].removeprefix("http://")):
        daemon.send_signal(number)
        while "shutting down" not in next_log_line(daemon):
            assert daemon.poll() is None
        daemon.send_signal(number)
    assert ended(daemon)[0] == 0


@contextlib.contextmanager
def unfinished_request(host: str) -> Iterator[None]:
    """Keep a request open: the daemon does not end before it is complete."""
    name, _, port = host.rpartition(":")
    head = ["POST /v1/workers HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {TOKEN}"]
    head += ["Content-Type: application/json", "Content-Length: 2", "Expect: 100-continue"]
    with socket.create_connection((name, int(port)), DEADLINE_S) as client:
        client.sendall("\r\n".join([*head, "", ""]).encode())
        assert client.recv(64).startswith(b"HTTP/1.1 100 ")
        yield


def test_a_missing_service_manager_does_not_keep_the_daemon_from_serving(run: Run, tmp_path: Path) -> None:
    daemon = run(env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "none")})
    assert next_line(daemon).startswith("runtimed: listening on ")
    daemon.terminate()
    assert ended(daemon)[0] == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"])
def test_the_daemon_serves_with_closed_or_full_streams(run: Run, user_folders: Path, closed: str) -> None:
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "runtimed", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as daemon:
        try:
            until(lambda: list((user_folders / "run").glob("runtimed/*.json")) or daemon.poll() is not None)
            assert daemon.poll() is None
        finally:
            daemon.terminate()
        _, err = daemon.communicate(timeout=DEADLINE_S)
    assert daemon.returncode == 0
    assert b"Traceback" not in err


def test_a_generated_token_that_cannot_be_published_is_an_error(run: Run, user_folders: Path) -> None:
    (user_folders / "run").rmdir()
    (user_folders / "run").write_text("in the way")
    code, _, err = ended(run())
    assert code == 2
    assert "set RUNTIMED_TOKEN or token_file" in err


@pytest.mark.parametrize("kind", ["fifo", "long", "short", "folder", "symlink", "empty", "lax"])
def test_an_invalid_token_file_is_refused_in_one_line(run: Run, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "token"
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "folder":
        path.mkdir(mode=0o700)
    elif kind == "symlink":
        (tmp_path / "real").write_text(TOKEN)
        (tmp_path / "real").chmod(0o600)
        path.symlink_to(tmp_path / "real")
    else:
        path.write_text({"long": "x" * 2_000, "short": "x" * 15, "empty": "\n", "lax": TOKEN}[kind])
        path.chmod(0o644 if kind == "lax" else 0o600)
    code, _, err = ended(run("--token-file", str(path)))
    assert code == 2
    assert err.startswith("runtimed: token_file: ")
    assert err.count("\n") == 1


def test_the_name_that_the_daemon_listens_on_is_accepted_as_host(run: Run) -> None:
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
    except OSError:
        pytest.skip("the name of this machine has no address")
    daemon = run("--listen", f"{name}:0", "--insecure-listen", env={**os.environ, "RUNTIMED_TOKEN": TOKEN})
    next_line(daemon)
    lines = [next_log_line(daemon) for _ in range(2)]
    host, _, port = lines[-1].rpartition("http://")[2].strip().rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), DEADLINE_S) as client:
        request = f"GET /v1/runtime HTTP/1.1\r\nHost: {name}:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        client.sendall(f"{request}Connection: close\r\n\r\n".encode())
        assert client.recv(64).startswith(b"HTTP/1.1 200 ")
    daemon.terminate()
    assert ended(daemon)[0] == 0


REQUEST = "GET /v1/runtime HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer " + TOKEN + "\r\nConnection: close\r\n\r\n"


def test_a_daemon_with_tls_says_https_and_serves_nothing_else(
    run: Run, authority: Authority, user_folders: Path
) -> None:
    server = authority.issue("server")
    options = ("--tls-cert", str(server.cert), "--tls-key", str(server.key), "--listen", "0.0.0.0:0")
    socket_path = user_folders / "s"
    daemon = run("--listen", f"unix:{socket_path}", *options, env={**os.environ, "RUNTIMED_TOKEN": TOKEN})
    url = next_line(daemon).split()[3]
    lines = [next_log_line(daemon) for _ in range(3)]
    [file] = (user_folders / "run" / "runtimed").glob("*.json")
    endpoint = json.loads(file.read_text())
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    request = REQUEST.format(url.removeprefix("https://")).encode()

    with socket.create_connection(address, DEADLINE_S) as tcp:
        client = authority.client_context().wrap_socket(tcp, server_hostname="127.0.0.1")
        with contextlib.closing(client):
            client.sendall(request)
            assert client.recv(64).startswith(b"HTTP/1.1 200 ")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.settimeout(DEADLINE_S)
        unix.connect(str(socket_path))
        unix.sendall(request)
        assert unix.recv(64).startswith(b"HTTP/1.1 200 ")
    with socket.create_connection(address, DEADLINE_S) as tcp:
        tcp.sendall(request)
        assert not tcp.recv(64).startswith(b"HTTP")

    daemon.terminate()
    assert ended(daemon)[0] == 0
    assert url.startswith("https://127.0.0.1:")
    assert [line.rpartition("url=")[2].partition(":")[0] for line in lines] == ["https", "unix", "https"]
    assert (endpoint["url"], endpoint["certificate"]) == (url, str(server.cert))


def test_check_config_warns_of_an_expired_certificate_and_refuses_an_open_address(
    run: Run, authority: Authority
) -> None:
    expired = authority.issue("expired", days=-1)
    tls = ("--tls-cert", str(expired.cert), "--tls-key", str(expired.key))
    code, out, err = ended(run("--check-config", "--listen", "0.0.0.0:0", *tls))
    assert (code, out) == (0, "the configuration is valid\n")
    assert err == f"runtimed: tls_cert: {expired.cert}: clients will refuse it: certificate has expired\n"
    assert ended(run("--check-config", "--listen", "0.0.0.0:0"))[0] == 2
    assert ended(run("--check-config", "--listen", "0.0.0.0:0", "--insecure-listen"))[0] == 0


def test_an_open_address_without_tls_is_refused_before_anything_is_made(run: Run, tmp_path: Path) -> None:
    code, out, err = ended(run("--listen", "[::]:0", "--store", f"fs:{tmp_path}/store"))
    assert (code, out) == (2, "")
    assert err.startswith("runtimed: listen: [::]:0: other machines can reach this address, and it has no TLS: set ")
    assert "--insecure-listen" in err
    assert not (tmp_path / "store").exists()


def test_an_open_address_of_metrics_needs_insecure_listen_whether_or_not_there_is_tls(
    run: Run, tmp_path: Path, authority: Authority
) -> None:
    server = authority.issue("server")
    options = ("--listen-metrics", "0.0.0.0:0", "--store", f"fs:{tmp_path / 'store'}", "--listen", ":0")
    tls = ("--tls-cert", str(server.cert), "--tls-key", str(server.key))
    for further in ((), tls, ("--check-config",), ("--check-config", *tls)):
        code, out, err = ended(run(*options, *further))
        assert (code, out) == (2, "")
        assert err.startswith("runtimed: listen_metrics: 0.0.0.0:0: other machines can reach this address")
        assert "--insecure-listen" in err
    assert not (tmp_path / "store").exists()

    assert ended(run(*options, "--check-config", "--insecure-listen"))[0] == 0
    assert "listening on http://127.0.0.1:" in next_line(run(*options, "--insecure-listen"))


def test_an_open_socket_that_systemd_passes_is_refused_without_tls(tmp_path: Path, authority: Authority) -> None:
    """The variables name the process of the daemon, so that process sets them before it becomes the daemon."""
    code = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "runtimed", *sys.argv[2:]])
"""
    server = authority.issue("server")
    with socket.create_server(("0.0.0.0", 0)) as given:
        handed: dict[str, Any] = {
            "pass_fds": [given.fileno()],
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }
        command = [sys.executable, "-c", code, str(given.fileno()), "--store", f"fs:{tmp_path}/store"]

        refused = subprocess.run(command, **handed, timeout=DEADLINE_S, check=False)
        is_made = (tmp_path / "store").exists()
        tls = ("--tls-cert", str(server.cert), "--tls-key", str(server.key))
        with subprocess.Popen([*command, *tls], **handed) as accepted:
            line = next_line(accepted)
            accepted.terminate()

    where = f"0.0.0.0:{given_port(line)}"
    assert (refused.returncode, is_made) == (2, False)
    assert refused.stderr.startswith(f"runtimed: listen: {where}: other machines can reach this address")
    assert line.startswith(f"runtimed: listening on https://{where} ")


def given_port(line: str) -> str:
    """The port in a ready line."""
    return line.split()[3].rpartition(":")[2]


@pytest.mark.parametrize("option", ["--http-quick-path", "--no-http-quick-path"])
def test_it_serves_the_same_with_and_without_the_quick_path(run: Run, option: str) -> None:
    daemon = run(option, "--runtime-id", "here", env=os.environ | {"RUNTIMED_TOKEN": TOKEN})
    address = next_line(daemon).split()[3].removeprefix("http://")
    head = f"GET /v1/runtime HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\n"
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=DEADLINE_S) as client:
        client.sendall(f"{head}\r\n{head}Connection: close\r\n\r\n".encode())
        answers = client.makefile("rb").read()
    daemon.terminate()
    assert ended(daemon)[0] == 0
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == answers.count(b'"runtime_id":"here"') == 2


def test_an_unknown_variable_is_logged_as_a_warning(run: Run) -> None:
    daemon = run(env={**os.environ, "RUNTIMED_STROE": "fs:/x"})
    next_line(daemon)
    daemon.terminate()
    code, _, err = ended(daemon)
    assert code == 0
    assert "RUNTIMED_STROE" in err


def test_a_check_of_the_configuration_names_unknown_variables(run: Run) -> None:
    daemon = run("--check-config", env=os.environ | {"RUNTIMED_STROE": "memory"})
    message = "runtimed: environment: RUNTIMED_STROE is not a setting\n"
    assert ended(daemon) == (0, "the configuration is valid\n", message)


RunBroken = Callable[..., tuple[int, str]]


@pytest.fixture
def broken(run: Run, tmp_path: Path) -> RunBroken:
    """Starts a daemon that must fail, and returns the exit code and the line on stderr."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir(mode=0o700)

    def start(*options: str) -> tuple[int, str]:
        code, out, err = ended(run(*(option.format(tmp_path) for option in options)))
        assert out == ""
        return code, err.removesuffix("\n")

    return start


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("--store", "fs:{}/file/store"), 1, "store {}/file/store: Not a directory"),
        (("--store", "fs:{}/file"), 1, "store {}/file: expected a folder, not a symlink or a file"),
        (("--store", "fs:/proc/nowhere/store"), 1, "store /proc/nowhere/store: No such file or directory"),
        (
            ("--store", "fs:{}/none?create=no"),
            1,
            "store {}/none: the folder holds no store, and create=no creates none",
        ),
        (
            ("--store", "fs:{}/folder?create=no"),
            1,
            "store {}/folder: the folder holds no store, and create=no creates none",
        ),
        (("--token-file", "{}/none"), 2, "token_file: {}/none: No such file or directory: expected a regular file"),
        (("--token-file", "{}/folder"), 2, "token_file: {}/folder: expected a regular file"),
        (("--config", "{}/none.toml"), 2, "config: {}/none.toml: not found"),
        (("--config", "{}/folder"), 2, "config: {}/folder: Is a directory"),
        (("--listen", "unix:{}/none/socket"), 1, "cannot listen on unix:{}/none/socket: No such file or directory"),
        (
            ("--listen-metrics", "unix:{}/none/socket"),
            1,
            "cannot listen on unix:{}/none/socket: No such file or directory",
        ),
        (("--listen-metrics", "9464"), 2, "listen_metrics: '9464': expected HOST:PORT, :PORT or unix:PATH"),
        (
            ("--listen", "unix:{}/" + "s" * 120),
            2,
            "listen: unix:{}/" + "s" * 120 + ": expected a path of at most 107 bytes",
        ),
    ],
)
def test_a_start_that_fails_names_the_file_or_address(
    broken: RunBroken, tmp_path: Path, options: tuple[str, ...], status: int, said: str
) -> None:
    code, err = broken(*options)
    assert code == status
    assert err.startswith(f"runtimed: {said.format(tmp_path)}")
    assert "\n" not in err


def test_a_store_in_use_is_an_error_that_names_its_process(run: Run, broken: RunBroken, tmp_path: Path) -> None:
    daemon = run("--store", f"fs:{tmp_path}/store")
    next_line(daemon)
    assert broken("--store", "fs:{}/store") == (
        3,
        f"runtimed: store {tmp_path}/store: in use by process {daemon.pid}",
    )


def test_a_store_of_another_runtime_id_is_an_error_that_names_both_ids(
    run: Run, broken: RunBroken, tmp_path: Path
) -> None:
    daemon = run("--store", f"fs:{tmp_path}/store", "--runtime-id", "one")
    next_line(daemon)
    daemon.terminate()
    ended(daemon)
    assert broken("--store", "fs:{}/store", "--runtime-id", "two") == (
        3,
        f"runtimed: store {tmp_path}/store: belongs to runtime one, not two",
    )


def test_an_address_in_use_is_an_error_that_names_it(broken: RunBroken) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert broken("--listen", f"127.0.0.1:{port}") == (
            1,
            f"runtimed: cannot listen on 127.0.0.1:{port}: Address already in use",
        )


@pytest.mark.parametrize("kind", ["empty", "dangling", "folder"])
def test_an_invalid_database_does_not_count_as_an_existing_store(
    broken: RunBroken, tmp_path: Path, kind: str
) -> None:
    database = tmp_path / "store" / "runtime.sqlite3"
    database.parent.mkdir(mode=0o700)
    if kind == "empty":
        database.touch(0o600)
    elif kind == "dangling":
        database.symlink_to(tmp_path / "elsewhere.sqlite3")
    else:
        database.mkdir()

    code, said = broken("--store", "fs:{}/store?create=no")

    expected = f"runtimed: store {tmp_path}/store: the folder holds no store, and create=no creates none"
    assert (code, said) == (1, expected)
    assert [path.name for path in database.parent.iterdir()] == [database.name]
    assert not (tmp_path / "elsewhere.sqlite3").exists()


def test_create_no_opens_a_store_and_creates_none(run: Run, broken: RunBroken, tmp_path: Path) -> None:
    code, _ = broken("--store", "fs:{}/store?create=no")
    assert code == 1
    assert not (tmp_path / "store").exists()
    assert list((tmp_path / "folder").iterdir()) == []
    for query in ("", "?create=no", "?sync=normal&create=no"):
        daemon = run("--store", f"fs:{tmp_path}/store{query}")
        assert next_line(daemon).endswith(" store=fs\n")
        daemon.terminate()
        assert ended(daemon)[0] == 0


@pytest.mark.parametrize(
    ("address", "url", "dialed"),
    [("0.0.0.0:0", "http://0.0.0.0:", "http://127.0.0.1:"), ("[::]:0", "http://[::]:", "http://[::1]:")],
)
def test_a_wildcard_address_is_announced_as_bound_and_published_as_one_to_dial(
    user_folders: Path, address: str, url: str, dialed: str
) -> None:
    command = [sys.executable, "-m", "runtimed", "--listen", address, "--insecure-listen", "--log-format", "text"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            line = next_line(daemon)
            [file] = (user_folders / "run" / "runtimed").glob("*.json")
            endpoint = json.loads(file.read_text())["url"]
        finally:
            daemon.terminate()
        _, log = daemon.communicate(timeout=DEADLINE_S)
    port = line.split()[3].rpartition(":")[2]
    assert line.startswith(f"runtimed: listening on {url}{port} ")
    assert f"listening url={url}{port}" in log
    assert endpoint == f"{dialed}{port}"


@pytest.mark.parametrize(
    "options", [["--bogus"], ["extra"], ["--log-level", "loud"], ["--max-event-batch-items", "x"]]
)
def test_an_invalid_command_line_is_one_line_on_stderr_and_exit_2(run: Run, options: list[str]) -> None:
    code, out, err = ended(run(*options))
    assert (code, out) == (2, "")
    assert err.startswith("runtimed: ")
    assert err.count("\n") == 1


def stored(run: Run, folder: Path) -> None:
    """Let a daemon create a store, and stop it."""
    daemon = run("--store", f"fs:{folder}")
    next_line(daemon)
    daemon.terminate()
    assert ended(daemon)[0] == 0


def test_a_check_of_a_sound_store_finds_no_problem(run: Run, tmp_path: Path) -> None:
    stored(run, tmp_path / "store")
    code, out, err = ended(run("--check-store", f"fs:{tmp_path / 'store'}"))
    assert (code, out, err) == (0, "0 Workers, 0 entries and 0 events were read: no problem found\n", "")


def test_a_check_of_a_store_prints_each_problem_on_a_line(run: Run, tmp_path: Path) -> None:
    stored(run, tmp_path / "store")
    connection = apsw.Connection(str(tmp_path / "store" / "runtime.sqlite3"))
    connection.execute("INSERT INTO state VALUES (3, 0, 0, 0, 0, 0, 0, x'', 0, x'', 0)")
    connection.close()
    (tmp_path / "store" / "token").chmod(0o640)
    code, out, _ = ended(run("--check-store", f"fs:{tmp_path / 'store'}"))
    assert code == 1
    assert out.splitlines() == [
        "the file token has the mode 640: expected 600",
        "worker-00000003: its row is missing",
        "0 Workers, 0 entries and 0 events were read: 2 problems found",
    ]


def test_a_check_of_a_store_in_use_names_its_process(run: Run, tmp_path: Path) -> None:
    daemon = run("--store", f"fs:{tmp_path / 'store'}")
    next_line(daemon)
    code, out, err = ended(run("--check-store", f"fs:{tmp_path / 'store'}"))
    assert (code, out, err) == (3, "", f"runtimed: store {tmp_path}/store: in use by process {daemon.pid}\n")


@pytest.mark.parametrize("store", ["memory", "fs:", "elsewhere", "fs:nowhere"])
def test_a_check_without_a_store_is_a_usage_error(run: Run, tmp_path: Path, store: str) -> None:
    code, out, err = ended(run("--check-store", store, cwd=tmp_path))
    assert (code, out) == (2, "")
    assert "expected" in err
    assert not (tmp_path / "nowhere").exists()


def test_a_store_with_sync_normal_works_and_logs_a_warning(run: Run, tmp_path: Path) -> None:
    daemon = run("--store", f"fs:{tmp_path / 'store'}?sync=normal")
    assert next_line(daemon).startswith("runtimed: listening on ")
    daemon.terminate()
    code, _, err = ended(daemon)
    assert code == 0
    assert "sync=normal: a power cut loses the newest inputs, acknowledged ones too" in err
    assert (tmp_path / "store" / "runtime.sqlite3").exists()


def test_the_help_names_each_signal_that_ends_the_daemon(run: Run) -> None:
    _, out, _ = ended(run("--help"))
    assert [signal.Signals(number).name in out for number in STOP_SIGNALS] == [True] * len(STOP_SIGNALS)
