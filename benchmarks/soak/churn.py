"""What clients do to the daemon: each action begins and ends its own Workers, feeds, tokens and connections."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Self

from benchmarks.soak.configuration import TENANT
from benchmarks.soak.daemon import DEADLINE_S, POLL_S, SoakedDaemon
from benchmarks.soak.upkeep import Upkeep
from runtimectl import Client
from runtimectl.errors import ApiError
from runtimectl.library.worker import Worker
from runtimed.wire import routes

WORKER_THREADS = 2
INPUTS = 5
SCRIPT = "seq 200"
OBSERVED_EVENTS = 20
UPKEEP_PAUSE_S = 0.2


class Churn:
    """Repeats the actions on a daemon while the context lasts. Clients use its addresses in turn.

    Args:
        daemon: The daemon.
        counts: Counts each action that was done.
        left: Workers of a daemon before, which are used once more and deleted.
    """

    def __init__(self, daemon: SoakedDaemon, counts: Counter[str], left: list[str]) -> None:
        self.failures: list[Exception] = []
        self._daemon, self._counts, self._left = daemon, counts, left
        self._addresses = itertools.cycle(daemon.addresses)
        self._names = itertools.count(1)
        self._failed = threading.Event()
        self._ending = threading.Event()
        self._watched_out = threading.Event()
        upkeep = itertools.cycle(Upkeep(daemon).actions)
        self._watchers = [self._thread(itertools.repeat(self.observe), self._ending) for _ in range(2)]
        self._watchers.append(self._thread(upkeep, self._ending, UPKEEP_PAUSE_S))
        self._others = [self._thread(itertools.repeat(self.use_token), self._watched_out)]
        self._others += [
            self._thread(itertools.repeat(self.use_worker), self._watched_out) for _ in range(WORKER_THREADS)
        ]

    def __enter__(self) -> Self:
        for thread in (*self._others, *self._watchers):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._join(self._watchers)
        self._watched_out.set()
        self._join(self._others)
        if not self.failures:
            self._left += [self._begin_worker().id for _ in range(WORKER_THREADS)]

    def wait(self, seconds: float) -> None:
        """Wait for a time, or until something has failed."""
        self._failed.wait(seconds)

    def fail(self, error: Exception) -> None:
        """End the wait and all actions because of an error."""
        self.failures.append(error)
        self._failed.set()

    def use_worker(self) -> None:
        """Create a Worker or take one that is left, give it inputs, and delete it."""
        with self._client() as client:
            worker = client.worker(self._left.pop()) if self._left else self._begin_worker()
            worker = client.worker(worker.id)
            for _ in range(INPUTS):
                worker.run(SCRIPT, timeout=DEADLINE_S)
            worker.transcript()
            worker.stop()
            worker.delete()

    def observe(self) -> None:
        """Read some events from the feed of all Workers."""
        with self._client() as client, closing(client.events()) as events:
            for _ in itertools.islice(events, OBSERVED_EVENTS):
                pass

    def use_token(self) -> None:
        """Make a token of a tenant, create a Worker with it, and revoke it."""
        name = f"soak-{next(self._names)}"
        request = {"name": name, "role": "admin", "tenant": TENANT}
        made = self._daemon.post(next(self._addresses), routes.TOKENS, request)
        with self._client(made["secret"]) as client:
            worker = client.create_worker()
            if [seen.worker_id for seen in client.workers()] != [worker.id]:
                raise AssertionError("a tenant sees other Workers than its own")
            worker.stop()
            worker.delete()
        self._daemon.ask(next(self._addresses), "DELETE", routes.TOKEN.format(name=name))
        try:
            with self._client(made["secret"]) as client:
                client.runtime()
        except ApiError as error:
            if error.status != 401:
                raise
        else:
            raise AssertionError("a revoked token still works")

    def _thread(
        self, acts: Iterable[Callable[[], None]], ending: threading.Event, pause_s: float = 0.0
    ) -> threading.Thread:
        """Return a thread that does one act after the other, with a pause behind each."""

        def repeat() -> None:
            for act in acts:
                if ending.wait(pause_s) or self.failures:
                    return
                try:
                    act()
                except Exception as error:  # noqa: BLE001 any failure of an action fails the soak
                    self.fail(error)
                else:
                    self._counts[act.__name__.replace("_", " ")] += 1

        return threading.Thread(target=repeat, name="churn", daemon=True)

    def _join(self, threads: Iterable[threading.Thread]) -> None:
        """Wait until threads have ended. After a failure an observer may wait for events that nobody causes."""
        for thread in threads:
            while thread.is_alive() and not self.failures:
                thread.join(POLL_S)

    def _client(self, token: str | None = None) -> Client:
        return self._daemon.client(next(self._addresses), token)

    def _begin_worker(self) -> Worker:
        with self._client() as client:
            return client.create_worker(profile="builtin:shell", capabilities=["shell"])
