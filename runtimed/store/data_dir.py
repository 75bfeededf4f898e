"""The folder of a durable store: its permissions, its lock, its token and the Workers' folders."""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from runtimed.errors import StoreInUse, StoreUnsupported
from runtimed.model.identity import WorkerId
from runtimed.store import spare_folders
from runtimed.store.removal import remove_folder
from runtimed.wire.token import TokenFileError, read_token

LOCK = "lock"
DATABASE = "runtime.sqlite3"
TOKEN = "token"  # noqa: S105 the name of a file
WORKERS = "workers"
WORKSPACES = "workspaces"
BALLAST = "ballast"
PID_WIDTH = 10

_OURS = {LOCK, TOKEN, WORKERS, WORKSPACES, BALLAST}

OF_FILE_SYSTEMS = "lost+found"
"""The only entry that the root of a file system may have when it becomes a store."""

_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class DataDir:
    """A folder that only this user can enter. From `with` on, this process owns it exclusively.

    Folders get mode 0700 and files 0600 whatever the umask. Symlinks and files of other users are refused. All
    methods block. They raise StoreUnsupported for an entry that cannot be used, with its name and what is accepted.

    Args:
        path: The folder.
        create: Whether a store that does not exist is created. Otherwise a folder without a store is refused, such as
            the mount point of a volume that is not mounted.
        is_scratch: The folder holds only the folders of Workers and is never locked. It is created again if it is
            missing.
    """

    def __init__(self, path: Path, *, create: bool = True, is_scratch: bool = False) -> None:
        self._path = path
        self._create = create
        self.is_scratch = is_scratch
        self._kept: set[str] = set()
        self._lock: int | None = None

    def __enter__(self) -> Path:
        """Lock the folder and return the path of its database.

        Raises:
            StoreInUse: Another process holds the folder.
        """
        if not self._create:
            self._check_not_missing(self._path / DATABASE)
        _check_free(self._path)
        _make_folder(self._path, "the store", parents=True)
        self._path = self._path.resolve()
        lock = open_private(self._path / LOCK, os.O_RDWR | os.O_CREAT)
        try:
            _own(lock)
            database = self._prepare_database()
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        return database

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unlock the folder. The lock file stays, so that two owners can never lock two different files."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    @property
    def workers(self) -> Path:
        """The folder with the folders of all Workers; it may not exist yet."""
        return self._path / WORKERS

    def read_or_make_token(self) -> tuple[str, Path]:
        """Return the token in this folder and its file. The first call creates one of 256 bits. Owner only."""
        path = self._path / TOKEN
        if not os.path.lexists(path):
            _write_new(path, secrets.token_urlsafe(32))
        return _read_token(path), path

    def worker_folder(self, worker_id: WorkerId) -> Path:
        """Return a Worker's own folder: that of its name, or the spare folder that it adopted.

        It is created if it is missing, or if its name is taken by something else.
        """
        workers = self._make_workers()
        name = self.find_worker_folder(worker_id).name
        _unlink_other(workers, name)
        _make_folder(workers / name, f"{WORKERS}/{name}")
        return workers / name

    def find_worker_folder(self, worker_id: WorkerId) -> Path:
        """Return where a Worker's own folder is, or would be made."""
        entry = self._path / WORKERS / worker_id
        return spare_folders.taken_over(entry) or entry

    def make_spare(self) -> Path:
        """Make a folder for a Worker that is not known yet. Until one adopts it, no Worker has it."""
        folder = self._make_workers() / spare_folders.new_name()
        _make_folder(folder, f"{WORKERS}/{folder.name}")
        return folder

    def adopt(self, worker_id: WorkerId, spare: Path) -> None:
        """Make a spare folder a Worker's own. The folder keeps its name.

        Raises:
            OSError: The Worker's own folder has files already, or the file system refuses.
        """
        spare_folders.take_over(self._path / WORKERS / worker_id, spare)
        sync_folder(self._path / WORKERS)

    def spares(self) -> Sequence[Path]:
        """Return the spare folders that no Worker has adopted."""
        workers = self._path / WORKERS
        return spare_folders.spares(workers) if workers.is_dir() and not workers.is_symlink() else ()

    def records_folder(self, *, make: bool = False) -> Path:
        """Return the folder of the records of workspaces, which is created if it is missing and `make` is set."""
        if make:
            if self.is_scratch:
                _make_folder(self._path, "the scratch folder")
            _make_folder(self._path / WORKSPACES, WORKSPACES)
        return self._path / WORKSPACES

    def remove_worker_folder(self, worker_id: WorkerId, is_cut: Callable[[], bool] = lambda: False) -> None:
        """Remove a Worker's own folder and everything in it.

        The name that leads to an adopted folder goes last: whatever interrupts this, the next call finds the rest.

        Args:
            worker_id: The Worker.
            is_cut: Called regularly. Once it returns True, the removal ends early without an error.

        Raises:
            NotRemoved: Something could not be removed.
        """
        folder = self.find_worker_folder(worker_id)
        remove_folder(folder, is_cut)
        if folder.name != worker_id and not os.path.lexists(folder):
            remove_folder(folder.with_name(worker_id))

    def keep(self, worker_id: WorkerId) -> Path:
        """Have the folder of a Worker left behind when a scratch folder is removed, and return it."""
        folder = self.find_worker_folder(worker_id)
        self._kept.add(folder.name)
        return folder

    def remove_scratch(self) -> None:
        """Remove a scratch folder with everything in it, but for the folders to keep. Raises NotRemoved."""
        if not self._kept:
            remove_folder(self._path)
            return
        for path in (self._path / WORKERS).iterdir():
            if path.name not in self._kept:
                remove_folder(path)

    def problems(self) -> Iterator[str]:
        """Describe what other users could read or change in this folder. Files of Workers are not checked."""
        yield from _lax(self._path, "the folder", 0o700)
        workers = self._path / WORKERS
        for path in sorted(self._path.iterdir()):
            folder = path.name in {WORKERS, WORKSPACES}
            yield from _lax(path, f"the {'folder' if folder else 'file'} {path.name}", None)
        for path in sorted(workers.iterdir()) if workers.is_dir() and not workers.is_symlink() else ():
            if spare_folders.taken_over(path) is None:
                yield from _lax(path, f"the folder {WORKERS}/{path.name}", None)

    @contextlib.contextmanager
    def locked(self) -> Iterator[Path]:
        """Lock the folder without changing it, and return the path of its database.

        Raises:
            StoreInUse: Another process holds the folder.
            StoreUnsupported: There is no store in it.
        """
        database = self._path.resolve() / DATABASE
        if database.is_file() and not database.stat().st_size:
            raise StoreUnsupported(f"{DATABASE} in {self._path} is empty: the store that was there is lost")
        if not database.is_file():
            raise StoreUnsupported(f"there is no store in {self._path}: expected a folder with a file {DATABASE}")
        with hold_lock(database.parent):
            yield database

    def _make_workers(self) -> Path:
        if self.is_scratch:
            _make_folder(self._path, "the scratch folder")
        _make_folder(self._path / WORKERS, WORKERS)
        return self._path / WORKERS

    def _check_not_missing(self, database: Path) -> None:
        """Raise StoreUnsupported if there is no database with content."""
        with _refused("the store"):
            self._check_not_emptied(database)
            if not database.is_file() or not database.stat().st_size:
                raise StoreUnsupported("the store: the folder holds no store, and create=no creates none")

    def _check_not_emptied(self, database: Path) -> None:
        """Raise StoreUnsupported if the database is empty although the folder held a Runtime before."""
        size = database.stat().st_size if database.is_file() else None
        log = Path(f"{database}-wal")
        logged = log.is_file() and not log.is_symlink() and log.stat().st_size > 0
        lived = os.path.lexists(self._path / WORKERS) or (size == 0 and os.path.lexists(self._path / TOKEN))
        if not size and (logged or lived):
            raise StoreUnsupported(
                f"{DATABASE}: it is {'missing' if size is None else 'empty'}, but a Runtime was in this folder; "
                "restore it from a copy, or start again in an empty folder"
            )

    def _prepare_database(self) -> Path:
        database = self._path / DATABASE
        self._check_not_emptied(database)
        os.close(open_private(database, os.O_RDWR | os.O_CREAT))
        for companion in (Path(f"{database}{suffix}") for suffix in ("-wal", "-shm", "-journal")):
            if os.path.lexists(companion):
                os.close(open_private(companion, os.O_RDWR))
        with _refused(DATABASE):
            sync_folder(self._path)
        return database


@contextlib.contextmanager
def hold_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a store, if it has one, without changing it. Raises StoreInUse if another process holds it."""
    with contextlib.ExitStack() as parts:
        lock = folder / LOCK
        if os.path.lexists(lock):
            with _refused(LOCK):
                handle = os.open(lock, os.O_RDONLY | _FLAGS)
            parts.callback(os.close, handle)
            _lock(handle)
        yield


@contextlib.contextmanager
def _refused(name: str) -> Iterator[None]:
    """Raise an OSError about a file or a folder as StoreUnsupported."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreUnsupported(f"{name}: expected a regular file, not a symlink") from error
        raise StoreUnsupported(f"{name}: {error.strerror}") from error


def _check_free(path: Path) -> None:
    """Refuse a folder that others may enter and that holds other files: tightening its mode would shut them out."""
    with _refused("the store"):
        if not path.is_dir() or not stat.S_IMODE(path.stat().st_mode) & 0o077:
            return
        found = {entry.name for entry in path.iterdir()} - {OF_FILE_SYSTEMS}
    if found and not any(name in _OURS or name.startswith(DATABASE) for name in found):
        raise StoreUnsupported("the store: expected a new or an empty folder, or a store; other users can enter it")


def _make_folder(path: Path, name: str, *, parents: bool = False) -> None:
    """Create a folder with mode 0700, or tighten the mode of an existing one."""
    with _refused(name):
        if not os.path.lexists(path):
            path.mkdir(mode=0o700, parents=parents, exist_ok=True)
            sync_folder(path.parent)
        if path.is_symlink() or not path.is_dir():
            raise StoreUnsupported(f"{name}: expected a folder, not a symlink or a file")
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
        try:
            _tighten(handle, name, 0o700)
        finally:
            os.close(handle)


def _unlink_other(parent: Path, name: str) -> None:
    """Remove the entry of this name unless it is a folder. A symlink is not followed."""
    with _refused(name):
        handle = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
        try:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISDIR(os.lstat(name, dir_fd=handle).st_mode):
                    os.unlink(name, dir_fd=handle)
        finally:
            os.close(handle)


def _lax(path: Path, name: str, mode: int | None) -> Iterator[str]:
    """Describe what is wrong with the mode or owner of a file or folder. One that is gone is fine."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    wanted = mode or (0o700 if stat.S_ISDIR(found.st_mode) else 0o600)
    if stat.S_ISLNK(found.st_mode):
        yield f"{name} is a symlink: a store must not contain any"
    elif found.st_uid != os.geteuid():
        yield f"{name} belongs to another user"
    elif stat.S_IMODE(found.st_mode) & ~wanted:
        yield f"{name} has the mode {stat.S_IMODE(found.st_mode):o}: expected {wanted:o}"


def open_private(path: Path, flags: int) -> int:
    """Open a regular file of this user, and give it mode 0600."""
    with _refused(path.name):
        handle = os.open(path, flags | _FLAGS, 0o600)
        try:
            _tighten(handle, path.name, 0o600)
        except BaseException:
            os.close(handle)
            raise
        return handle


def _tighten(handle: int, name: str, mode: int) -> None:
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise StoreUnsupported(f"{name}: expected a regular file")
    if found.st_uid != os.geteuid():
        raise StoreUnsupported(f"{name}: it belongs to another user; expected one of this user")
    if stat.S_IMODE(found.st_mode) != mode:
        os.fchmod(handle, mode)


def _lock(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, PID_WIDTH, 0).strip()
        raise StoreInUse(int(owner) if owner.isdigit() else None) from None


def _own(lock: int) -> None:
    """Take the lock, which no child process inherits, and write this process's id into it."""
    _lock(lock)
    with _refused(LOCK):
        os.pwrite(lock, f"{os.getpid():<{PID_WIDTH}}\n".encode(), 0)


def _write_new(path: Path, text: str) -> None:
    """Create a file atomically: it has its text, or does not exist."""
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    with _refused(path.name), os.fdopen(open_private(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    sync_folder(path.parent)


def _read_token(path: Path) -> str:
    try:
        return read_token(path)
    except TokenFileError as error:
        raise StoreUnsupported(f"{path.name}: {error}; remove it to create a new one") from error


def sync_folder(folder: Path) -> None:
    """Have the disk keep which entries a folder has."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
