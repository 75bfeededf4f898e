"""Endpoint files, by which a client finds a running daemon of the same user, and its token."""

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
    """The address of a daemon.

    A NamedTuple because every client command reads endpoints: attrs would double the time of their imports.

    Attributes:
        url: Where the daemon listens.
        runtime_id: The id of its Runtime.
        pid: The id of its process.
        token: The token, if no file holds it. It is in no repr.
        token_file: The path of the file that holds the token, if there is one.
        certificate: The path of the file that begins with the certificate of the daemon, if it serves TLS.
    """

    url: str
    runtime_id: str
    pid: int
    token: str | None = None
    token_file: str | None = None
    certificate: str | None = None

    def __repr__(self) -> str:
        """Return every field except the token."""
        return f"Endpoint({self.url!r}, {self.runtime_id!r}, pid={self.pid}, token_file={self.token_file!r})"

    def alive(self) -> bool:
        """Return whether the daemon's process is running."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return not _has_ended(self.pid)


def _has_ended(pid: int) -> bool:
    """Return whether a process has exited and only waits to be reaped."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return status.rpartition(b")")[2].split()[0] in {b"Z", b"X"}


def folder() -> Path:
    """Return the folder of the user's endpoint files: `runtimed` in the user's runtime directory."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given:
        return Path(given) / "runtimed"
    system = Path(f"/run/user/{os.getuid()}")
    if system.is_dir():
        return system / "runtimed"
    return Path(os.environ.get("TMPDIR") or "/tmp") / f"runtimed-{os.getuid()}"  # noqa: S108 it must be this user's


@contextlib.contextmanager
def published(endpoint: Endpoint) -> Iterator[Path]:
    """Write the endpoint file, and remove it when the context is left. Blocks.

    The file has mode 0600, in a folder of mode 0700. It stays locked while the daemon runs; the lock ends with the
    process. Files of daemons that are gone are removed.

    Args:
        endpoint: What to write.

    Returns:
        The path of the file.

    Raises:
        FileExistsError: Another daemon holds the file of this runtime id.
        OSError: The file or its folder cannot be written.
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
    """Lock the folder: a daemon that tests a file's lock holds it briefly, and must not be taken for its owner."""
    handle = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _put(path: Path, endpoint: Endpoint) -> int:
    """Write the file, and return its descriptor. The file is locked before it has its name."""
    if _is_owned(path):
        owner = "".join(f" (process {known.pid}, {known.url})" for known in read(path))
        raise FileExistsError(errno.EEXIST, f"{path.name} belongs to another daemon{owner}")
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
    """Return whether a running daemon holds the lock of a file."""
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
    """Remove the file, unless another one has taken its place."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(path.lstat(), os.fstat(handle)):
            path.unlink()


def live() -> list[Endpoint]:
    """Return the endpoints of running daemons, ordered by runtime id."""
    return [endpoint for endpoint in known() if endpoint.alive()]


def known() -> list[Endpoint]:
    """Return all endpoints of this user, ordered by runtime id, even those of daemons that are gone."""
    try:
        paths = files()
    except OSError:
        return []
    return [endpoint for path in paths for endpoint in read(path)]


def files() -> list[Path]:
    """Return the paths of all endpoint files, even those of daemons that are gone.

    Raises:
        OSError: The folder does not exist or belongs to another user.
    """
    home = folder()
    _check_private(home)
    return sorted(home.glob("*.json"))


def _check_private(home: Path) -> None:
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{home} is not a folder of this user")


def read(path: Path) -> Iterator[Endpoint]:
    """Yield the endpoint in a file, or nothing if the file is not an endpoint file of this user."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        handle = os.open(path, _READ)
        with os.fdopen(handle) as file:
            if os.fstat(handle).st_uid == os.getuid():
                yield _endpoint(json.load(file))


def _endpoint(fields: dict[str, Any]) -> Endpoint:
    """Return the endpoint with these fields, without unknown ones. Raises TypeError if it is not an endpoint."""
    found = Endpoint(**{name: fields[name] for name in Endpoint._fields if name in fields})
    texts = (found.url, found.runtime_id, found.token or "", found.token_file or "", found.certificate or "")
    if type(found.pid) is not int or not all(type(text) is str for text in texts):
        raise TypeError("not an endpoint")
    return found
