"""Interface section 1: which signals end a daemon, and which stay ignored."""

import signal
from pathlib import Path

import pytest

from tests.acceptance.daemon.conftest import Daemon, Launch, Until

IGNORING = ("sh", "-c", 'trap "" "$0"; exec "$@"')
"""Starts a program with a signal ignored: its name, then the program."""


def _handled_once(daemon: Daemon, until: Until, number: signal.Signals) -> None:
    """Send a signal, and wait until the daemon has been given it."""
    status = Path(f"/proc/{daemon.pid}/status")
    daemon.process.send_signal(number)
    until(lambda: not _pending(status.read_text(), number))


def _pending(status: str, number: signal.Signals) -> bool:
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_the_daemon_in_good_order(launch: Launch, store: str, number: signal.Signals) -> None:
    daemon = launch(store=store).ready()

    daemon.process.send_signal(number)

    assert daemon.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(
    launch: Launch, until: Until, number: signal.Signals
) -> None:
    daemon = launch(wrapper=(*IGNORING, number.name.removeprefix("SIG"))).ready()

    _handled_once(daemon, until, number)
    worker_id = daemon.echo()
    daemon.run(worker_id, "still here")

    assert daemon.process.poll() is None
    other = signal.SIGINT if number is signal.SIGTERM else signal.SIGTERM
    daemon.process.send_signal(other)
    assert daemon.ended() == 0


def test_a_daemon_under_nohup_outlives_its_terminal(launch: Launch, until: Until) -> None:
    daemon = launch(wrapper=("nohup",)).ready()

    _handled_once(daemon, until, signal.SIGHUP)

    daemon.run(daemon.echo(), "still here")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_worker_does_not_inherit_that_a_signal_is_ignored(launch: Launch, number: signal.Signals) -> None:
    daemon = launch(wrapper=(*IGNORING, number.name.removeprefix("SIG"))).ready()
    worker_id = daemon.shell()

    daemon.run(worker_id, "exec grep SigIgn /proc/self/status")

    ignored = int(daemon.items(worker_id)[-1]["content"].split()[1], 16)
    assert not ignored >> (number - 1) & 1
