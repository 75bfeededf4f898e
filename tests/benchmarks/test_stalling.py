import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.processes import ProgramFailed
from benchmarks.series import deliver
from benchmarks.servers import Daemon, loaded
from benchmarks.stalling import stalling
from benchmarks.ticks import Series


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.chdir(Path(__file__).parents[2])
    with Daemon(loaded(), tmp_path / "daemon") as daemon:
        yield daemon


def emit(daemon: Daemon, ticks: int, log: Path) -> None:
    """Emit ticks to an observer that reads and to one that does not."""
    worker = daemon.create_worker()
    with stalling(daemon, f"/v1/workers/{worker}/events/ws", count=1, ticks=ticks):
        deliver(daemon, worker, Series(ticks), 1, log)


def test_an_observer_that_does_not_read_takes_less_than_is_sent(daemon: Daemon, tmp_path: Path) -> None:
    emit(daemon, 2_000, tmp_path / "log")


def test_stalling_fails_if_an_observer_took_everything(daemon: Daemon, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="all of 10 ticks"):
        emit(daemon, 10, tmp_path / "log")


def end(daemon: Daemon) -> None:
    """Kill the daemon while an observer does not read."""
    worker = daemon.create_worker()
    with stalling(daemon, f"/v1/workers/{worker}/events/ws", count=1, ticks=10):
        os.kill(daemon.pid, signal.SIGKILL)
        with pytest.raises(ProgramFailed):
            daemon.read_line()


def test_stalling_fails_if_the_server_disconnects_an_observer(daemon: Daemon) -> None:
    with pytest.raises(ConnectionError, match="let an observer go"):
        end(daemon)
