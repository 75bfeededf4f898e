"""The daemon as a process: its streams, its signals, and what it refuses to start with."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import apsw
import pytest

from runtimed.daemon import STOP_SIGNALS

DEADLINE_S = 30


@pytest.fixture
def run() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the daemon; whatever still runs at the end is killed."""
    with contextlib.ExitStack() as started:

        def start(*options, **how):
            how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
            command = [sys.executable, "-m", "runtimed", "--listen", "127.0.0.1:0", "--log-format", "text", *options]
            daemon = started.enter_context(subprocess.Popen(command, **how))
            started.callback(daemon.kill)
            return daemon

        yield start


def ended(daemon):
    out, err = daemon.communicate(timeout=DEADLINE_S)
    assert "Traceback" not in (err or "")
    return daemon.returncode, out, err


def until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_good_order(run, number):
    daemon = run(env=os.environ | {"RUNTIMED_TOKEN": "secret"})
    line = daemon.stdout.readline()
    assert line.startswith("runtimed: listening on http://127.0.0.1:")
    with unfinished_request(line.split()[3].removeprefix("http://")):
        daemon.send_signal(number)
        while "shutting down" not in daemon.stderr.readline():
            assert daemon.poll() is None
        daemon.send_signal(number)
    assert ended(daemon)[0] == 0


@contextlib.contextmanager
def unfinished_request(host):
    """Keep a request open that a daemon waits for before it ends, so it lives as long as the context lasts."""
    name, _, port = host.rpartition(":")
    head = ["POST /v1/workers HTTP/1.1", f"Host: {host}", "Authorization: Bearer secret"]
    head += ["Content-Type: application/json", "Content-Length: 2", "Expect: 100-continue"]
    with socket.create_connection((name, int(port)), DEADLINE_S) as client:
        client.sendall("\r\n".join([*head, "", ""]).encode())
        assert client.recv(64).startswith(b"HTTP/1.1 100 ")
        yield


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told_when_it_serves_and_when_it_stops(run, tmp_path, abstract):
    name = f"@runtimed-{os.getpid()}-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0"))
        manager.settimeout(DEADLINE_S)
        daemon = run(env=os.environ | {"NOTIFY_SOCKET": name})
        assert manager.recv(64) == b"READY=1"
        daemon.terminate()
        assert manager.recv(64) == b"STOPPING=1"
    assert ended(daemon)[0] == 0


def test_a_service_manager_that_is_gone_keeps_nobody_from_serving(run, tmp_path):
    daemon = run(env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "none")})
    assert daemon.stdout.readline().startswith("runtimed: listening on ")
    daemon.terminate()
    assert ended(daemon)[0] == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"])
def test_it_serves_whatever_its_streams_are(run, user_folders, closed):
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


def test_a_token_that_could_be_told_to_nobody_is_no_token(run, user_folders):
    (user_folders / "run").rmdir()
    (user_folders / "run").write_text("in the way")
    code, _, err = ended(run())
    assert code == 2
    assert "set RUNTIMED_TOKEN or token_file" in err


@pytest.mark.parametrize("kind", ["fifo", "long", "folder", "symlink", "empty", "lax"])
def test_a_token_file_that_is_none_is_refused_in_one_line(run, tmp_path, kind):
    path = tmp_path / "token"
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "folder":
        path.mkdir(mode=0o700)
    elif kind == "symlink":
        (tmp_path / "real").write_text("secret")
        (tmp_path / "real").chmod(0o600)
        path.symlink_to(tmp_path / "real")
    else:
        path.write_text({"long": "x" * 2_000, "empty": "\n", "lax": "secret"}[kind])
        path.chmod(0o644 if kind == "lax" else 0o600)
    code, _, err = ended(run("--token-file", str(path)))
    assert code == 2
    assert err.startswith("runtimed: token_file: ")
    assert err.count("\n") == 1


def test_the_name_that_it_listens_on_is_a_host_of_its_own(run):
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
    except OSError:
        pytest.skip("the name of this machine has no address")
    daemon = run("--listen", f"{name}:0", env={**os.environ, "RUNTIMED_TOKEN": "secret"})
    daemon.stdout.readline()
    lines = [daemon.stderr.readline() for _ in range(2)]
    host, _, port = lines[-1].rpartition("http://")[2].strip().rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), DEADLINE_S) as client:
        request = f"GET /v1/runtime HTTP/1.1\r\nHost: {name}:{port}\r\nAuthorization: Bearer secret\r\n"
        client.sendall(f"{request}Connection: close\r\n\r\n".encode())
        assert client.recv(64).startswith(b"HTTP/1.1 200 ")
    daemon.terminate()
    assert ended(daemon)[0] == 0


@pytest.mark.parametrize("option", ["--http-quick-path", "--no-http-quick-path"])
def test_it_serves_the_same_with_and_without_the_quick_path(run, option):
    daemon = run(option, "--runtime-id", "here", env=os.environ | {"RUNTIMED_TOKEN": "secret"})
    address = daemon.stdout.readline().split()[3].removeprefix("http://")
    head = f"GET /v1/runtime HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer secret\r\n"
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=DEADLINE_S) as client:
        client.sendall(f"{head}\r\n{head}Connection: close\r\n\r\n".encode())
        answers = client.makefile("rb").read()
    daemon.terminate()
    assert ended(daemon)[0] == 0
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == answers.count(b'"runtime_id":"here"') == 2


def test_a_variable_that_is_no_setting_is_warned_of(run):
    daemon = run(env={**os.environ, "RUNTIMED_STROE": "fs:/x"})
    daemon.stdout.readline()
    daemon.terminate()
    code, _, err = ended(daemon)
    assert code == 0
    assert "RUNTIMED_STROE" in err


def test_a_check_of_the_configuration_tells_of_a_variable_that_is_no_setting(run):
    daemon = run("--check-config", env=os.environ | {"RUNTIMED_STROE": "memory"})
    said = "runtimed: the environment has RUNTIMED_STROE, which is no setting\n"
    assert ended(daemon) == (0, "the configuration is fine\n", said)


@pytest.fixture
def broken(run, tmp_path):
    """Tries a start that must fail; gives the exit code and the one line on stderr."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir(mode=0o700)

    def start(*options):
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
        (("--store", "fs:{}/none?create=no"), 1, "store {}/none: there is no store in it, and create=no makes none"),
        (
            ("--store", "fs:{}/folder?create=no"),
            1,
            "store {}/folder: there is no store in it, and create=no makes none",
        ),
        (("--token-file", "{}/none"), 2, "token_file: {}/none: No such file or directory: expected a regular file"),
        (("--token-file", "{}/folder"), 2, "token_file: {}/folder: expected a regular file"),
        (("--config", "{}/none.toml"), 2, "config: {}/none.toml: not found"),
        (("--config", "{}/folder"), 2, "config: {}/folder: Is a directory"),
        (("--listen", "unix:{}/none/socket"), 1, "cannot listen on unix:{}/none/socket: No such file or directory"),
        (
            ("--listen", "unix:{}/" + "s" * 120),
            2,
            "listen: unix:{}/" + "s" * 120 + ": expected a path of at most 107 bytes",
        ),
    ],
)
def test_a_start_that_fails_names_the_file_that_it_is_about(broken, tmp_path, options, status, said):
    code, err = broken(*options)
    assert code == status
    assert err.startswith(f"runtimed: {said.format(tmp_path)}")
    assert "\n" not in err


def test_a_store_that_another_daemon_holds_is_named(run, broken, tmp_path):
    daemon = run("--store", f"fs:{tmp_path}/store")
    daemon.stdout.readline()
    assert broken("--store", "fs:{}/store") == (
        3,
        f"runtimed: store {tmp_path}/store: in use by process {daemon.pid}",
    )


def test_a_store_of_another_runtime_id_is_named(run, broken, tmp_path):
    daemon = run("--store", f"fs:{tmp_path}/store", "--runtime-id", "one")
    daemon.stdout.readline()
    daemon.terminate()
    ended(daemon)
    assert broken("--store", "fs:{}/store", "--runtime-id", "two") == (
        3,
        f"runtimed: store {tmp_path}/store: belongs to runtime one, not two",
    )


def test_an_address_in_use_is_named(broken):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert broken("--listen", f"127.0.0.1:{port}") == (
            1,
            f"runtimed: cannot listen on 127.0.0.1:{port}: Address already in use",
        )


@pytest.mark.parametrize("kind", ["empty", "dangling", "folder"])
def test_what_is_no_database_is_no_store_that_is_there(broken, tmp_path, kind):
    database = tmp_path / "store" / "runtime.sqlite3"
    database.parent.mkdir(mode=0o700)
    if kind == "empty":
        database.touch(0o600)
    elif kind == "dangling":
        database.symlink_to(tmp_path / "elsewhere.sqlite3")
    else:
        database.mkdir()

    code, said = broken("--store", "fs:{}/store?create=no")

    expected = f"runtimed: store {tmp_path}/store: there is no store in it, and create=no makes none"
    assert (code, said) == (1, expected)
    assert [path.name for path in database.parent.iterdir()] == [database.name]
    assert not (tmp_path / "elsewhere.sqlite3").exists()


def test_a_store_that_must_be_there_is_opened_and_not_made(run, broken, tmp_path):
    code, _ = broken("--store", "fs:{}/store?create=no")
    assert code == 1
    assert not (tmp_path / "store").exists()
    assert list((tmp_path / "folder").iterdir()) == []
    for query in ("", "?create=no", "?sync=normal&create=no"):
        daemon = run("--store", f"fs:{tmp_path}/store{query}")
        assert daemon.stdout.readline().endswith(" store=fs\n")
        daemon.terminate()
        assert ended(daemon)[0] == 0


@pytest.mark.parametrize(
    ("address", "url", "dialed"),
    [("0.0.0.0:0", "http://0.0.0.0:", "http://127.0.0.1:"), ("[::]:0", "http://[::]:", "http://[::1]:")],
)
def test_a_wildcard_address_is_announced_as_it_is_and_published_as_one_to_dial(user_folders, address, url, dialed):
    command = [sys.executable, "-m", "runtimed", "--listen", address, "--log-format", "text"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            line = daemon.stdout.readline()
            [file] = (user_folders / "run" / "runtimed").glob("*.json")
            endpoint = json.loads(file.read_text())["url"]
        finally:
            daemon.terminate()
        _, log = daemon.communicate(timeout=DEADLINE_S)
    port = line.split()[3].rpartition(":")[2]
    assert line.startswith(f"runtimed: listening on {url}{port} ")
    assert f"listening on {url}{port}" in log
    assert endpoint == f"{dialed}{port}"


@pytest.mark.parametrize(
    "options", [["--bogus"], ["extra"], ["--log-level", "loud"], ["--max-event-batch-items", "x"]]
)
def test_wrong_usage_is_told_in_one_line(run, options):
    code, out, err = ended(run(*options))
    assert (code, out) == (2, "")
    assert err.startswith("runtimed: ")
    assert err.count("\n") == 1


def stored(run, folder):
    """A store that a daemon has made and let go of."""
    daemon = run("--store", f"fs:{folder}")
    daemon.stdout.readline()
    daemon.terminate()
    assert ended(daemon)[0] == 0


def test_a_check_of_a_store_reads_all_of_it_and_finds_nothing(run, tmp_path):
    stored(run, tmp_path / "store")
    code, out, err = ended(run("--check-store", f"fs:{tmp_path / 'store'}"))
    assert (code, out, err) == (0, "0 Workers, 0 entries and 0 events were read: no problem found\n", "")


def test_a_check_of_a_store_tells_each_problem_in_a_line(run, tmp_path):
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


def test_a_check_of_a_store_that_is_served_names_the_owner(run, tmp_path):
    daemon = run("--store", f"fs:{tmp_path / 'store'}")
    daemon.stdout.readline()
    code, out, err = ended(run("--check-store", f"fs:{tmp_path / 'store'}"))
    assert (code, out, err) == (3, "", f"runtimed: store {tmp_path}/store: in use by process {daemon.pid}\n")


@pytest.mark.parametrize("store", ["memory", "fs:", "elsewhere", "fs:nowhere"])
def test_a_check_of_no_store_is_wrong_usage(run, tmp_path, store):
    code, out, err = ended(run("--check-store", store, cwd=tmp_path))
    assert (code, out) == (2, "")
    assert "expected" in err
    assert not (tmp_path / "nowhere").exists()


def test_a_store_that_may_lose_what_it_acknowledged_is_warned_of_and_works(run, tmp_path):
    daemon = run("--store", f"fs:{tmp_path / 'store'}?sync=normal")
    assert daemon.stdout.readline().startswith("runtimed: listening on ")
    daemon.terminate()
    code, _, err = ended(daemon)
    assert code == 0
    assert "sync=normal: a power cut loses the newest inputs, acknowledged ones too" in err
    assert (tmp_path / "store" / "runtime.sqlite3").exists()


def test_the_help_names_each_signal_that_ends_the_daemon(run):
    _, out, _ = ended(run("--help"))
    assert [signal.Signals(number).name in out for number in STOP_SIGNALS] == [True] * len(STOP_SIGNALS)
