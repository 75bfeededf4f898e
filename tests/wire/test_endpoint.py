"""Endpoint files: how a client finds a daemon of the same user."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from runtimed.wire import endpoint
from runtimed.wire.endpoint import Endpoint

NO_USER = 4_000_000_000
"""A user that has no folder in /run/user."""


def mine(runtime_id: str = "rt-1", pid: int | None = None) -> Endpoint:
    return Endpoint("http://127.0.0.1:1", runtime_id, pid or os.getpid(), token="secret")


def left_behind(runtime_id: str) -> Path:
    """Write the endpoint file of a daemon that was killed, and return its path."""
    code = "import os, sys; from runtimed.wire.endpoint import *; "
    code += "it = published(Endpoint('http://127.0.0.1:2', sys.argv[1], os.getpid())); it.__enter__(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, runtime_id], check=True)
    return endpoint.folder() / f"{runtime_id}.json"


def test_a_published_endpoint_is_found_while_its_daemon_serves() -> None:
    with endpoint.published(mine()) as path:
        assert endpoint.live() == [mine()]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert list(path.parent.iterdir()) == [path]
    assert list(path.parent.iterdir()) == []


def test_the_token_of_an_endpoint_is_in_no_repr() -> None:
    assert "secret" not in repr(mine())
    assert "secret" not in f"{mine()} {[mine()]}"


def test_the_file_of_a_daemon_that_is_gone_is_ignored() -> None:
    assert left_behind("rt-1").exists()
    assert endpoint.live() == []


def test_a_daemon_that_has_ended_and_was_not_reaped_is_gone() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    with endpoint.published(mine(pid=ended.pid)):
        found = endpoint.live()
    ended.wait()
    assert found == []


def test_a_token_is_in_no_repr() -> None:
    assert "secret" not in repr(mine())


def test_a_second_daemon_does_not_touch_the_file_of_a_running_one() -> None:
    with endpoint.published(mine()) as path:
        before = path.read_bytes()
        with pytest.raises(FileExistsError, match=f"rt-1.json belongs to another daemon .process {os.getpid()}, "):
            endpoint.published(mine()).__enter__()
        assert path.read_bytes() == before
        assert endpoint.live() == [mine()]


def test_the_owner_of_an_endpoint_file_does_not_depend_on_the_process_id_in_it() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with endpoint.published(mine(pid=gone.pid)), pytest.raises(FileExistsError):
        endpoint.published(mine()).__enter__()
    path = left_behind("rt-1")
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": os.getpid()}))
    with endpoint.published(mine()):
        assert endpoint.live() == [mine()]


def test_a_daemon_removes_the_files_of_killed_daemons_and_no_foreign_files() -> None:
    odd = left_behind("rt-1").with_name("odd.json")
    odd.write_text("nonsense")
    last = [left_behind(f"rt-{number}") for number in range(2, 5)][-1]
    assert sorted(last.parent.iterdir()) == [odd, last]
    with endpoint.published(mine("rt-8")) as first, endpoint.published(mine("rt-9")) as second:
        assert sorted(last.parent.iterdir()) == [odd, first, second]


def test_a_file_that_replaced_the_endpoint_file_is_not_removed() -> None:
    with endpoint.published(mine()) as path:
        path.unlink()
        path.write_text("another")
    assert path.read_text() == "another"


def test_fields_that_a_later_version_adds_are_ignored() -> None:
    with endpoint.published(mine()) as path:
        path.write_text(json.dumps({**json.loads(path.read_text()), "more": 1}))
        assert endpoint.live() == [mine()]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "nonsense",
        '{"url": 1, "runtime_id": "a", "pid": 1}',
        '{"url": "a", "runtime_id": "a", "pid": "1"}',
    ],
)
def test_a_broken_file_is_ignored(text: str) -> None:
    with endpoint.published(mine()) as path:
        path.write_text(text)
        assert endpoint.live() == []


def test_a_planted_symlink_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text(json.dumps({"url": "http://evil", "runtime_id": "rt-1", "pid": os.getpid()}))
    with endpoint.published(mine("rt-2")) as other:
        path = other.with_name("rt-1.json")
        path.symlink_to(target)
        assert [found.runtime_id for found in endpoint.live()] == ["rt-2"]
        with endpoint.published(mine("rt-1")):
            assert "evil" in target.read_text()
            assert not path.is_symlink()


def test_a_folder_that_is_a_symlink_is_refused(user_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (user_folders / "run" / "runtimed").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="runtimed"):
        endpoint.published(mine()).__enter__()


def test_without_a_runtime_directory_the_files_are_in_one_of_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: NO_USER)

    assert endpoint.folder() == tmp_path / f"runtimed-{NO_USER}"
    monkeypatch.setenv("TMPDIR", "")
    assert endpoint.folder() == Path(f"/tmp/runtimed-{NO_USER}")


def test_a_daemon_of_another_user_may_be_running(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)

    assert mine().alive()
