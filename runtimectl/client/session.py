"""One invocation of `runtimectl`: the common options, and the client, printer and messages that they configure."""

import os
import sys
from typing import TYPE_CHECKING, TextIO

from runtimectl.errors import DaemonFailed
from runtimectl.output.text import one_line

if TYPE_CHECKING:
    from runtimectl.client.api import Body, Client
    from runtimectl.client.discovery import DaemonOptions
    from runtimectl.output.printer import Format, Printer

RECONNECT_FOR_S = 300.0
"""How long a lost daemon is waited for."""

MAX_TIMEOUT_S = 31_536_000
"""The longest time that a command or a call may be given: a year."""


class Session:
    """The common options by name. An option after the command overrides the same one before it."""

    url: str | None = None
    token_file: str | None = None
    context: str | None = None
    ca: str | None = None
    output: "Format" = "table"
    timeout: float | None = None
    reconnect_for: float = RECONNECT_FOR_S
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

    def another(self) -> "Session":
        """Return a session with the same options and a connection of its own, for another thread."""
        other = Session()
        vars(other).update({**vars(self), "_client": None})
        return other

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
    write_to_stderr(f"runtimectl: {one_line(message)}\n")


def write_to_stderr(text: str) -> None:
    """Write text to stderr. Without a reader it is dropped: the command goes on, and ends with its own exit code."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Send what a standard stream has still to write to /dev/null."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def required_text(body: "Body", name: str) -> str:
    """Return a text field that the contract requires. Raises DaemonFailed if it is missing."""
    value = body.get(name)
    if not isinstance(value, str):
        raise DaemonFailed(f"unexpected response: expected the text field {name!r}")
    return value
