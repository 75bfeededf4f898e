"""Backups as files: a database, or an archive with a database and the folders of Workers. All functions block."""

import contextlib
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

import attrs

from runtimed.errors import StoreCorrupt, StoreUnsupported
from runtimed.store.archive import FOLDERS, SKIPPED
from runtimed.store.data_dir import DATABASE

MAGIC = b"SQLite format 3\0"
"""How a database begins."""

COPY_BYTES = 1024 * 1024
MAX_LISTED_BYTES = 1024 * 1024
"""How much of the list of skipped entries is read."""

_PLACE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PERMISSIONS = 0o777
"""What is restored of a mode. No program gets the rights of a file's owner by it."""


class BackupFile:
    """A backup that is open for reading."""

    def __init__(self, database: IO[bytes], archive: tarfile.TarFile | None) -> None:
        self._database = database
        self._archive = archive

    def copy_database(self, target: Path) -> None:
        """Write the database into a file that exists, and sync it."""
        with target.open("r+b") as file:
            shutil.copyfileobj(self._database, file, COPY_BYTES)
            file.flush()
            os.fsync(file.fileno())

    def extract_folders(self, folder: Path) -> tuple[str, ...]:
        """Write the folders of the archive into one that has none of them. A database alone has none.

        Returns:
            The entries that the backup had to leave out, and why.

        Raises:
            StoreCorrupt: The archive is damaged, or was not made by a backup.
        """
        if self._archive is None:
            return ()
        with contextlib.closing(_Extraction(self._archive, folder)) as extraction:
            return extraction.run()


@contextlib.contextmanager
def open_backup(path: Path) -> Iterator[BackupFile]:
    """Open a backup.

    Raises:
        StoreUnsupported: The file cannot be read, or is no backup.
        StoreCorrupt: The file is damaged.
    """
    with contextlib.ExitStack() as parts:
        try:
            file = parts.enter_context(path.open("rb"))
            is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        except OSError as error:
            raise StoreUnsupported(f"{path}: {error.strerror}") from error
        if not is_regular:
            raise StoreUnsupported(f"{path}: expected a file that a backup made")
        begin = file.read(len(MAGIC))
        file.seek(0)
        if begin == MAGIC:
            yield BackupFile(file, None)
            return
        with _damage(path):
            yield _opened_archive(path, file, parts)


def _opened_archive(path: Path, file: BinaryIO, parts: contextlib.ExitStack) -> BackupFile:
    try:
        opened = tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115 below
        archive = parts.enter_context(opened)
        first = archive.next()
    except tarfile.TarError:
        raise StoreUnsupported(f"{path}: expected a file that a backup made") from None
    database = archive.extractfile(first) if first is not None and first.name == DATABASE else None
    if database is None:
        raise StoreUnsupported(f"{path}: expected a file that a backup made")
    return BackupFile(database, archive)


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Raise an error of the format as StoreCorrupt."""
    try:
        yield
    except (tarfile.TarError, EOFError) as error:
        raise StoreCorrupt(f"{path} is damaged: {error}") from error


@attrs.frozen
class _Level:
    """A folder that is being filled. Its mode is set in the end: it may forbid to fill it."""

    path: str
    descriptor: int
    member: tarfile.TarInfo | None


class _Extraction:
    """Writes members by descriptor. Each is written into a folder that the archive has just made, never by a link."""

    def __init__(self, archive: tarfile.TarFile, folder: Path) -> None:
        self._archive = archive
        self._owns = os.geteuid() == 0
        self._levels = [_Level("", os.open(folder, _PLACE), None)]

    def run(self) -> tuple[str, ...]:
        """Write all members. Returns what the last one lists."""
        while (member := self._archive.next()) is not None:
            self._archive.members.clear()  # type: ignore[attr-defined] # it keeps all, and typeshed does not know it
            if member.name == SKIPPED:
                self._leave("")
                listed = self._content(member).read(MAX_LISTED_BYTES)
                return tuple(listed.decode("utf-8", "replace").splitlines())
            self._write(member)
        raise StoreCorrupt("the archive ends early: it is not a whole backup")

    def close(self) -> None:
        """Close all folders."""
        while self._levels:
            os.close(self._levels.pop().descriptor)

    def _write(self, member: tarfile.TarInfo) -> None:
        above, _, name = member.name.rpartition("/")
        self._leave(above)
        level = self._levels[-1]
        is_expected = level.path == above and (above or name in FOLDERS) and name not in {"", ".", ".."}
        if not is_expected or "\0" in name:
            raise StoreCorrupt(f"the archive is no backup: it has the unexpected member {member.name!a}")
        if member.isdir():
            os.mkdir(name, 0o700, dir_fd=level.descriptor)
            self._levels.append(_Level(member.name, os.open(name, _PLACE, dir_fd=level.descriptor), member))
        elif member.isreg():
            self._write_file(member, name, level.descriptor)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=level.descriptor)
            if self._owns:
                os.chown(name, member.uid, member.gid, dir_fd=level.descriptor, follow_symlinks=False)
        else:
            raise StoreCorrupt(f"the archive is no backup: {member.name!a} is neither a file, a folder nor a link")

    def _write_file(self, member: tarfile.TarInfo, name: str, folder: int) -> None:
        with os.fdopen(os.open(name, _NEW, 0o600, dir_fd=folder), "wb") as file:
            shutil.copyfileobj(self._content(member), file, COPY_BYTES)
            self._finish(file.fileno(), member)

    def _content(self, member: tarfile.TarInfo) -> IO[bytes]:
        content = self._archive.extractfile(member)
        if content is None:
            raise StoreCorrupt(f"the archive is no backup: {member.name!a} is no file")
        return content

    def _leave(self, path: str) -> None:
        """Finish the folders that the next member is not in."""
        while self._levels[-1].member is not None and not _is_in(path, self._levels[-1].path):
            level = self._levels.pop()
            try:
                if level.member is not None:
                    self._finish(level.descriptor, level.member)
            finally:
                os.close(level.descriptor)

    def _finish(self, descriptor: int, member: tarfile.TarInfo) -> None:
        if self._owns:
            os.fchown(descriptor, member.uid, member.gid)
        os.fchmod(descriptor, member.mode & _PERMISSIONS)
        os.utime(descriptor, (member.mtime, member.mtime))


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
