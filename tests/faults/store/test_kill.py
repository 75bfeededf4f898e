"""Targets section 2, row 1: kill -9 at any time."""

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon.conftest import Daemon, Launch, until
from tests.faults.conftest import Require, Rounds
from tests.faults.store.ledger import GONE, Broken, Ledger, promised
from tests.faults.store.load import Load
from tests.faults.store.trace import under

SYNCS = 50
LOAD_S = 0.3


@pytest.fixture
def play(launch: Launch, ledger: Ledger, scripts: Path, chance: random.Random) -> Callable[..., None]:
    """Rounds of load on one store. A kill ends each; then the store is started and the round is checked."""

    def rounds(number: int, without: str | None = None, killers: Any = (at_random, at_a_sync)) -> None:
        workers: list[str] = []
        for _ in range(number):
            workers = chance.choice(killers)(Round(launch, ledger, scripts, chance, workers, without))
        daemon = launch(without=without).ready()
        ledger.check(daemon)
        check_scripts(scripts)
        daemon.stop()

    return rounds


class Round:
    """The parts of a round. `workers` are those of the previous round, not yet checked."""

    def __init__(
        self,
        launch: Launch,
        ledger: Ledger,
        scripts: Path,
        chance: random.Random,
        workers: list[str],
        without: str | None,
    ) -> None:
        self.launch = launch
        self.ledger = ledger
        self.scripts = scripts
        self.chance = chance
        self.workers = workers
        self.without = without

    def start(self, *under: str) -> Daemon:
        return self.launch(under=under, without=self.without)

    def check(self, daemon: Daemon) -> None:
        self.ledger.check(daemon, self.workers)


def at_random(scene: Round) -> list[str]:
    """Kill after a random time."""
    daemon = scene.start().ready()
    scene.check(daemon)
    load = Load(daemon, scene.ledger, scene.scripts)
    with load.running(scene.chance.getrandbits(32)):
        time.sleep(scene.chance.uniform(0, LOAD_S))
        daemon.kill()
    return list(load.workers)


def at_a_sync(scene: Round) -> list[str]:
    """Kill when a thread of the daemon is about to sync a file for the nth time, maybe before it serves."""
    number = scene.chance.randint(1, SYNCS)
    daemon = scene.start(*under(f"signal=KILL:when={number}"))
    until(lambda: daemon.output.endswith("\n") or daemon.process.poll() is not None)
    if daemon.process.poll() is not None:
        return scene.workers
    daemon.ready()
    scene.check(daemon)
    try:
        load = Load(daemon, scene.ledger, scene.scripts)
    except GONE:
        return []
    with load.running(scene.chance.getrandbits(32)):
        daemon.ended()
    return list(load.workers)


def check_scripts(scripts: Path) -> None:
    """Check that no shell Worker ran a script twice."""
    for path in scripts.iterdir():
        again = [name for name, times in Counter(path.read_text().split()).items() if times > 1]
        promised(not again, f"{path.name} ran each input at most once: {again}")


def test_no_kill_takes_back_what_was_acknowledged_or_seen(
    play: Callable[..., None], rounds: Rounds, require: Require, ledger: Ledger
) -> None:
    require("strace")
    play(rounds(20, 200))
    assert len(ledger.acked) > 100
    assert ledger.seen > 300
    assert len([one for one in ledger.inputs if not one.ack and not one.refused]) > 20


def test_the_check_sees_a_daemon_that_acknowledges_before_it_commits(play: Callable[..., None]) -> None:
    with pytest.raises(Broken, match=r"acknowledged|taken back|an observer resumes|can be read"):
        play(10, without="commit_before_ack", killers=[at_random])


@pytest.mark.parametrize("without", ["replay_without_a_hole", "replay_without_a_repeat"])
def test_the_check_sees_a_feed_that_does_not_resume_exactly(play: Callable[..., None], without: str) -> None:
    with pytest.raises(Broken, match=r"tell the same|each run has one end|rise strictly|observer|taken back"):
        play(10, without=without, killers=[at_random])
