"""`status --wait` waits until the daemon is ready."""

import pytest

from tests.runtimectl.conftest import Ctl, Daemon, StartCtl, StartDaemon


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
