"""The daemon of a soak: it serves TLS on a port and plain HTTP on a Unix socket, and can be reloaded."""

import contextlib
import json
import secrets
import signal
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from benchmarks.processes import Program
from benchmarks.servers import installed
from benchmarks.soak.certificates import Certificates
from benchmarks.soak.configuration import Configuration
from runtimectl import Client
from runtimectl.client import address
from runtimectl.client.address import Address
from runtimectl.client.http import Connection
from runtimectl.client.tls import TlsOptions

DEADLINE_S = 60.0
POLL_S = 0.02
RELOADED = "configuration reloaded"
REFUSED = "the configuration was not reloaded: nothing has changed"
SETTINGS = {"max_events_per_worker": 1_000, "max_idempotency_keys": 500, "heartbeat_s": 5}
"""Limits that are reached in minutes, so that what they keep is flat."""


class Place:
    """The files of a soak, which all lives of the daemon share.

    Args:
        folder: For everything but the sockets.
        sockets: For the sockets; a short path.
    """

    def __init__(self, folder: Path, sockets: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.store, self.audit_log = folder, folder / "store", folder / "audit.jsonl"
        self.socket, self.metrics_socket = sockets / "api", sockets / "metrics"
        self.certificates = Certificates(folder)
        settings = {
            **SETTINGS,
            "store": f"fs:{self.store}",
            "listen": ["127.0.0.1:0", f"unix:{self.socket}"],
            "listen_metrics": f"unix:{self.metrics_socket}",
            "tls_cert": str(self.certificates.cert),
            "tls_key": str(self.certificates.key),
            "log_format": "json",
        }
        self.configuration = Configuration(folder / "config.toml", settings, self.audit_log)


class SoakedDaemon(Program):
    """A `runtimed` with a configuration file.

    Attributes:
        place: Its files.
        addresses: Where it serves: by TLS, and on its Unix socket.
    """

    token = secrets.token_urlsafe(32)

    def __init__(self, place: Place) -> None:
        self.place = place
        environment = {"RUNTIMED_TOKEN": self.token, "XDG_RUNTIME_DIR": str(place.folder)}
        command = [*installed(), "--config", str(place.configuration.file)]
        super().__init__(command, place.folder / "log", environment)

    def __enter__(self) -> Self:
        super().__enter__()
        with contextlib.ExitStack() as unless_it_serves:
            unless_it_serves.push(self)
            url = next(word for word in self.read_line().split() if word.startswith("https://"))
            unless_it_serves.pop_all()
        self.addresses = (self._address(url), self._address(f"unix:{self.place.socket}"))
        return self

    @property
    def tls_address(self) -> Address:
        """Where it serves TLS."""
        return self.addresses[0]

    def client(self, at: Address, token: str | None = None) -> Client:
        """Return a client of one of its addresses."""
        ca = str(self.place.certificates.ca)
        return Client(at.url, token or self.token, ca=ca, timeout=DEADLINE_S)

    def ask(self, at: Address, method: str, path: str, body: Any = None) -> bytes:
        """Send a request on a new connection and return the body of the answer. Raises AssertionError if refused."""
        connection = Connection(at)
        try:
            answer = connection.request(method, path, None if body is None else json.dumps(body).encode())
        finally:
            connection.close()
        if answer.status not in {200, 204}:
            raise AssertionError(f"{method} {path}: {answer.status} {answer.body!r}")
        return answer.body

    def post(self, at: Address, path: str, body: Any) -> Any:
        """Return the decoded answer to a POST. Raises AssertionError if it is refused."""
        return json.loads(self.ask(at, "POST", path, body))

    def metrics(self) -> dict[str, float]:
        """Return the figures of /metrics, summed over labels, from the listener of the metrics."""
        return figures(self.ask(self._address(f"unix:{self.place.metrics_socket}"), "GET", "/metrics"))

    def served_certificate(self) -> bytes:
        """Return the certificate that a new connection gets, as DER."""
        with self.tls_address.connect(DEADLINE_S) as connection:
            assert isinstance(connection, ssl.SSLSocket)
            return connection.getpeercert(binary_form=True) or b""

    def reload(self, expected: str = RELOADED) -> set[str]:
        """Have it read its files again, and return what its log says has changed.

        Raises:
            AssertionError: The log says something else than expected, or nothing in DEADLINE_S.
        """
        logged = self._log.stat().st_size
        self._process.send_signal(signal.SIGHUP)
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until:
            for record in self._reloads(logged):
                if record["message"] != expected:
                    raise AssertionError(f"a reload: {record}")
                return set(record.get("changed", "").split(", "))
            time.sleep(POLL_S)
        raise AssertionError(f"no reload within {DEADLINE_S:g} s")

    def _reloads(self, position: int) -> Iterator[dict[str, Any]]:
        """Yield the records about reloads behind a position of the log."""
        with self._log.open("rb") as log:
            log.seek(position)
            for line in log:
                if line.endswith(b"\n") and (RELOADED.encode() in line or REFUSED.encode() in line):
                    yield json.loads(line)

    def _address(self, url: str) -> Address:
        options = TlsOptions(ca=str(self.place.certificates.ca))
        return address.parse(url)._replace(token=self.token, has_given_token=True, tls_options=options)


def figures(exposition: bytes) -> dict[str, float]:
    """Return the samples of an exposition by name, summed over their labels."""
    found: dict[str, float] = {}
    for line in exposition.decode().splitlines():
        if not line.startswith("#"):
            sample, _, value = line.rpartition(" ")
            name = sample.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found
