"""Where audit lines are written: a file, or the journal of systemd. All methods block."""

import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import attrs

from runtimed.errors import ConfigurationError

JOURNAL = "journal"
JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
SEND_TIMEOUT_S = 5.0
"""How long a datagram to the journal may wait for room in its socket."""

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@attrs.frozen
class AuditPolicy:
    """What is done with audit lines.

    Attributes:
        file: The absolute path of a file, `journal`, or an empty text for no audit log.
        required: Whether the daemon counts as not ready while lines cannot be written.
    """

    file: str = ""
    required: bool = False


class NotWritten(OSError):
    """Some lines could not be written; `written` counts those that were. The text gives the reason."""

    def __init__(self, written: int, reason: object) -> None:
        super().__init__(str(reason))
        self.written = written


class Destination(Protocol):
    """Where lines go. One thread at a time may use it."""

    def write(self, lines: Sequence[bytes]) -> None:
        """Write whole lines, in their order. Raises NotWritten."""

    def close(self) -> None:
        """Close it. Raises OSError."""


def open_destination(policy: AuditPolicy, journal: Path = JOURNAL_SOCKET) -> Destination | None:
    """Open what a policy names; None for no audit log.

    Args:
        policy: The policy.
        journal: The socket of the journal.

    Raises:
        ConfigurationError: It cannot be opened.
    """
    if not policy.file:
        return None
    try:
        return Journal(journal) if policy.file == JOURNAL else AuditFile(Path(policy.file))
    except OSError as error:
        raise ConfigurationError(f"audit.file: {policy.file}: {error.strerror or error}") from error


class AuditFile:
    """A file to which lines are appended. It is created with mode 0600.

    A symbolic link, a file of another user and one that others can write are refused.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, _FLAGS, 0o600)
        try:
            _check_private(self._descriptor)
            self._is_torn = not self._ends_a_line()
        except BaseException:
            os.close(self._descriptor)
            raise

    def write(self, lines: Sequence[bytes]) -> None:
        """Append the lines, or none of them: what was written of them is cut off if the disk is full."""
        data = (b"\n" if self._is_torn else b"") + b"".join(lines)
        written = 0
        try:
            before = os.fstat(self._descriptor).st_size
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            if written:
                self._cut_off(before, written)
            raise NotWritten(0, error.strerror) from error
        self._is_torn = False

    def close(self) -> None:
        """Close the file, once its lines are on the disk. Raises OSError, after which it is closed as well."""
        try:
            os.fdatasync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def _cut_off(self, before: int, written: int) -> None:
        """Remove a part of the lines, unless somebody else has written behind it: then a line feed has to end it."""
        try:
            if os.fstat(self._descriptor).st_size == before + written:
                os.ftruncate(self._descriptor, before)
                return
        except OSError:
            pass
        self._is_torn = True

    def _ends_a_line(self) -> bool:
        size = os.fstat(self._descriptor).st_size
        return not size or os.pread(self._descriptor, 1, size - 1) == b"\n"


def _check_private(descriptor: int) -> None:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("expected a regular file")
    if found.st_uid != os.geteuid():
        raise OSError("it belongs to another user; expected one of this user")
    if found.st_mode & 0o022:
        raise OSError(f"others can write it: expected the mode 600, not {stat.S_IMODE(found.st_mode):o}")


class Journal:
    """The journal of systemd, by its native protocol. Each line is the message of an entry.

    Args:
        path: The socket of the journal.

    Raises:
        OSError: There is no such socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise OSError(f"{path}: expected a socket")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(SEND_TIMEOUT_S)

    def write(self, lines: Sequence[bytes]) -> None:
        """Send the lines, each as an entry with the field RUNTIMED_AUDIT."""
        for written, line in enumerate(lines):
            entry = b"SYSLOG_IDENTIFIER=runtimed\nPRIORITY=5\nRUNTIMED_AUDIT=1\nMESSAGE=" + line
            try:
                self._socket.sendto(entry, self._path)
            except OSError as error:
                raise NotWritten(written, error.strerror or error) from error

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
