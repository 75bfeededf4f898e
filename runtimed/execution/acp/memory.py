"""Which session of its agent belongs to a Worker: a small file in the Worker's folder. Everything here blocks."""

import contextlib
import errno
import os
import stat
from pathlib import Path

import attrs
import orjson

MAX_FILE_BYTES = 1 << 16
_FILE = "session.json"


@attrs.frozen
class Known:
    """A difference that was told of: the newest entry of the transcript then, and what the agent remembered.

    Of that there is the size in characters, and a digest.
    """

    sequence: int
    size: int
    digest: str


@attrs.frozen
class Memory:
    """The session that an agent gave us; `introduced` once a prompt was sent to it."""

    session_id: str
    introduced: bool = False
    known: Known | None = None


def recall(folder: Path) -> Memory | None:
    """What was kept, or None where there is nothing that can be used. Raises OSError."""
    try:
        descriptor = os.open(folder / _FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP}:
            return None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        text = os.read(descriptor, MAX_FILE_BYTES)
    finally:
        os.close(descriptor)
    try:
        kept = orjson.loads(text)
        session_id, introduced, known = kept["session_id"], kept["introduced"], kept.get("known")
    except (ValueError, TypeError, KeyError):
        return None
    return Memory(session_id, introduced is True, _known(known)) if isinstance(session_id, str) else None


def keep(folder: Path, memory: Memory) -> None:
    """Make this what is kept, even through a power cut. Raises OSError."""
    new = folder / f"{_FILE}.new"
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(orjson.dumps(attrs.asdict(memory)))
        file.flush()
        os.fsync(file.fileno())
    new.replace(folder / _FILE)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _known(kept: object) -> Known | None:
    match kept:
        case {"sequence": int(sequence), "size": int(size), "digest": str(digest)}:
            return Known(sequence, size, digest)
    return None
