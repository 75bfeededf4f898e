"""Targets section 2, row 3: a sync of the disk fails."""

import contextlib
import random
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.daemon.conftest import Daemon, Launch
from tests.faults.conftest import Require, Rounds
from tests.faults.store.ledger import GONE, Broken, History, Ledger, promised
from tests.faults.store.load import Load
from tests.faults.store.trace import attached, under

STORE_FAILED = 74
FIRST, SYNCS = 6, 40
"""The sync of a thread that fails: late enough that the daemon serves by then."""


def after_a_failed_sync(daemon: Daemon, ledger: Ledger, log: Path) -> None:
    """Raise Broken if a daemon goes on although its disk has failed, or acknowledges anything."""
    worker_id = daemon.echo()
    ledger.send(daemon, worker_id, "before")
    daemon.idle(worker_id)
    newest = daemon.worker(worker_id)["last_cursor"]
    seen = History(worker_id)
    with attached(daemon, "error=EIO", log):
        status = ledger.send(daemon, worker_id, "after")
        promised(status != 200, "an input whose sync failed is not acknowledged")
        seen.follow_to_the_end(daemon)
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.ended()
    promised(daemon.process.poll() == STORE_FAILED, f"the daemon ends with {STORE_FAILED}")
    promised(seen.cursor <= newest, "an input whose sync failed is not published")
    promised("(INJECTED)" in log.read_text(), "a sync failed")


def test_nothing_is_acknowledged_or_published_after_a_failed_sync_and_the_next_start_is_clean(
    launch: Launch, ledger: Ledger, require: Require, tmp_path: Path
) -> None:
    require("strace", root=True)
    daemon = launch().ready()
    after_a_failed_sync(daemon, ledger, tmp_path / "strace")
    assert daemon.errors.count("runtimed: ") == 1
    daemon.clean()
    again = launch().ready()
    ledger.check(again)
    worker_id = again.echo()
    assert ledger.send(again, worker_id, "again") == 200
    again.idle(worker_id)
    ledger.check(again)
    again.stop()


def test_a_sync_that_fails_under_load_loses_nothing_that_was_acknowledged(
    launch: Launch,
    ledger: Ledger,
    scripts: Path,
    chance: random.Random,
    rounds: Rounds,
    require: Require,
) -> None:
    require("strace")
    launch().ready().stop()
    for _ in range(rounds(2, 50)):
        inject = f"error=EIO:when={chance.randint(FIRST, SYNCS)}+"
        daemon = launch(under=under(inject, "--seccomp-bpf")).ready()
        load = _load(daemon, ledger, scripts)
        if load is not None:
            with load.running(chance.getrandbits(32)):
                daemon.ended()
        assert daemon.ended() == STORE_FAILED
        daemon.clean()
        again = launch().ready()
        ledger.check(again)
        again.stop()


def _load(daemon: Daemon, ledger: Ledger, scripts: Path) -> Load | None:
    """Returns None if the disk failed before there were Workers."""
    try:
        return Load(daemon, ledger, scripts)
    except (*GONE, AssertionError):
        return None


def test_the_check_sees_a_daemon_that_goes_on_after_a_failed_sync(
    launch: Launch, ledger: Ledger, require: Require, tmp_path: Path
) -> None:
    require("strace", root=True)
    with pytest.raises(Broken, match="is not acknowledged"):
        after_a_failed_sync(launch(without="stop_after_a_failed_sync").ready(), ledger, tmp_path / "strace")
