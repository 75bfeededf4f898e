"""Interface section 1, targets section 3: the files of a daemon, whatever the umask and whoever planted links."""

import json
import stat
from pathlib import Path

from tests.acceptance.daemon.conftest import Daemon, Launch

from .conftest import until

OF_SANDBOXES = {"scripts", "tmp"}
"""Folders in that of a Worker that its own user sees in its sandbox. The folder above closes them to all others."""


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_store_is_closed_to_others_under_any_umask(launch: Launch, tmp_path: Path) -> None:
    store = tmp_path / "store"
    daemon = launch(store=f"fs:{store}", umask=0).ready()
    daemon.run(daemon.echo(), "hello")
    daemon.run(daemon.shell(), "echo hello")
    for when in ("running", "stopped"):
        assert _mode(store) == 0o700, when
        for path in store.rglob("*"):
            if OF_SANDBOXES & {*path.relative_to(store).parts}:
                continue
            assert _mode(path) == (0o700 if path.is_dir() else 0o600), (when, path)
        if when == "running":
            daemon.stop()


def test_the_token_of_a_store_is_in_its_folder(launch: Launch, tmp_path: Path) -> None:
    daemon = launch(store=f"fs:{tmp_path / 'store'}").ready()
    token = (tmp_path / "store" / "token").read_text().strip()
    daemon.curl("GET", "/v1/runtime", None, [f"Authorization: Bearer {token}"], token=None).ok("runtime")


def test_the_endpoint_file_tells_the_owner_alone_where_the_daemon_is(launch: Launch, store: str) -> None:
    daemon = launch(store=store, umask=0).ready()
    assert (_mode(daemon.endpoint), _mode(daemon.endpoint.parent)) == (0o600, 0o700)
    found = json.loads(daemon.endpoint.read_text())
    assert (found["url"], found["runtime_id"], found["pid"]) == (daemon.url, daemon.runtime_id, daemon.pid)
    token = found.get("token") or Path(found["token_file"]).read_text().strip()
    daemon.curl("GET", "/v1/runtime", None, [f"Authorization: Bearer {token}"], token=None).ok("runtime")
    daemon.stop()
    assert not daemon.endpoint.exists()


def test_an_endpoint_file_that_a_killed_daemon_left_behind_is_replaced(launch: Launch) -> None:
    daemon = launch("--runtime-id", "mine").ready()
    daemon.kill()
    assert daemon.endpoint.exists()
    again = launch("--runtime-id", "mine").ready()
    assert json.loads(again.endpoint.read_text())["pid"] == again.pid


def test_a_second_daemon_of_the_same_runtime_id_is_not_published_while_the_first_lives(
    launch: Launch, tmp_path: Path
) -> None:
    daemon = launch(store=f"fs:{tmp_path / 'store'}").ready()
    before = daemon.endpoint.read_bytes()
    restored = tmp_path / "restored"
    second = launch("--runtime-id", daemon.runtime_id, store=f"fs:{restored}").ready()
    assert second.echo()
    (told,) = [line for line in second.errors.splitlines() if "cannot publish" in line]
    assert f"--url {second.url} --token-file {restored / 'token'}" in told
    second.stop()
    assert daemon.endpoint.read_bytes() == before
    daemon.stop()
    assert not daemon.endpoint.exists()


def test_a_token_that_could_not_be_told_keeps_a_daemon_from_starting(launch: Launch) -> None:
    first = launch("--runtime-id", "mine").ready()
    second = launch("--runtime-id", "mine")
    assert second.ended() == 2
    assert f"mine.json belongs to another daemon (process {first.pid}, {first.url})" in second.errors
    assert "set RUNTIMED_TOKEN or token_file" in second.errors


def test_planted_symlinks_are_not_followed(launch: Launch, tmp_path: Path) -> None:
    first = tmp_path / "first"
    made = launch(store=f"fs:{first}").ready()
    made.echo()
    made.stop()
    names = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    assert Path("token") in names
    for number, name in enumerate(names):
        store, victim = tmp_path / f"store-{number}", tmp_path / f"victim-{number}"
        (store / name).parent.mkdir(mode=0o700, parents=True)
        store.chmod(0o700)
        victim.write_bytes((first / name).read_bytes() or b"precious")
        victim.chmod(0o600)
        (store / name).symlink_to(victim)
        before = victim.read_bytes()
        daemon = launch(store=f"fs:{store}")
        if _serves(daemon):
            daemon.echo()
            daemon.stop()
            assert not (store / name).is_symlink(), name
        assert victim.read_bytes() == before, name


def test_a_symlink_to_nowhere_creates_nothing_there(launch: Launch, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    (store / "token").symlink_to(tmp_path / "elsewhere")
    _serves(launch(store=f"fs:{store}"))
    assert not (tmp_path / "elsewhere").exists()


def _serves(daemon: Daemon) -> bool:
    """Whether a daemon came up; when not, it said why in a line."""
    until(lambda: daemon.output.endswith("\n") or daemon.process.poll() is not None)
    if daemon.process.poll() is None:
        return bool(daemon.ready())
    assert daemon.ended() != 0
    assert daemon.errors.count("\n") == 1
    return False


def test_a_unix_socket_is_served_and_its_file_removed(launch: Launch, store: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    daemon = launch("--listen", f"unix:{path}", store=store).ready()
    for host in ("localhost", "127.0.0.1"):
        answer = daemon.curl("GET", f"http://{host}/v1/runtime", options=["--unix-socket", str(path)])
        answer.ok("runtime", "RuntimeSummary")
    refused = daemon.curl("GET", "http://localhost/v1/runtime", token=None, options=["--unix-socket", str(path)])
    refused.refused(401, "unauthorized")
    daemon.stop()
    assert not path.exists()


def test_several_addresses_are_served_at_once(launch: Launch, tmp_path: Path) -> None:
    path = tmp_path / "s"
    daemon = launch("--listen", "127.0.0.1:0", "--listen", f"unix:{path}").ready()
    over_tcp = daemon.curl("GET", "/v1/runtime").ok("runtime")
    answer = daemon.curl("GET", "http://localhost/v1/runtime", options=["--unix-socket", str(path)])
    assert answer.ok("runtime") == over_tcp
    daemon.stop()
    assert not path.exists()


def test_a_socket_file_that_a_killed_daemon_left_behind_is_no_obstacle(launch: Launch, tmp_path: Path) -> None:
    path = tmp_path / "s"
    options = ("--listen", "127.0.0.1:0", "--listen", f"unix:{path}")
    launch(*options).ready().kill()
    assert path.exists()
    daemon = launch(*options).ready()
    daemon.curl("GET", "http://localhost/v1/runtime", options=["--unix-socket", str(path)]).ok("runtime")


def test_a_file_that_is_no_socket_is_never_replaced_by_one(launch: Launch, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    daemon = launch("--listen", f"unix:{path}")
    assert daemon.ended() in {1, 2}
    assert daemon.errors.count("\n") == 1
    assert path.read_text() == "precious"
