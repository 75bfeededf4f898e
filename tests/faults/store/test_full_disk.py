"""Targets section 2, row 4: the disk is full, and has room again later."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.daemon.conftest import ZERO, Daemon, Launch, until
from tests.faults.conftest import Require, Rounds
from tests.faults.store.disk import MIB, small_disk
from tests.faults.store.ledger import Broken, Ledger, promised, transcript

STORE_FULL = 507
REFUSALS_IN_A_ROW = 5
MAX_SENT = 400
CYCLES = (2, 20)
SIZE = 16 * MIB


@pytest.fixture
def disk(tmp_path: Path, require: Require) -> Iterator[Path]:
    require("mount", "umount", root=True)
    with small_disk(tmp_path / "disk", SIZE) as folder:
        yield folder


class Filler:
    """A file that takes all free space."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "filler"
        self._disk = disk

    def fill(self) -> None:
        """Fill the disk."""
        with self._path.open("ab") as file:
            while free := self._free():
                with contextlib.suppress(OSError):  # the daemon took some of it meanwhile
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)
                file.seek(0, os.SEEK_END)

    def free(self) -> None:
        """Free the space."""
        self._path.unlink()

    def _free(self) -> int:
        found = os.statvfs(self._disk)
        return found.f_bavail * found.f_frsize


def send_until_refused(daemon: Daemon, ledger: Ledger, worker_id: str, filler: Filler, name: str) -> None:
    """Send inputs until the disk is full and the daemon's reserve is used up."""
    refused = sent = 0
    while refused < REFUSALS_IN_A_ROW and sent < MAX_SENT:
        filler.fill()
        sent += 1
        status = ledger.send(daemon, worker_id, f"{name} {sent} {'.' * 20_000}")
        promised(status in {200, 409, STORE_FULL}, f"a full disk is answered with {STORE_FULL}: {status}")
        refused = refused + 1 if status == STORE_FULL else 0
    ledger.check_inputs(worker_id, transcript(daemon, worker_id))
    promised(refused == REFUSALS_IN_A_ROW, f"a full disk is answered with {STORE_FULL}")


def live_through_a_full_disk(daemon: Daemon, ledger: Ledger, disk: Path, cycles: int) -> None:
    """Raise Broken if something stops while the disk is full, or does not resume once there is room."""
    filler = Filler(disk)
    for cycle in range(cycles):
        worker_id, idle = daemon.echo(), daemon.shell()
        with daemon.observe(worker_id, ZERO) as live:
            live.envelope()
            ledger.send(daemon, worker_id, f"first {cycle}")
            daemon.idle(worker_id)
            send_until_refused(daemon, ledger, worker_id, filler, f"full {cycle}")
            seen = [live.envelope() for _ in daemon.log(worker_id)]
            promised(seen == daemon.log(worker_id), "the feed goes on, from the start as well as live")
            stopped = daemon.call("POST", f"/v1/workers/{idle}/stop")
            promised(stopped.status in {200, STORE_FULL}, f"a stop is answered: {stopped.status}")
            run_state = daemon.worker(idle)["execution"]["run_state"]
            promised(run_state in {"stopped", "unconnected"}, f"a stop ends what runs: {run_state}")
            filler.free()
            again(daemon, ledger, worker_id, f"again {cycle}")
            until(lambda: daemon.worker(idle)["status"] == "stopped")  # noqa: B023 it does not outlive its turn
            newest = daemon.worker(worker_id)["last_cursor"]
            seen += live.up_to_cursor(newest)
            promised(seen == daemon.log(worker_id), "a feed lives through it without a hole")
        ledger.check(daemon)


def again(daemon: Daemon, ledger: Ledger, worker_id: str, name: str) -> None:
    """Check that an input is accepted once there is room. Queued inputs may go first."""
    tries = iter(range(10_000))
    until(lambda: ledger.send(daemon, worker_id, f"{name} {next(tries)}") == 200)
    daemon.idle(worker_id)


def test_a_full_disk_refuses_inputs_until_there_is_room_and_everything_else_goes_on(
    launch: Launch, ledger: Ledger, disk: Path, rounds: Rounds
) -> None:
    store = disk / "store"
    daemon = launch(store=store).ready()
    live_through_a_full_disk(daemon, ledger, disk, rounds(*CYCLES))
    daemon.stop()
    again = launch(store=store).ready()
    ledger.check(again)
    again.stop()


def test_a_stop_is_acknowledged_on_a_full_disk(launch: Launch, ledger: Ledger, disk: Path) -> None:
    daemon = launch(store=disk / "store").ready()
    worker_id, shell = daemon.echo(), daemon.shell()
    Filler(disk).fill()
    until(lambda: ledger.send(daemon, worker_id, "." * 20_000) == STORE_FULL)
    daemon.call("POST", f"/v1/workers/{shell}/stop").ok("ack", "LifecycleAck")
    assert daemon.worker(shell)["status"] == "stopped"
    daemon.kill()
    second = launch(store=disk / "store").ready()
    assert second.worker(shell)["status"] == "stopped"


def test_a_store_that_was_full_when_the_daemon_was_killed_has_all_that_was_acknowledged(
    launch: Launch, ledger: Ledger, disk: Path
) -> None:
    daemon, filler = launch(store=disk / "store").ready(), Filler(disk)
    worker_id = daemon.echo()
    again(daemon, ledger, worker_id, "before")
    send_until_refused(daemon, ledger, worker_id, filler, "full")
    daemon.kill()
    second = launch(store=disk / "store").ready()
    ledger.check_inputs(worker_id, transcript(second, worker_id))
    filler.free()
    again(second, ledger, second.echo(), "again")
    until(lambda: second.log(worker_id)[-1]["payload"]["event"] == "run_end")
    ledger.check(second)
    second.stop()


@pytest.mark.parametrize(
    ("without", "promise"),
    [
        ("refusal_on_a_full_disk", "was acknowledged|has its .* entries|can be read"),
        ("recovery_from_a_full_disk", "a full disk is answered with 507"),
    ],
)
def test_the_check_sees_a_daemon_that_fails_on_a_full_disk(
    launch: Launch, ledger: Ledger, disk: Path, without: str, promise: str
) -> None:
    daemon = launch(store=disk / "store", without=without).ready()
    with pytest.raises(Broken, match=promise):
        live_through_a_full_disk(daemon, ledger, disk, 1)
