"""Endpoint files: how a client of the same user finds a running daemon and its token."""

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs


@attrs.frozen
class Endpoint:
    """Where a daemon listens. `token` is here only where no file holds it; it is in no repr."""

    url: str
    runtime_id: str
    pid: int
    token: str | None = attrs.field(default=None, repr=False)
    token_file: str | None = None

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
    return Path(tempfile.gettempdir()) / f"runtimed-{os.getuid()}"


def write(endpoint: Endpoint) -> Path:
    """Write the file (0600, in a folder of 0700) and return its path. Raises OSError where that can't be had."""
    home = folder()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(home)
    home.chmod(0o700)
    path = home / f"{endpoint.runtime_id}.json"
    draft = home / f".{endpoint.runtime_id}.{os.getpid()}"
    fields = attrs.asdict(endpoint, filter=lambda _, value: value is not None)
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w") as file:
        os.fchmod(file.fileno(), 0o600)
        json.dump(fields, file)
    draft.replace(path)
    return path


def remove(path: Path, pid: int) -> None:
    """Remove the file if it is still that of this process."""
    for endpoint in read(path):
        if endpoint.pid == pid:
            path.unlink(missing_ok=True)


def live() -> list[Endpoint]:
    """The endpoints whose daemon is running, by runtime id."""
    try:
        paths = files()
    except OSError:
        return []
    return [endpoint for path in paths for endpoint in read(path) if endpoint.alive()]


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
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle) as file:
            if os.fstat(handle).st_uid == os.getuid():
                yield _endpoint(json.load(file))


def _endpoint(fields: dict[str, Any]) -> Endpoint:
    """What is known of an endpoint; a later version may tell more. Raises TypeError for anything else."""
    found = Endpoint(**{field.name: fields[field.name] for field in attrs.fields(Endpoint) if field.name in fields})
    texts = (found.url, found.runtime_id, found.token or "", found.token_file or "")
    if type(found.pid) is not int or not all(type(text) is str for text in texts):
        raise TypeError("not an endpoint")
    return found
