"""Endpoint files: how a client of the same user finds a running daemon and its token."""

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

DRAFT = ".draft"

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Endpoint(NamedTuple):
    """Where a daemon listens. `token` is here only where no file holds it; it is in no repr.

    A tuple, because each command of the client reads these: attrs would double the time of their imports.
    """

    url: str
    runtime_id: str
    pid: int
    token: str | None = None
    token_file: str | None = None

    def __repr__(self) -> str:
        """All but the token."""
        return f"Endpoint({self.url!r}, {self.runtime_id!r}, pid={self.pid}, token_file={self.token_file!r})"

    def alive(self) -> bool:
        """Whether the daemon's process is still there, and has not ended."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return not _has_ended(self.pid)


def _has_ended(pid: int) -> bool:
    """Whether a process is there only until its parent asks for its exit status."""
    try:
        told = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return told.rpartition(b")")[2].split()[0] in {b"Z", b"X"}


def folder() -> Path:
    """The folder of the user's endpoint files: `runtimed` in the runtime folder that the system gives each user."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given:
        return Path(given) / "runtimed"
    system = Path(f"/run/user/{os.getuid()}")
    if system.is_dir():
        return system / "runtimed"
    return Path(os.environ.get("TMPDIR") or "/tmp") / f"runtimed-{os.getuid()}"  # noqa: S108 it must be this user's


@contextlib.contextmanager
def published(endpoint: Endpoint) -> Iterator[Path]:
    """The file (0600, in a folder of 0700) from now until the end; removes those of daemons that are gone.

    A lock on it says that its daemon lives, and ends with the process. Blocks. Raises FileExistsError where another
    daemon holds the file of this runtime id, OSError where none can be had.
    """
    home = folder()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(home)
    home.chmod(0o700)
    path = home / f"{endpoint.runtime_id}.json"
    with _alone_in(home):
        _remove_leftovers(home)
        handle = _put(path, endpoint)
    try:
        yield path
    finally:
        _remove(path, handle)
        os.close(handle)


@contextlib.contextmanager
def _alone_in(home: Path) -> Iterator[None]:
    """One daemon after another, so that who holds the lock of a file for a moment is not taken for its owner."""
    handle = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _put(path: Path, endpoint: Endpoint) -> int:
    """The file at this path, written, and locked before anybody can see it."""
    if _is_owned(path):
        owner = "".join(f" (process {known.pid}, {known.url})" for known in read(path))
        raise FileExistsError(errno.EEXIST, f"{path.name} is that of another daemon{owner}")
    draft = path.with_name(DRAFT)
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(handle, 0o600)
        with os.fdopen(handle, "w", closefd=False) as file:
            json.dump({name: value for name, value in endpoint._asdict().items() if value is not None}, file)
        draft.replace(path)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _is_owned(path: Path) -> bool:
    """Whether a daemon that lives holds the lock of a file."""
    try:
        handle = os.open(path, _READ)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP}:
            return False
        raise
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _remove_leftovers(home: Path) -> None:
    for path in home.glob("*.json"):
        if next(read(path), None) and not _is_owned(path):
            path.unlink()


def _remove(path: Path, handle: int) -> None:
    """Remove the file, unless another one is in its place by now."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(path.lstat(), os.fstat(handle)):
            path.unlink()


def live() -> list[Endpoint]:
    """The endpoints whose daemon is running, by runtime id."""
    return [endpoint for endpoint in known() if endpoint.alive()]


def known() -> list[Endpoint]:
    """The endpoints that files of this user name, by runtime id, those of daemons that are gone too."""
    try:
        paths = files()
    except OSError:
        return []
    return [endpoint for path in paths for endpoint in read(path)]


def files() -> list[Path]:
    """The endpoint files, those of daemons that are gone too. Raises OSError where the folder is not this user's."""
    home = folder()
    _check_private(home)
    return sorted(home.glob("*.json"))


def _check_private(home: Path) -> None:
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{home} is not a folder of this user")


def read(path: Path) -> Iterator[Endpoint]:
    """What a file of this user's holds; nothing where that is no endpoint."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        handle = os.open(path, _READ)
        with os.fdopen(handle) as file:
            if os.fstat(handle).st_uid == os.getuid():
                yield _endpoint(json.load(file))


def _endpoint(fields: dict[str, Any]) -> Endpoint:
    """What is known of an endpoint; a later version may tell more. Raises TypeError for anything else."""
    found = Endpoint(**{name: fields[name] for name in Endpoint._fields if name in fields})
    texts = (found.url, found.runtime_id, found.token or "", found.token_file or "")
    if type(found.pid) is not int or not all(type(text) is str for text in texts):
        raise TypeError("not an endpoint")
    return found
