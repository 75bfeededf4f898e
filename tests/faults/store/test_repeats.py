"""Requests with an idempotency key, killed anywhere and repeated: each is carried out once."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import attrs
import pytest

from tests.acceptance.daemon.conftest import Daemon
from tests.faults.store.ledger import GONE, Broken, promised, transcript

CLIENTS = 4
LOAD_S = 0.4
PATIENT = {"RUNTIMED_MAX_QUEUED_INPUTS": "100000"}
ECHO = {"kind": "builtin", "value": "builtin:echo"}


@attrs.define(eq=False)
class Request:
    """A request with a key. `answer` is None until one has arrived."""

    path: str
    body: dict[str, Any]
    key: str
    answer: Any = None

    def send(self, daemon: Daemon) -> Any:
        """Send the request, or repeat it: the very same bytes."""
        data = json.dumps(self.body).encode()
        answer = daemon.call("POST", self.path, data, [f"Idempotency-Key: {self.key}"])
        promised(answer.status == 200, f"{self.key} is carried out: {answer.body!r}")
        return json.loads(answer.body)


@attrs.define(eq=False)
class Requests:
    """All requests of a test. Each creates a Worker with an initial input, or queues an input."""

    made: list[Request] = attrs.field(factory=list)

    def make(self, chance: random.Random, worker_id: str) -> Request:
        key = f"{chance.getrandbits(64):016x}"
        path = f"/v1/workers/{worker_id}/input"
        request = Request(path, {"kind": "user", "content": key, "when_busy": "queue"}, key)
        if chance.random() < 0.3:
            first = {"kind": "user", "content": key}
            request = Request("/v1/workers", {"profile": ECHO, "name": key, "initial_input": first}, key)
        self.made.append(request)
        return request

    def check(self, daemon: Daemon) -> None:
        """Repeat each request twice: what was answered is answered again, and nothing is there twice."""
        for request in self.made:
            first, second = request.send(daemon), request.send(daemon)
            if "ack" in first:
                promised(first == second, f"{request.key}: each repeat has the same answer")
                promised(request.answer in (None, first), f"{request.key}: the repeat has the first answer")
            else:
                names = {one["worker"]["worker_id"] for one in (request.answer, first, second) if one}
                promised(len(names) == 1, f"{request.key} has created one Worker: {names}")
            request.answer = first
        self.check_once(daemon)

    def check_once(self, daemon: Daemon) -> None:
        workers = daemon.call("GET", "/v1/workers").ok("workers")
        given = [
            entry["content"]
            for worker in workers
            for entry in transcript(daemon, worker["worker_id"])
            if entry["role"] == "user"
        ]
        created = [worker["name"] for worker in workers if worker.get("name")]
        expected = sorted(request.key for request in self.made)
        promised(sorted(given) == expected, "each input is there once")
        keys = sorted(request.key for request in self.made if "name" in request.body)
        promised(sorted(created) == keys, "each create has made one Worker")


@contextmanager
def load(daemon: Daemon, requests: Requests, worker_id: str, seed: int) -> Iterator[None]:
    """Clients that send requests until the daemon is gone or the context ends."""
    over = threading.Event()

    def send(chance: random.Random) -> None:
        while not over.is_set():
            request = requests.make(chance, worker_id)
            try:
                request.answer = request.send(daemon)
            except GONE:
                return

    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(send, random.Random(seed + number)) for number in range(CLIENTS)]
        try:
            yield
        finally:
            over.set()
    for done in running:
        done.result()


@pytest.fixture
def requests() -> Requests:
    return Requests()


@pytest.fixture
def play(launch: Callable[..., Daemon], requests: Requests, chance: random.Random) -> Callable[..., None]:
    """Rounds of load on one store. A kill ends each; then the store is started and every request repeated."""

    def rounds(number: int, without: str | None = None) -> None:
        daemon = launch(environment=PATIENT, without=without).ready()
        worker_id = daemon.echo()
        for _ in range(number):
            with load(daemon, requests, worker_id, chance.getrandbits(32)):
                time.sleep(chance.uniform(0.05, LOAD_S))
                daemon.kill()
            daemon = launch(environment=PATIENT, without=without).ready()
            requests.check(daemon)
        daemon.stop()

    return rounds


def test_a_request_that_a_kill_cut_is_carried_out_once_by_its_repeat(
    play: Callable[..., None], requests: Requests, rounds: Callable[[int, int], int]
) -> None:
    play(rounds(4, 60))
    assert len(requests.made) > 20


def test_the_check_sees_a_key_that_is_stored_apart_from_its_request(play: Callable[..., None]) -> None:
    with pytest.raises(Broken, match=r"there once|made one Worker|created one Worker|first answer"):
        play(10, without="keys_in_the_same_commit")
