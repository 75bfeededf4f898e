"""The sockets of a daemon."""

import contextlib
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from runtimed.errors import ConfigurationError
from runtimed.http.errors import ListenFailed
from runtimed.http.server.listeners import Address, Listeners


@pytest.mark.parametrize(
    "text", ["", "38800", "localhost", ":", ":x", "host:", "host:70000", "a b:1", "unix:", "[::1]"]
)
def test_an_address_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected HOST:PORT, :PORT or unix:PATH"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "prefix"),
    [("127.0.0.1:0", "http://127.0.0.1:"), ("[::1]:0", "http://[::1]:"), ("0.0.0.0:0", "http://127.0.0.1:")],
)
def test_the_url_is_one_that_a_client_on_this_host_can_dial(text: str, prefix: str) -> None:
    with contextlib.closing(Listeners.open([Address.parse(text)], insecure=True)) as listeners:
        assert listeners.urls[0].startswith(prefix)
        assert not listeners.urls[0].endswith(":0")


@pytest.mark.parametrize("text", ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"])
def test_an_address_that_other_machines_reach_needs_tls_or_leave_to_do_without(text: str) -> None:
    address = Address.parse(text)
    for refused in (address.check_closed, lambda: Listeners.open([address])):
        with pytest.raises(ConfigurationError, match=r"^listen: .*--tls-cert.*--insecure-listen"):
            refused()
    with contextlib.closing(Listeners.open([address], has_tls=True)) as listeners:
        assert listeners.bound_urls[0].startswith("https://")


def test_an_address_of_metrics_that_other_machines_reach_needs_leave_to_do_without_tls() -> None:
    address = Address.parse("0.0.0.0:0")
    for refused in (
        lambda: address.check_closed("listen_metrics"),
        lambda: Listeners.open([address], setting="listen_metrics"),
    ):
        with pytest.raises(ConfigurationError, match=r"^listen_metrics: 0\.0\.0\.0:\d+: .*--insecure-listen"):
            refused()


@pytest.mark.parametrize(
    "text", ["127.0.0.1:0", "127.5.6.7:0", "[::1]:0", "localhost:0", ":0", "[::ffff:127.0.0.1]:0"]
)
def test_loopback_needs_no_tls(text: str) -> None:
    Address.parse(text).check_closed()
    Listeners.open([Address.parse(text)]).close()


def test_a_socket_that_was_passed_is_judged_by_the_address_that_it_is_bound_to(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("0.0.0.0", 0)) as given:
        unix.bind(str(tmp_path / "s"))
        port = given.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"^listen: 0\.0\.0\.0:{port}: other machines can reach"):
            Listeners.open([Address.parse(":0")], [unix, given])
        assert Listeners.open([], [unix]).bound_urls == [f"unix:{tmp_path}/s"]
        assert Listeners.open([], [given], insecure=True).bound_urls == [f"http://0.0.0.0:{port}"]
        assert Listeners.open([], [given], has_tls=True).bound_urls == [f"https://0.0.0.0:{port}"]


def test_a_port_alone_is_one_of_loopback() -> None:
    with contextlib.closing(Listeners.open([Address.parse(":0")])) as listeners:
        assert listeners.sockets[0].getsockname()[0] == "127.0.0.1"
    assert Address.parse(":38800") == Address("127.0.0.1", 38800)


def test_a_socket_path_is_taken_up_to_its_last_byte(tmp_path: Path) -> None:
    longest = f"{tmp_path}/" + "s" * (107 - len(str(tmp_path)) - 1)
    with contextlib.closing(Listeners.open([Address.parse(f"unix:{longest}")])):
        assert Path(longest).is_socket()
    with pytest.raises(ConfigurationError, match="expected a path of at most 107 bytes"):
        Address.parse(f"unix:{longest}s")
    with pytest.raises(ConfigurationError, match="expected a path of at most 107 bytes"):
        Address.parse(f"unix:{longest[:-1]}ü")


def open_files() -> set[Path]:
    """What each descriptor of this process leads to."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(descriptor.readlink())
    return found


def test_a_taken_port_is_named_and_nothing_stays_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        before = open_files()
        unix = Address(path=str(tmp_path / "sock"))
        with pytest.raises(ListenFailed, match=f"127.0.0.1:{port}"):
            Listeners.open([unix, Address("127.0.0.1", 0), Address("127.0.0.1", port)])
        assert not (tmp_path / "sock").exists()
        assert open_files() <= before  # what others left to the garbage collector may go meanwhile


def test_a_unix_socket_is_private_and_removed_with_its_listener(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with contextlib.closing(Listeners.open([Address.parse(f"unix:{path}")])) as listeners:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert listeners.urls == [f"unix:{path}"]
    assert not path.exists()


def test_a_socket_file_that_nobody_answers_on_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with contextlib.closing(Listeners.open([Address.parse(f"unix:{path}")])), pytest.raises(ListenFailed):
        Listeners.open([Address.parse(f"unix:{path}")])


def test_a_file_in_the_way_of_a_unix_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    path.write_text("precious")
    with pytest.raises(ListenFailed):
        Listeners.open([Address.parse(f"unix:{path}")])
    assert path.read_text() == "precious"


def test_sockets_that_systemd_passes_are_taken_and_inherited_by_nobody(tmp_path: Path) -> None:
    """The variables name this very process, so it must be a new one that sets them for itself."""
    code = """
import os, socket, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
from runtimed.http.server.listeners import Address, Listeners, passed_by_systemd
listeners = Listeners.open([Address("127.0.0.1", 1)], passed_by_systemd())
print(listeners.urls[0], os.get_inheritable(3), "LISTEN_FDS" in os.environ)
"""
    with socket.create_server(("127.0.0.1", 0)) as given:
        done = subprocess.run(
            [sys.executable, "-c", code, str(given.fileno())],
            pass_fds=[given.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [f"http://127.0.0.1:{given.getsockname()[1]}", "False", "False"]


@pytest.mark.parametrize("count", ["1", "7"])
def test_what_systemd_passes_must_be_listening_sockets(tmp_path: Path, count: str) -> None:
    code = """
import os, sys
os.dup2(os.open("/dev/null", os.O_RDONLY), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[1])
from runtimed.http.errors import ListenFailed
from runtimed.http.server.listeners import passed_by_systemd
try:
    passed_by_systemd()
except ListenFailed as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, count], capture_output=True, text=True, check=True)
    assert "descriptor 3 of LISTEN_FDS" in done.stdout
