"""One invocation of `runtimectl`: the common options, and the client, printer and messages that they configure."""

import os
import sys
from typing import TYPE_CHECKING

from runtimectl.errors import DaemonFailed, NotFound, UsageProblem
from runtimectl.output.text import one_line

if TYPE_CHECKING:
    from runtimectl.client.api import Body, Client
    from runtimectl.client.discovery import DaemonOptions
    from runtimectl.output.printer import Format, Printer

MAX_LISTED = 8
"""How many Workers an error about an ambiguous prefix lists."""


class Session:
    """The common options by name. An option after the command overrides the same one before it."""

    url: str | None = None
    token_file: str | None = None
    context: str | None = None
    ca: str | None = None
    output: "Format" = "table"
    timeout: float | None = None
    no_color: bool = False
    quiet: bool = False
    _client: "Client | None" = None

    def client(self, runtime_id: str | None = None) -> "Client":
        """Find the daemon again and return its client, the same object as before if the address is the same.

        Args:
            runtime_id: Consider only endpoint files of this Runtime.
        """
        from runtimectl.client.api import Client
        from runtimectl.client.discovery import find_address

        address = find_address(self.daemon_options(), runtime_id)
        if self._client is None or self._client.address != address:
            self.close()
            self._client = Client(address)
        return self._client

    def close(self) -> None:
        """Close the connection to the daemon."""
        if self._client is not None:
            self._client.close()

    def daemon_options(self) -> "DaemonOptions":
        """Return the options that name a daemon."""
        from runtimectl.client.discovery import DaemonOptions

        return DaemonOptions(self.url, self.token_file, self.context, self.ca)

    def printer(self) -> "Printer":
        """Return a printer for stdout in the chosen format."""
        from runtimectl.output.printer import Printer

        is_plain = self.no_color or bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()
        return Printer(self.output, use_color=not is_plain)

    def notify(self, message: str) -> None:
        """Write a note for people to stderr, unless --quiet is given."""
        if not self.quiet:
            write_message(message)


def write_message(message: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(f"runtimectl: {one_line(message)}\n")


def resolve_worker_id(client: "Client", given: str) -> str:
    """Return the id of a Worker.

    Args:
        client: The daemon to ask for its Workers, if a prefix is given.
        given: An id, or a prefix that only one id has.

    Raises:
        NotFound: No id begins with the prefix.
        UsageProblem: The prefix is empty, or several ids begin with it.
    """
    from runtimed.model.identity import WORKER_ID

    if WORKER_ID.fullmatch(given):
        return given
    if not given:
        raise UsageProblem("worker: expected an id or a unique prefix of one, got an empty text")
    ids = [required_text(worker, "worker_id") for worker in client.workers()["workers"]]
    matches = [known for known in ids if known.startswith(given)]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise NotFound(f"worker: no id begins with {given!r}; list the ids with: runtimectl workers list")
    listed = ", ".join(matches[:MAX_LISTED]) + (" and more" if len(matches) > MAX_LISTED else "")
    raise UsageProblem(f"worker: {given!r} is ambiguous: {listed}")


def required_text(body: "Body", name: str) -> str:
    """Return a text field that the contract requires. Raises DaemonFailed if it is missing."""
    value = body.get(name)
    if not isinstance(value, str):
        raise DaemonFailed(f"unexpected response: expected the text field {name!r}")
    return value
