"""Clients and observers that keep a daemon busy."""

import contextlib
import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tests.acceptance.daemon.conftest import Daemon
from tests.faults.store.ledger import Ledger

CLIENTS = 4
SIZES = (0, 0, 0, 100, 4_000, 60_000)


class Load:
    """Several clients that send inputs to several observed Workers until the daemon or the test ends.

    `scripts` is the folder in which a shell Worker writes down each script that it runs.
    """

    def __init__(self, daemon: Daemon, ledger: Ledger, scripts: Path, echoes: int = 3, shells: int = 1) -> None:
        self.daemon = daemon
        self.ledger = ledger
        self.workers = {daemon.echo(): None for _ in range(echoes)} | {daemon.shell(): scripts for _ in range(shells)}
        self._over = threading.Event()

    @contextlib.contextmanager
    def running(self, seed: int) -> Iterator[None]:
        """Run while the context lasts. Then clients stop, and observers go on until the daemon is gone."""
        with ThreadPoolExecutor(CLIENTS + len(self.workers)) as pool:
            work: list[Future[None]] = [
                pool.submit(self.ledger.observer(one).follow_to_the_end, self.daemon) for one in self.workers
            ]
            work += [pool.submit(self._send, random.Random(seed + number)) for number in range(CLIENTS)]
            try:
                yield
            finally:
                self._over.set()
        for done in work:
            done.result()

    def _send(self, chance: random.Random) -> None:
        """Send until nobody answers, and once more."""
        answered: int | None = 200
        while answered and not self._over.is_set():
            answered = self._send_one(chance)
        if answered is None:
            self._send_one(chance)

    def _send_one(self, chance: random.Random) -> int | None:
        worker_id, scripts = chance.choice(list(self.workers.items()))
        name = f"{chance.getrandbits(64):016x}"
        content = name + "." * chance.choice(SIZES)
        if scripts is not None:
            content = f"echo {name} >> '{scripts / worker_id}'; echo {name}"
        return self.ledger.send(self.daemon, worker_id, content)
