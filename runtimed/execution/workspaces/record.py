"""What was prepared for each Worker, kept on disk beside the folders of the Workers. Everything here blocks."""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import attrs

from runtimed.errors import StoreUnsupported
from runtimed.model.identity import WORKER_ID, WorkerId
from runtimed.model.value import value
from runtimed.model.workspace import WorkspaceMode
from runtimed.wire.converter import encode, restore

SUFFIX = ".json"


@value
class Prepared:
    """One workspace of a Worker; paths are absolute.

    Attributes:
        name: The name that the request gave it.
        reference: The reference of the request.
        path: The folder that the Worker works in.
        made: The folder that was made for the Worker and goes with it; None for a shared one.
        source: The folder that the reference means.
        git_dir: The repository of the working tree; for a copy one that holds how it began.
        work_tree: The top of the working tree.
        common_dir: The repository that a worktree or a clone was made from, without what is of one worktree alone.
        branch: The branch that was made for the Worker in the repository of its source.
        own_branch: The same branch as a clone has it.
        base: The commit that the work began from; None in a repository without any.
        saved: The newest commit of a clone that its source has.
    """

    name: str
    reference: str
    mode: WorkspaceMode
    path: str
    source: str
    made: str | None = None
    git_dir: str | None = None
    work_tree: str | None = None
    common_dir: str | None = None
    branch: str | None = None
    own_branch: str | None = None
    base: str | None = None
    saved: str | None = None


def objects_of(prepared: Prepared) -> Path:
    """Return the folder of the objects that a clone borrows from the repository it comes from."""
    return Path(prepared.common_dir or "", "objects")


@value
class Record:
    """The workspaces of one Worker, in the order of the request.

    Attributes:
        is_ready: All of them are prepared. Otherwise the preparation goes on, or was cut by the end of the daemon.
    """

    worker_id: WorkerId
    is_ready: bool = False
    workspaces: tuple[Prepared, ...] = ()

    def with_workspace(self, index: int, prepared: Prepared) -> "Record":
        """Return the record with another state of one workspace."""
        changed = (*self.workspaces[:index], prepared, *self.workspaces[index + 1 :])
        return attrs.evolve(self, workspaces=changed)


class FolderOfRecords(Protocol):
    """Says where the records are kept."""

    def records_folder(self, *, make: bool = False) -> Path:
        """Return the folder of the records, which is made if it is missing and `make` is set. Blocks."""


class Records:
    """Reads and writes the records."""

    def __init__(self, place: FolderOfRecords) -> None:
        self._place = place

    def load(self, worker_id: WorkerId) -> Record | None:
        """Return the record of a Worker, or None. Raises OSError or ValueError if it cannot be read."""
        if WORKER_ID.fullmatch(worker_id) is None:
            return None
        try:
            return restore(self._path(worker_id).read_bytes(), Record)
        except FileNotFoundError:
            return None

    def save(self, record: Record) -> None:
        """Make a record durable. Raises OSError."""
        path = self._path(record.worker_id, make=True)
        draft = path.with_suffix(".new")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(encode(record))
                file.flush()
                os.fsync(file.fileno())
            draft.rename(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        _sync(path.parent)

    def remove(self, worker_id: WorkerId) -> None:
        """Remove the record of a Worker, if there is one. Raises OSError."""
        path = self._path(worker_id)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            _sync(path.parent)

    def worker_ids(self) -> Iterator[WorkerId]:
        """Yield the Workers that have a record."""
        for path in sorted(self._place.records_folder().glob(f"*{SUFFIX}")):
            if WORKER_ID.fullmatch(path.stem):
                yield WorkerId(path.stem)

    def unready(self) -> Sequence[WorkerId]:
        """Return the Workers whose preparation was cut. Records that cannot be read are passed over."""
        found = []
        for worker_id in self.worker_ids():
            with contextlib.suppress(OSError, ValueError):
                record = self.load(worker_id)
                found += [worker_id] if record is not None and not record.is_ready else []
        return found

    def _path(self, worker_id: WorkerId, *, make: bool = False) -> Path:
        try:
            folder = self._place.records_folder(make=make)
        except StoreUnsupported as error:
            raise OSError(errno.EIO, str(error)) from error
        return folder / f"{worker_id}{SUFFIX}"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
