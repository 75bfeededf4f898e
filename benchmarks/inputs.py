"""Inputs from many clients at once, each to its own Worker, with a check that all of them were stored."""

from pathlib import Path

from benchmarks.clients import Load, put_load
from benchmarks.servers import Daemon, Server

INPUT = {"kind": "user", "content": "Look at the failing test in the store, find out why, and mend it. " * 3}


def send(server: Server, paths: list[str], seconds: float, log: Path) -> Load:
    """POST the input to each path repeatedly for a number of seconds, by one client a path."""
    return put_load(server, [server.request_bytes("POST", path, INPUT) for path in paths], seconds, log)


class Inputs:
    """The Workers of a daemon, one for each client, and how many inputs each has acknowledged."""

    def __init__(self, daemon: Daemon, clients: int) -> None:
        self._daemon = daemon
        self._acknowledged = dict.fromkeys(daemon.create_workers(clients), 0)

    @property
    def paths(self) -> list[str]:
        """The path of each client's inputs."""
        return [f"/v1/workers/{worker}/input" for worker in self._acknowledged]

    def acknowledgement(self) -> bytes:
        """Send one input, and return the body of its acknowledgement."""
        worker = next(iter(self._acknowledged))
        status, answer = self._daemon.ask("POST", f"/v1/workers/{worker}/input", INPUT)
        assert status == 200, answer
        self._acknowledged[worker] += 1
        return answer

    def send(self, clients: int, seconds: float, log: Path) -> Load:
        """Run some of the clients. Raises AssertionError unless the transcripts hold every acknowledged input."""
        load = send(self._daemon, self.paths[:clients], seconds, log)
        for worker, answered in zip(self._acknowledged, load.answered, strict=False):
            self._acknowledged[worker] += answered
            self._check(worker)
        return load

    def _check(self, worker: str) -> None:
        count = self._acknowledged[worker]
        page = self._daemon.get(f"/v1/workers/{worker}/transcript?start={count - 1}&limit=2")["transcript"]
        assert [item["sequence"] for item in page["items"]] == [count], f"{worker}: {count} inputs, but {page}"
