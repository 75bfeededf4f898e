"""Events go on over a restart of the daemon: each once, in order, to the end of the Worker."""

import asyncio
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from runtimectl import AsyncClient, Client
from runtimectl.errors import Unreachable
from runtimed.model.event import EventEnvelope, Shutdown, TextDone
from tests.runtimectl.conftest import DEADLINE_S, Daemon, wait_until

START = "wo_0000000000000000"


class Restarted:
    """A daemon on a durable store, killed and started again: at another port each time."""

    def __init__(self, start: Callable[..., Daemon], store: Path) -> None:
        self._start: Callable[[], Daemon] = lambda: start("--store", f"fs:{store}", "--restore", "never")
        self.daemon = self._start()

    def restart(self) -> None:
        self.daemon.end(signal.SIGKILL)
        self.daemon = self._start()


@pytest.fixture
def durable(start_daemon: Callable[..., Daemon], tmp_path: Path) -> Restarted:
    return Restarted(start_daemon, tmp_path / "store")


def talk(client: Client, worker_id: str, durable: Restarted) -> None:
    """Give inputs to a Worker before, between and behind two kills of the daemon, then stop it."""
    for number in range(3):
        worker = client.worker(worker_id)
        if number:
            durable.restart()
            worker.restore()
        for part in range(20):
            worker.input(f"{number}.{part}", when_busy="queue")
    wait_until(lambda: client.worker(worker_id).detail().queued_inputs == 0, "the last input to be taken")
    wait_until(lambda: client.worker(worker_id).detail().execution.run_state == "idle", "the last run")
    client.worker(worker_id).stop()


def assert_each_once(seen: list[EventEnvelope], client: Client, worker_id: str) -> None:
    kept = list(client.worker(worker_id).events(START))
    assert [event.cursor for event in kept] == sorted({event.cursor for event in kept})
    assert seen == kept
    assert seen[-1].payload == Shutdown()
    assert TextDone("2.19") in [event.payload for event in seen]


def test_an_iterator_yields_each_event_once_across_kills_of_the_daemon(durable: Restarted) -> None:
    seen: list[EventEnvelope] = []
    with Client.from_env() as client:
        worker_id = client.create_worker().id
        reader = threading.Thread(target=lambda: seen.extend(Client.from_env().worker(worker_id).events(START)))
        reader.start()
        talk(client, worker_id, durable)
        reader.join(DEADLINE_S)

        assert not reader.is_alive()
        assert_each_once(seen, client, worker_id)


async def test_an_asynchronous_iterator_yields_each_event_once_across_kills_of_the_daemon(durable: Restarted) -> None:
    client = await asyncio.to_thread(Client.from_env)
    worker_id = (await asyncio.to_thread(client.create_worker)).id
    talking = asyncio.create_task(asyncio.to_thread(talk, client, worker_id, durable))
    async with AsyncClient.from_env() as observer, asyncio.timeout(DEADLINE_S):
        seen = [event async for event in observer.worker(worker_id).events(START)]
    await talking

    await asyncio.to_thread(assert_each_once, seen, client, worker_id)


def test_an_iterator_fails_when_the_daemon_stays_away_for_longer_than_it_may(durable: Restarted) -> None:
    with Client.from_env(reconnect_for=0.5) as client, client.create_worker().events() as events:
        next(events)
        durable.daemon.end(signal.SIGKILL)

        with pytest.raises(Unreachable):
            next(events)
