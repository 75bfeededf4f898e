"""One invocation: what its common options say, and the daemon, the output and the messages that follow from them."""

import os
import sys
from typing import TYPE_CHECKING

from runtimectl.errors import DaemonFailed, Missing, UsageProblem
from runtimectl.text import one_line

if TYPE_CHECKING:
    from runtimectl.client import Body, Client
    from runtimectl.discovery import Wishes
    from runtimectl.output import Format, Printer

MAX_NAMED = 8


class Session:
    """The common options by name, as the innermost place on the command line gave them."""

    url: str | None = None
    token_file: str | None = None
    context: str | None = None
    ca: str | None = None
    output: "Format" = "table"
    timeout: float | None = None
    no_color: bool = False
    quiet: bool = False

    def client(self, runtime_id: str | None = None) -> "Client":
        """A client of the daemon as it is to be found now; with a runtime id, of that Runtime."""
        from runtimectl import discovery
        from runtimectl.client import Client

        return Client(discovery.find(self.wishes(), runtime_id))

    def wishes(self) -> "Wishes":
        """What the options say of where the daemon is."""
        from runtimectl.discovery import Wishes

        return Wishes(self.url, self.token_file, self.context, self.ca)

    def printer(self) -> "Printer":
        """Where data goes."""
        from runtimectl.output import Printer

        plain = self.no_color or bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()
        return Printer(self.output, colour=not plain)

    def tell(self, message: str) -> None:
        """A remark for people, on one line of stderr; nothing with -q."""
        if not self.quiet:
            say(message)


def say(message: str) -> None:
    """One line for stderr."""
    sys.stderr.write(f"runtimectl: {one_line(message)}\n")


def worker_id(client: "Client", given: str) -> str:
    """The id that is given whole or as a unique prefix. Raises UsageProblem and Missing."""
    from runtimed.model.identity import WORKER_ID

    if WORKER_ID.fullmatch(given):
        return given
    if not given:
        raise UsageProblem("worker: expected an id or a unique prefix of one, got an empty text")
    found = [text(worker, "worker_id") for worker in client.workers()["workers"]]
    matches = [known for known in found if known.startswith(given)]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise Missing(f"worker: expected an id or a unique prefix of one, and none begins with {given!r}")
    listed = ", ".join(matches[:MAX_NAMED]) + (" and more" if len(matches) > MAX_NAMED else "")
    raise UsageProblem(f"worker: {given!r} is ambiguous: {listed}")


def text(body: "Body", name: str) -> str:
    """A field that every answer of its kind has."""
    value = body.get(name)
    if not isinstance(value, str):
        raise DaemonFailed(f"expected an answer with {name!r}; what listens there is no runtimed")
    return value
