"""Targets section 2, row 2: a power cut loses everything that the disk had not confirmed."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.daemon.conftest import Daemon, Launch
from tests.faults.conftest import Require, Rounds
from tests.faults.store.disk import PowerLine, power_line
from tests.faults.store.ledger import Broken, Ledger, up
from tests.faults.store.load import Load

LOAD_S = 0.5
MORE_ROUNDS = 30
"""The extra rounds that a busy machine may need."""

TOKEN = "the-token-of-these-tests-of-32-characters"


@pytest.fixture
def line(tmp_path: Path, require: Require) -> Iterator[PowerLine]:
    require("mkfs.ext4", "mount", "umount", "losetup", "unshare", "nsenter", root=True)
    with power_line(tmp_path) as made:
        yield made


@pytest.fixture
def play(
    line: PowerLine, launch: Launch, ledger: Ledger, scripts: Path, chance: random.Random
) -> Callable[..., None]:
    """Rounds of load on one disk. Each ends with a power cut, and is checked when the power is back."""

    def start(without: str | None) -> Daemon:
        token = {"RUNTIMED_TOKEN": TOKEN}  # the file with the token can't be seen from here
        return up(launch(store=line.folder / "store", without=without, under=line.inside, environment=token))

    def rounds(number: int, without: str | None = None) -> None:
        workers: list[str] = []
        for _ in range(number):
            daemon = start(without)
            ledger.check(daemon, workers)
            load = Load(daemon, ledger, scripts)
            workers = list(load.workers)
            with load.running(chance.getrandbits(32)):
                time.sleep(chance.uniform(0.1, LOAD_S))
                # Nothing runs without power. A sync that the end of the file system overtakes may return success.
                daemon.process.send_signal(signal.SIGSTOP)
                line.cut()
                daemon.process.kill()
                daemon.ended()
            line.unmount()
            line.mount()
        daemon = start(without)
        ledger.check(daemon)
        daemon.stop()

    return rounds


def test_no_power_cut_takes_back_what_was_acknowledged_or_seen(
    play: Callable[..., None], rounds: Rounds, ledger: Ledger
) -> None:
    play(rounds(3, 50))
    for _ in range(MORE_ROUNDS):
        if len(ledger.acked) > 20 and ledger.seen > 60:
            break
        play(1)

    assert len(ledger.acked) > 20
    assert ledger.seen > 60


def test_the_check_sees_a_daemon_that_does_not_wait_for_the_disk(play: Callable[..., None]) -> None:
    with pytest.raises(Broken, match=r"acknowledged|can be read|taken back|starts"):
        play(3, without="synchronous_full")
