"""Targets section 2, row 13: two daemons on one store."""

from pathlib import Path

import pytest

from tests.acceptance.daemon.conftest import Launch, until
from tests.faults.store.ledger import Broken, promised

STORE_TAKEN = 3


def contents(folder: Path) -> dict[str, tuple[bytes, int, int, int]]:
    """Return content, inode, mode and change time of every file below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path)] = data, stat.st_ino, stat.st_mode, stat.st_mtime_ns
    return found


def start_a_second(launch: Launch, tmp_path: Path, without: str | None, *options: str) -> None:
    """Raise Broken unless the second daemon leaves the store to the first one."""
    first = launch(without=without).ready()
    worker_id = first.echo()
    first.run(worker_id, "hello")
    before = contents(tmp_path / "store"), contents(tmp_path / "run")
    second = launch(*options, without=without)
    until(lambda: second.process.poll() is not None or second.output)
    promised(second.process.poll() == STORE_TAKEN, f"the second daemon ends with {STORE_TAKEN}")
    promised(f"process {first.pid}\n" in second.errors, f"it names the owner: {second.errors}")
    promised(second.errors.count("\n") == 1 and not second.output, f"it says so in one line: {second.errors}")
    promised((contents(tmp_path / "store"), contents(tmp_path / "run")) == before, "it touches nothing")
    first.run(worker_id, "still here")
    first.stop()


@pytest.mark.parametrize("options", [(), ("--runtime-id", "another")])
def test_a_second_daemon_ends_with_3_names_the_owner_and_touches_nothing(
    launch: Launch, tmp_path: Path, options: tuple[str, ...]
) -> None:
    start_a_second(launch, tmp_path, None, *options)


def test_the_check_sees_a_store_without_a_lock(launch: Launch, tmp_path: Path) -> None:
    with pytest.raises(Broken, match="ends with 3"):
        start_a_second(launch, tmp_path, "lock")


def test_the_lock_of_a_daemon_that_was_killed_is_free_though_its_workers_may_still_be_there(
    launch: Launch,
) -> None:
    first = launch().ready()
    first.input(first.shell(), "trap '' TERM; sleep 1000 & sleep 1000")
    first.kill()
    second = launch().ready()
    second.run(second.echo(), "mine now")
    second.stop()
