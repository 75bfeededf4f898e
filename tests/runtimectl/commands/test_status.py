"""`status --wait` waits until the daemon is ready."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtimectl.conftest import DEADLINE_S, Ctl, Daemon, ServeRaw, StartCtl, StartDaemon, wait_until


def test_a_daemon_that_starts_later_is_waited_for(start_ctl: StartCtl, start_daemon: StartDaemon) -> None:
    waiting = start_ctl("status", "--wait", "-o", "name")
    daemon = start_daemon()
    assert waiting.finished() == 0
    assert waiting.out == [f"{daemon.runtime_id}\n"]


def test_a_daemon_that_does_not_come_is_exit_8(ctl: Ctl) -> None:
    found = ctl("status", "--wait=0.3")
    assert (found.returncode, found.stdout) == (8, "")
    assert found.stderr.startswith("runtimectl: the daemon is not ready within 0.3 s: no daemon is running here")


def test_a_wrong_token_is_not_waited_for(ctl: Ctl, daemon: Daemon) -> None:
    found = ctl("status", "--wait", extra={"RUNTIMECTL_TOKEN": "wrong-token-of-a-user"})
    assert found.returncode == 4


@pytest.mark.parametrize("seconds", ["0", "-1", "soon"])
def test_a_wait_that_is_no_time_is_a_usage_error(ctl: Ctl, seconds: str) -> None:
    assert ctl("status", f"--wait={seconds}").returncode == 2


def test_a_daemon_that_accepts_and_does_not_answer_is_exit_8_in_time(ctl: Ctl, serve_raw: ServeRaw) -> None:
    def handle(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    found = ctl("status", "--wait=0.5", "--url", serve_raw(handle))

    assert (found.returncode, found.stdout) == (8, "")
    assert found.stderr.startswith("runtimectl: the daemon is not ready within 0.5 s: http://127.0.0.1:")


def test_a_token_file_that_does_not_exist_yet_is_waited_for(
    start_ctl: StartCtl, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_daemon("--store", f"fs:{tmp_path}/store")
    token = tmp_path / "later"
    waiting = start_ctl("status", "--wait", "-o", "name", "--url", daemon.url, "--token-file", str(token))
    wait_until(lambda: len(list(Path(f"/proc/{waiting.process.pid}/task").iterdir())) > 1, "the wait has begun")

    (tmp_path / "store" / "token").rename(token)

    assert (waiting.finished(), waiting.out, waiting.err) == (0, [f"{daemon.runtime_id}\n"], [])


def test_a_token_file_that_others_can_read_is_not_waited_for(ctl: Ctl, daemon: Daemon, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("the-token-of-a-user")
    token.chmod(0o644)
    found = ctl("status", "--wait", "--url", daemon.url, "--token-file", str(token))
    assert (found.returncode, found.stdout) == (2, "")


def test_a_wait_ends_when_its_reader_leaves(env: dict[str, str]) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "runtimectl", "status", "--wait=600"]
    with subprocess.Popen(command, env=env, stdout=writing, stderr=subprocess.PIPE, text=True) as process:
        os.close(writing)
        os.close(reading)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (0, "")
