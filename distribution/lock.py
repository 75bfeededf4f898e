"""The lock: the exact versions that the container image installs, with the hashes of their files."""

import re
from collections.abc import Iterator
from pathlib import Path

import attrs
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

LOCK = Path(__file__).parents[1] / "requirements.lock"
EXTRAS = ("acp", "speed", "build")
"""The extras that the image is made with."""

PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})*)")


@attrs.frozen
class Pin:
    """A line of the lock.

    Attributes:
        name: The normalized name of the distribution.
        version: Its version.
        hashes: How many files of it are accepted.
    """

    name: NormalizedName
    version: Version
    hashes: int


def read(text: str) -> Iterator[Pin]:
    """Return the pins of a lock. Raises ValueError for a line that is neither a pin nor a comment."""
    for line in text.replace("\\\n", " ").split("\n"):
        stated = " ".join(line.partition("#")[0].split())
        found = PIN.fullmatch(stated)
        if found:
            yield Pin(canonicalize_name(found[1]), Version(found[2]), found[3].count("--hash"))
        elif stated:
            raise ValueError(f"expected NAME==VERSION with hashes, found {stated!r}")
