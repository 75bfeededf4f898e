"""The session of a Worker's agent, saved in a small file in the Worker's folder. Everything here blocks."""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import attrs
import orjson

MAX_FILE_BYTES = 1 << 16
_FILE = "session.json"


@attrs.frozen
class KnownDifference:
    """A difference between the agent's memory and the transcript that was reported.

    Attributes:
        sequence: The newest entry of the transcript at that time.
        size: How many characters the agent remembered.
        digest: A digest of those.
    """

    sequence: int
    size: int
    digest: str


@attrs.frozen
class SavedSession:
    """What is saved about a session.

    Attributes:
        session_id: The id that the agent gave it.
        introduced: The agent has received the intent of its Worker.
        known: The last difference that was reported.
        deleter: A digest of the command of the agent, if that agent can delete the session; else empty.
    """

    session_id: str
    introduced: bool = False
    known: KnownDifference | None = None
    deleter: str = ""


def load(folder: Path) -> SavedSession | None:
    """Return the saved session, or None if there is no valid one. Raises OSError."""
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
        deleter = str(kept.get("deleter", ""))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if not isinstance(session_id, str):
        return None
    return SavedSession(session_id, introduced is True, _known(known), deleter)


def forget(folder: Path) -> None:
    """Remove the saved session, if there is one. Raises OSError."""
    (folder / _FILE).unlink(missing_ok=True)


def digest_of(command: Sequence[str]) -> str:
    """Return what identifies the command of an agent."""
    return hashlib.sha256("\0".join(command).encode(errors="replace")).hexdigest()


def save(folder: Path, saved: SavedSession) -> None:
    """Replace the saved session; it survives a power cut. Raises OSError."""
    new = folder / f"{_FILE}.new"
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(orjson.dumps(attrs.asdict(saved)))
        file.flush()
        os.fsync(file.fileno())
    new.replace(folder / _FILE)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _known(kept: object) -> KnownDifference | None:
    match kept:
        case {"sequence": int(sequence), "size": int(size), "digest": str(digest)}:
            return KnownDifference(sequence, size, digest)
    return None
