"""What clients do to the daemon: each action begins and ends its own Workers, feeds, tokens and connections."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Self

from benchmarks.servers import Daemon
from runtimectl import Client
from runtimectl.errors import ApiError
from runtimectl.library.worker import Worker

WORKER_THREADS = 2
INPUTS = 5
SCRIPT = "seq 200"
DEADLINE_S = 60.0
OBSERVED_EVENTS = 20


class Churn:
    """Repeats the actions on a daemon while the context lasts.

    Args:
        daemon: The daemon.
        counts: Counts each action that was done.
        left: Workers of a daemon before, which are used once more and deleted.
    """

    def __init__(self, daemon: Daemon, counts: Counter[str], left: list[str]) -> None:
        self.failures: list[Exception] = []
        self._daemon, self._counts, self._left = daemon, counts, left
        self._names = itertools.count(1)
        self._failed = threading.Event()
        self._ending = threading.Event()
        self._watched_out = threading.Event()
        self._watchers = [self._thread(self._observe, self._ending) for _ in range(2)]
        self._others = [self._thread(self._use_token, self._watched_out)]
        self._others += [self._thread(self._use_worker, self._watched_out) for _ in range(WORKER_THREADS)]

    def __enter__(self) -> Self:
        for thread in (*self._others, *self._watchers):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._watchers:
            thread.join()
        self._watched_out.set()
        for thread in self._others:
            thread.join()
        if not self.failures:
            self._left += [self._begin_worker().id for _ in range(WORKER_THREADS)]

    def wait(self, seconds: float) -> None:
        """Wait for a time, or until an action has failed."""
        self._failed.wait(seconds)

    def _thread(self, act: Callable[[], None], ending: threading.Event) -> threading.Thread:
        def repeat() -> None:
            while not ending.is_set() and not self.failures:
                try:
                    act()
                except Exception as error:  # noqa: BLE001 any failure of an action fails the soak
                    self.failures.append(error)
                    self._failed.set()
                else:
                    self._counts[act.__name__.strip("_").replace("_", " ")] += 1

        return threading.Thread(target=repeat, name=act.__name__)

    def _client(self, token: str | None = None) -> Client:
        return Client(self._daemon.url, token or self._daemon.token, timeout=DEADLINE_S)

    def _begin_worker(self) -> Worker:
        with self._client() as client:
            return client.create_worker(profile="builtin:shell", capabilities=["shell"])

    def _use_worker(self) -> None:
        with self._client() as client:
            worker = client.worker(self._left.pop()) if self._left else self._begin_worker()
            worker = client.worker(worker.id)
            for _ in range(INPUTS):
                worker.run(SCRIPT, timeout=DEADLINE_S)
            worker.transcript()
            worker.stop()
            worker.delete()

    def _observe(self) -> None:
        """Read some events from the feed of all Workers."""
        with self._client() as client, closing(client.events()) as events:
            for _ in itertools.islice(events, OBSERVED_EVENTS):
                pass

    def _use_token(self) -> None:
        name = f"soak-{next(self._names)}"
        made = self._daemon.post("/v1/tokens", {"name": name, "role": "observer"})
        with self._client(made["secret"]) as client:
            client.workers()
        status, body = self._daemon.ask("DELETE", f"/v1/tokens/{name}")
        if status != 204:
            raise AssertionError(f"revoking a token: {status} {body!r}")
        try:
            with self._client(made["secret"]) as client:
                client.runtime()
        except ApiError as error:
            if error.status != 401:
                raise
        else:
            raise AssertionError("a revoked token still works")
