"""What operators do to the daemon while it is used: reloads, rotations, backups and scrapes."""

import itertools
import json
import time
from collections.abc import Callable

from benchmarks.soak.configuration import PROFILE, Configuration
from benchmarks.soak.daemon import DEADLINE_S, POLL_S, REFUSED, SoakedDaemon, figures
from runtimectl.client.download import download
from runtimed.wire import routes

MAGIC = b"SQLite format 3\0"


class Upkeep:
    """The actions of operators, each of which also checks that the daemon did what it was asked for."""

    def __init__(self, daemon: SoakedDaemon) -> None:
        self._daemon, self._place = daemon, daemon.place
        self._names = itertools.count(1)

    @property
    def actions(self) -> tuple[Callable[[], None], ...]:
        """All of them, in the order in which they are repeated."""
        return (self.reload, self.rotate_certificate, self.rotate_audit_log, self.back_up, self.scrape)

    def reload(self) -> None:
        """Change a profile, a limit of a tenant and the log level, after a file that the daemon refuses."""
        configuration = self._place.configuration
        configuration.spoil()
        self._daemon.reload(REFUSED)
        configuration.advance()
        changed = self._daemon.reload()
        if changed != Configuration.CHANGES:
            raise AssertionError(f"a reload has changed {changed}")
        self._check_profile(str(configuration.version))

    def rotate_certificate(self) -> None:
        """Change the certificate: new connections get it, and one from before goes on."""
        with self._daemon.client(self._daemon.tls_address) as before:
            before.runtime()
            expected = self._place.certificates.rotate()
            self._daemon.reload()
            if self._daemon.served_certificate() != expected:
                raise AssertionError("a new connection gets the certificate from before")
            before.runtime()

    def rotate_audit_log(self) -> None:
        """Rename the file of the audit log: a new one takes the lines from then on, and none is lost."""
        rotated = self._place.audit_log.with_suffix(".1")
        self._place.audit_log.rename(rotated)
        self._daemon.reload()
        path = routes.TOKEN.format(name=self._make_token())
        self._daemon.ask(self._daemon.tls_address, "DELETE", path)
        self._wait_for_audit_line(path)
        if any(json.loads(line)["outcome"].startswith("lost") for line in rotated.read_text().splitlines()):
            raise AssertionError("lines of the audit log are lost")
        rotated.unlink()

    def back_up(self) -> None:
        """Receive a backup of the store."""
        received, begin = 0, b""
        with download(self._daemon.tls_address, routes.RUNTIME_BACKUP, DEADLINE_S) as answer:
            for piece in answer.pieces:
                begin = (begin + piece[: len(MAGIC)])[: len(MAGIC)]
                received += len(piece)
        if begin != MAGIC or received != answer.size_bytes:
            raise AssertionError(f"a backup of {received} bytes, of {answer.size_bytes}, begins with {begin!r}")

    def scrape(self) -> None:
        """Read the metrics with a token, by TLS."""
        found = figures(self._daemon.ask(self._daemon.tls_address, "GET", routes.METRICS))
        if found["runtimed_ready"] != 1 or found["runtimed_audit_losses_total"]:
            raise AssertionError("the daemon is not ready, or has lost audit lines")

    def _check_profile(self, version: str) -> None:
        with self._daemon.client(self._daemon.tls_address) as client:
            worker = client.create_worker(profile=PROFILE, capabilities=["shell"])
            said = worker.run('echo "$VERSION"', timeout=DEADLINE_S).text.strip()
            worker.stop()
            worker.delete()
        if said != version:
            raise AssertionError(f"a Worker has the profile of version {said}, not of {version}")

    def _make_token(self) -> str:
        name = f"upkeep-{next(self._names)}"
        self._daemon.ask(self._daemon.tls_address, "POST", routes.TOKENS, {"name": name, "role": "observer"})
        return name

    def _wait_for_audit_line(self, target: str) -> None:
        until = time.monotonic() + DEADLINE_S
        while f'"target":"{target}"' not in self._place.audit_log.read_text():
            if time.monotonic() > until:
                raise AssertionError(f"no audit line of {target} within {DEADLINE_S:g} s")
            time.sleep(POLL_S)
