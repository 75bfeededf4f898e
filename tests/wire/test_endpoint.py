"""Endpoint files: how a client finds a daemon of the same user."""

import json
import os
import stat
import subprocess
import sys

import pytest

from runtimed.wire import endpoint
from runtimed.wire.endpoint import Endpoint


def mine(runtime_id="rt-1", pid=None):
    return Endpoint("http://127.0.0.1:1", runtime_id, pid or os.getpid(), token="secret")


def test_what_was_written_is_found_while_the_daemon_lives():
    path = endpoint.write(mine())
    assert endpoint.live() == [mine()]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_file_of_a_daemon_that_is_gone_is_ignored():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    endpoint.write(mine(pid=gone.pid))
    assert endpoint.live() == []


def test_a_daemon_that_has_ended_and_was_not_reaped_is_gone():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    endpoint.write(mine(pid=ended.pid))
    found = endpoint.live()
    ended.wait()
    assert found == []


def test_a_token_is_in_no_repr():
    assert "secret" not in repr(mine())


def test_only_the_daemon_that_wrote_the_file_removes_it():
    path = endpoint.write(mine())
    endpoint.remove(path, os.getpid() + 1)
    assert path.exists()
    endpoint.remove(path, os.getpid())
    assert not path.exists()


def test_what_a_later_version_adds_is_passed_over():
    path = endpoint.write(mine())
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
def test_a_broken_file_is_ignored(text):
    path = endpoint.write(mine())
    path.write_text(text)
    assert endpoint.live() == []


def test_a_planted_symlink_is_neither_read_nor_written_through(tmp_path):
    target = tmp_path / "target"
    target.write_text(json.dumps({"url": "http://evil", "runtime_id": "rt-1", "pid": os.getpid()}))
    path = endpoint.write(mine("rt-2")).with_name("rt-1.json")
    path.symlink_to(target)
    assert [found.runtime_id for found in endpoint.live()] == ["rt-2"]
    endpoint.write(mine("rt-1"))
    assert "evil" in target.read_text()
    assert not path.is_symlink()


def test_a_folder_that_is_a_symlink_is_refused(user_folders, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (user_folders / "run" / "runtimed").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="runtimed"):
        endpoint.write(mine())
