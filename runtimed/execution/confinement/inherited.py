"""The descriptors that a sandbox inherits: what it shows, and what it reads at its start."""

import logging
import os
import stat
from pathlib import Path

from runtimed.execution.beneath import identity
from runtimed.execution.confinement.bind_source import open_source

log = logging.getLogger(__name__)


class Descriptors:
    """What a command inherits, until `close`.

    Attributes:
        descriptors: The descriptors.
        identities: What tells the content of each file from that of another one, and a folder from another one.
    """

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self.identities: dict[int, object] = {}

    def public(self, path: Path) -> int | None:
        """Return a descriptor that reads a file, or None if there is no file that everybody can read."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not found.st_mode & stat.S_IROTH:
            os.close(descriptor)
            return None
        self.descriptors.append(descriptor)
        self.identities[descriptor] = (
            found.st_dev,
            found.st_ino,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
        )
        return descriptor

    def source(self, path: Path) -> int:
        """Return a descriptor of a file or folder, for one bind. Raises LinkFound or another OSError."""
        try:
            descriptor = open_source(path)
        except OSError as error:  # clients are told the reason without the path
            log.warning("cannot show a Worker a file or folder", extra={"path": str(path), "reason": error.strerror})
            raise
        self.descriptors.append(descriptor)
        self.identities[descriptor] = identity(descriptor)
        return descriptor

    def file(self, data: bytes) -> int:
        """Return a descriptor that reads these bytes."""
        descriptor = os.memfd_create("confinement")
        self.descriptors.append(descriptor)
        self.identities[descriptor] = data
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def pipe(self) -> tuple[int, int]:
        """Return the two ends of a pipe."""
        ends = os.pipe()
        self.descriptors += ends
        return ends

    def close(self) -> None:
        """Close all."""
        for descriptor in self.descriptors:
            os.close(descriptor)
