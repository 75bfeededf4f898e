"""Kills amid a backup, a restore and an upgrade: the source stays as it is, and what is made is whole or absent."""

import contextlib
import hashlib
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw
import pytest

from runtimed.store.sqlite.inspection import inspect
from runtimed.store.sqlite.restore import restore
from runtimed.store.sqlite.schema import VERSION
from tests.acceptance.daemon.conftest import REPOSITORY, Daemon, Launch, until
from tests.faults.conftest import Require
from tests.faults.store.ledger import Ledger
from tests.faults.store.trace import under
from tests.store.sqlite.test_migration import make_version_1

BIG_INPUTS = 12
MAX_POINTS = 60
"""More syncs than any of the commands makes."""


@pytest.fixture
def filled(launch: Launch, tmp_path: Path) -> Path:
    """The folder of a closed store with a few megabytes."""
    daemon = launch().ready()
    fill(daemon)
    daemon.stop()
    return tmp_path / "store"


def fill(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    for number in range(BIG_INPUTS):
        daemon.input(worker_id, f"{number} {'.' * 1_000_000}")
        daemon.idle(worker_id)


def digests(folder: Path) -> dict[str, str]:
    """The content of each file of a store."""
    files = [path for path in folder.iterdir() if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def killed_at_each_sync(
    command: Sequence[str], folder: Path, check: Callable[[], None], sent: signal.Signals = signal.SIGKILL
) -> int:
    """Run a command until it gets through, and kill it at its first sync, its second and so on. Returns how many.

    `check` is called after each kill.
    """
    for number in range(1, MAX_POINTS):
        environment = {"PYTHONPATH": str(REPOSITORY), "HOME": str(folder)}
        done = subprocess.run(
            [*under(f"signal={sent.name}:when={number}"), sys.executable, "-m", "runtimed", *command],
            cwd=folder,
            env=environment,
            capture_output=True,
            timeout=300,
            check=False,
        )
        if done.returncode == 0:
            return number - 1
        assert done.returncode == -sent, done.stderr
        check()
    raise AssertionError("the command did not get through")


def test_a_kill_amid_an_online_backup_takes_nothing_back_and_leaves_nothing(
    launch: Launch, ledger: Ledger, tmp_path: Path
) -> None:
    draft = tmp_path / "store" / "runtime.sqlite3-backup"
    daemon = launch().ready()
    fill(daemon)
    worker_id = daemon.echo()
    for number in range(20):
        ledger.send(daemon, worker_id, f"acknowledged {number}")
        asking = threading.Thread(target=ask_for_a_backup, args=(daemon,))
        asking.start()
        until(lambda: draft.exists() or not asking.is_alive())  # noqa: B023 called at once
        daemon.kill()
        asking.join()
        left = draft.exists()
        daemon = launch().ready()
        assert not draft.exists()
        if left:
            break
    else:
        raise AssertionError("each backup was finished before the kill")

    ledger.check(daemon, [worker_id])
    daemon.stop()
    assert inspect(tmp_path / "store").check.findings == ()


def ask_for_a_backup(daemon: Daemon) -> None:
    with contextlib.suppress(OSError):
        daemon.call("GET", "/v1/runtime/backup")


def test_a_kill_amid_an_offline_backup_leaves_the_store_and_an_earlier_backup_as_they_are(
    filled: Path, tmp_path: Path, require: Require
) -> None:
    require("strace")
    file, before = tmp_path / "backup", digests(filled)
    file.write_text("an earlier backup")

    def check() -> None:
        assert digests(filled) == before
        if file.read_bytes() != b"an earlier backup":
            proof = tmp_path / f"proof {len(list(tmp_path.iterdir()))}"
            assert not restore(file, proof).check.findings

    assert killed_at_each_sync(["store", "backup", f"fs:{filled}", str(file)], tmp_path, check) >= 1
    check()
    assert restore(file, tmp_path / "restored").check.workers == 1


def test_a_kill_amid_a_restore_leaves_the_backup_as_it_is_and_no_store_or_a_whole_one(
    filled: Path, tmp_path: Path, require: Require
) -> None:
    require("strace")
    file, target = tmp_path / "backup", tmp_path / "restored"
    subprocess.run(
        [sys.executable, "-m", "runtimed", "store", "backup", f"fs:{filled}", str(file)],
        env={"PYTHONPATH": str(REPOSITORY)},
        check=True,
        capture_output=True,
        timeout=300,
    )
    before = file.read_bytes()
    whole = 0

    def check() -> None:
        nonlocal whole
        assert file.read_bytes() == before
        if target.exists():
            whole += 1
            assert inspect(target).check.findings == ()
            target.rename(tmp_path / f"whole {whole}")

    assert killed_at_each_sync(["store", "restore", str(file), f"fs:{target}"], tmp_path, check) >= 3
    check()
    assert [path.name for path in tmp_path.iterdir() if "restoring" in path.name] == []
    assert whole >= 1


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_terminated_cleans_up(
    filled: Path, tmp_path: Path, require: Require, sent: signal.Signals
) -> None:
    require("strace")
    places = {name: tmp_path / name for name in ("backups", "restored")}
    for place in places.values():
        place.mkdir()
    file, target = places["backups"] / "backup", places["restored"] / "store"

    def check() -> None:
        assert {path.name for place in places.values() for path in place.iterdir()} <= {"backup", "store"}
        if target.exists():
            assert inspect(target).check.findings == ()
            shutil.rmtree(target)

    assert killed_at_each_sync(["store", "backup", f"fs:{filled}", str(file)], tmp_path, check, sent) >= 1
    assert killed_at_each_sync(["store", "restore", str(file), f"fs:{target}"], tmp_path, check, sent) >= 3


def test_a_kill_amid_an_upgrade_leaves_a_store_that_the_next_start_upgrades(
    tmp_path: Path, launch: Launch, require: Require
) -> None:
    require("strace")
    folder = tmp_path / "store"
    make_version_1(folder).close()
    versions = []
    for number in range(1, MAX_POINTS):
        daemon = launch(under=under(f"signal=KILL:when={number}"))
        until(lambda: daemon.output.endswith("\n") or daemon.process.poll() is not None)  # noqa: B023 called at once
        if daemon.process.poll() is None:
            break
        assert inspect(folder).check.findings == ()
        versions.append(version(folder))
    daemon.kill()

    daemon = launch().ready()
    assert [worker["transcript_len"] for worker in daemon.workers()] == [2, 1]
    daemon.stop()

    assert versions[0] == 1
    assert versions == sorted(versions)
    assert version(folder) == VERSION
    assert inspect(folder).remarks == ()


def version(folder: Path) -> int:
    with contextlib.closing(apsw.Connection(str(folder / "runtime.sqlite3"))) as connection:
        found: int = connection.pragma("user_version")
        return found
