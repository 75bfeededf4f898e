"""targets.md, attacks: what one client sends keeps no other from its answer."""

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acceptance.daemon.conftest import Daemon, Launch

MAX_WAIT_S = 0.5
BODY_BYTES = 8 * 2**20 - 64
BODIES = {
    "escaped quotation marks": b'"\\',
    "brackets": b"[",
    "empty texts": b'""',
    "escapes": b'"\\u0041',
    "one text": b"x",
}


class Watch:
    """Measures how long a daemon lets this thread wait, as if nobody else used the processors."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._began = time.monotonic()
        self._used, self._delayed = self._threads()
        self._own_delay = self._own()

    def waited_s(self) -> float:
        """The time without that in which a thread waited for a processor, but at least what the daemon computed.

        The delays of several threads may be those of the same moment.
        """
        took = time.monotonic() - self._began
        used, delayed = self._threads()
        return max(took - (delayed - self._delayed) - (self._own() - self._own_delay), used - self._used)

    def _threads(self) -> tuple[float, float]:
        """What the daemon's threads have used of a processor, and how long they have waited for one."""
        figures = [_schedule(path) for path in Path(f"/proc/{self._daemon.pid}/task").iterdir()]
        return sum(used for used, _ in figures), sum(delayed for _, delayed in figures)

    def _own(self) -> float:
        return _schedule(Path("/proc/thread-self"))[1]


def _schedule(thread: Path) -> tuple[float, float]:
    try:
        used, delayed, _ = (thread / "schedstat").read_text().split()
    except OSError:  # it has ended
        return 0.0, 0.0
    return int(used) / 1e9, int(delayed) / 1e9


@contextlib.contextmanager
def waits(daemon: Daemon) -> Iterator[list[float]]:
    """How long each of many requests, one at least, waits for its answer while the context lasts."""
    found: list[float] = []
    over = threading.Event()

    def ask() -> None:
        link = http.client.HTTPConnection(*daemon.address, timeout=60)
        with contextlib.closing(link):
            while not (found and over.is_set()):
                watch = Watch(daemon)
                link.request("GET", "/v1/runtime", headers={"Authorization": f"Bearer {daemon.token}"})
                link.getresponse().read()
                found.append(watch.waited_s())

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield found
        finally:
            over.set()
            asking.result()


def post(daemon: Daemon, path: str, body: bytes) -> int:
    link = http.client.HTTPConnection(*daemon.address, timeout=60)
    with contextlib.closing(link):
        headers = {"Authorization": f"Bearer {daemon.token}", "Content-Type": "application/json"}
        link.request("POST", path, body, headers)
        answer = link.getresponse()
        answer.read()
        return answer.status


@pytest.mark.parametrize("frame", [b"%b", b'{"kind":"user","content":"%b"}'], ids=["bare", "content"])
@pytest.mark.parametrize("kind", BODIES)
def test_a_large_body_of_any_kind_lets_others_be_answered_within_half_a_second(
    launch: Launch, kind: str, frame: bytes
) -> None:
    daemon = launch(env={"RUNTIMED_MAX_BODY_BYTES": str(8 * 2**20)}).ready()
    path = f"/v1/workers/{daemon.echo()}/input"
    body = frame.replace(b"%b", BODIES[kind] * (BODY_BYTES // len(BODIES[kind])))

    with waits(daemon) as found, ThreadPoolExecutor(4) as pool:
        statuses = set(pool.map(lambda _: post(daemon, path, body), range(4)))

    assert statuses <= {200, 400, 409}
    assert max(found) < MAX_WAIT_S
