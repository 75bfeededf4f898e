"""What the launcher is told, as it reads it."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import attrs

from runtimed.execution.confinement import launcher
from runtimed.execution.confinement.landlock import UNRESTRICTED, Ruleset

FOLDER = Path(launcher.__file__).parent
"""The folder with the launcher, which must be readable where it runs."""

_START = "import sys; sys.path.append(sys.argv.pop(1)); import launcher; launcher.main()"
"""Runs the launcher as a module: Python would compile a script anew each time, for a fifth of the time it takes."""


@attrs.frozen
class Instructions:
    """How the launcher restricts a program before it executes it.

    Attributes:
        ruleset: What Landlock restricts.
        filters: Seccomp filters, all of which hold.
        user: The user and the group to become, with no other groups. It takes root. None keeps user and groups.
        max_descriptors: How many descriptors the program may open before it raises its limit; None leaves the limit.
        environment: Variables of the program, besides those of the launcher, which runs without them.
    """

    ruleset: Ruleset = UNRESTRICTED
    filters: tuple[bytes, ...] = ()
    user: tuple[int, int] | None = None
    max_descriptors: int | None = None
    environment: Mapping[str, str] = attrs.field(factory=dict, repr=False)

    def descriptor(self) -> int:
        """Return a descriptor for one launcher, which must inherit it; the caller closes it.

        Raises:
            ValueError: A variable cannot be set.
        """
        encoded = self.encode()
        descriptor = os.memfd_create("confinement")
        os.write(descriptor, encoded)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def encode(self) -> bytes:
        """Return the instructions as `key=value` texts, each ended by a zero byte."""
        entries = [f"{key}={value}" for key, value in self._entries()]
        if any("\0" in entry for entry in entries) or any(not name or "=" in name for name in self.environment):
            raise ValueError("expected variables without zero bytes, and their names without '='")
        return b"".join(f"{entry}\0".encode(errors="surrogateescape") for entry in entries)

    def _entries(self) -> Iterable[tuple[str, object]]:
        if self.max_descriptors is not None:
            yield "max_descriptors", self.max_descriptors
        if self.user is not None:
            yield "user", "{}:{}".format(*self.user)
        yield from (("files", self.ruleset.files), ("network", self.ruleset.network), ("scopes", self.ruleset.scopes))
        yield from (("path", f"{rights}:{path}") for path, rights in self.ruleset.path_rules)
        yield from (("port", f"{rights}:{port}") for port, rights in self.ruleset.port_rules)
        yield from (("variable", f"{name}={value}") for name, value in self.environment.items())
        yield from (("filter", program.hex()) for program in self.filters)
        yield "end", ""


def argv(command: Sequence[str], descriptor: int, interpreter: str = "") -> list[str]:
    """Return the command, wrapped so that the launcher restricts it first.

    Args:
        command: The program, by path or by a name that is looked for in its PATH, and its arguments.
        descriptor: Where the launcher reads its instructions. It is closed before the program begins.
        interpreter: The Python to run the launcher with; this one if empty.
    """
    python = interpreter or os.path.realpath(sys.executable)
    return [python, "-I", "-S", "-B", "-X", "utf8", "-c", _START, str(FOLDER), str(descriptor), *command]
