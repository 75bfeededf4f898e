"""What a bind shows, held by a descriptor from its check until it is shown. Everything here blocks."""

import errno
import os
from pathlib import Path

from runtimed.execution.beneath import open_without_links

REPLACED = (
    "workspace_refs, mount_refs or sandbox: a file or folder of them, or of a repository of theirs, "
    "was replaced by a link"
)


class LinkFound(OSError):
    """What a Worker is shown was replaced by a link."""

    def __str__(self) -> str:
        return self.strerror or ""


def open_source(path: Path) -> int:
    """Return a descriptor of a file or folder at an absolute path.

    A path can lead to something else later, the descriptor cannot.

    Raises:
        LinkFound: The path leads through a link.
        OSError: Nothing is there, or it cannot be looked at.
    """
    try:
        return open_without_links(path, is_folder=False)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise LinkFound(error.errno, REPLACED) from error
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_source(path: Path) -> None:
    """Check that a path leads to something, without links. Raises the errors of `open_source`."""
    os.close(open_source(path))


def status_of(path: Path) -> os.stat_result:
    """Return owner and mode of what is at a path, without links. Raises the errors of `open_source`."""
    descriptor = open_source(path)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)
