"""The workspaces of all Workers of a host."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

import attrs

from runtimed.core.ports import EventSink, Spawn, WorkingFolders
from runtimed.errors import StoreUnsupported, WorkspaceNotFound, WorkspaceUnavailable, printable
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.workspace import Workspaces
from runtimed.execution.workspaces import clone, copying, worktree
from runtimed.execution.workspaces.catalog import Catalog
from runtimed.execution.workspaces.git import Git, GitFailed
from runtimed.execution.workspaces.locks import remove_stale_locks
from runtimed.execution.workspaces.patch import PatchWriter
from runtimed.execution.workspaces.preparation import (
    Preparation,
    WorkspaceFailed,
    forget_made,
    reason_of,
    working_folders,
)
from runtimed.execution.workspaces.record import FolderOfRecords, Prepared, Record, Records
from runtimed.execution.workspaces.saving import SavingSink
from runtimed.execution.workspaces.working_tree import WorkingTree
from runtimed.model.identity import WorkerId
from runtimed.model.workspace import Workspace, WorkspaceDiff

LOCK_AGE_S = 2.0
"""How old a lock has to be at the end of a run to be taken for one that a killed git has left."""

UNREADABLE = "what is recorded of the Worker's workspaces cannot be read; the log of the daemon says why"

log = logging.getLogger(__name__)


class Folders(Workspaces, FolderOfRecords, Protocol):
    """The folders of Workers, and one for the records of their workspaces.

    Attributes:
        is_scratch: They are removed when the daemon ends.
    """

    @property
    def is_scratch(self) -> bool: ...

    def keep(self, worker_id: WorkerId) -> Path:
        """Leave the folder of a Worker behind when the others are removed, and return it."""


class WorkspaceManager:
    """Prepares the workspaces of Workers, tells what is in them, and removes them.

    Args:
        catalog: Which folders references mean.
        folders: Where Workers have folders of their own.
        supervisor: Starts git. The owner closes it.
    """

    def __init__(self, catalog: Catalog, folders: Folders, supervisor: Supervisor) -> None:
        self._saver, self._reader = Git(supervisor), Git(supervisor)
        self._folders = folders
        self._is_closed = False
        self._records = Records(folders)
        self._preparation = Preparation(Git(supervisor), catalog, folders, self._records)
        self._patches = PatchWriter(self._reader)
        self._locks: WeakValueDictionary[WorkerId, asyncio.Lock] = WeakValueDictionary()

    def replace_catalog(self, catalog: Catalog) -> None:
        """Take the folders of references from another catalog. What is prepared stays as it is."""
        self._preparation.catalog = catalog

    async def prepare(self, spawn: Spawn, mapped: Mapping[str, str]) -> WorkingFolders:
        """Prepare the workspaces of a Worker, or find those of one that is restored.

        Args:
            spawn: The request to run it.
            mapped: Further shared folders by reference: those of its profile.

        Raises:
            WorkspaceRefused: The Worker cannot have one of them.
            WorkspaceFailed: One of them could not be prepared; nothing is left of a new one.
        """
        async with self._lock(spawn.worker_id):
            try:
                return working_folders(await self._prepared(spawn, mapped))
            except (OSError, StoreUnsupported) as error:
                fields = {"worker_id": spawn.worker_id, "reason": error}
                log.error("cannot prepare the workspaces of a Worker", extra=fields)
                raise WorkspaceFailed(f"the workspaces could not be prepared: {reason_of(error)}") from error

    async def _prepared(self, spawn: Spawn, mapped: Mapping[str, str]) -> Record:
        record = await self._load(spawn.worker_id)
        if record is not None and not record.is_ready:
            await self._preparation.undo(record)
            record = None
        if record is None:
            return await self._preparation.make(spawn, mapped)
        return await self._preparation.revive(record, mapped)

    async def undo(self, worker_id: WorkerId) -> None:
        """Remove what was prepared for a Worker whose program did not start."""
        async with self._lock(worker_id):
            record = await self._load(worker_id)
            if record is not None:
                await self._preparation.undo(record)

    async def recover(self) -> None:
        """Undo the preparations that the end of an earlier daemon has cut."""
        for worker_id in await asyncio.to_thread(self._records.unready):
            async with self._lock(worker_id):
                try:
                    record = await self._load(worker_id)
                    if record is not None and not record.is_ready:
                        await self._preparation.undo(record)
                except (WorkspaceFailed, OSError) as error:
                    fields = {"worker_id": worker_id, "reason": error}
                    log.warning("cannot undo the preparation of a Worker's workspaces", extra=fields)

    def saving(self, worker_id: WorkerId, sink: EventSink) -> EventSink:
        """Return a sink that saves what the Worker has committed before the end of each run."""
        return SavingSink(sink, lambda: self.save(worker_id))

    async def save(self, worker_id: WorkerId) -> Sequence[str]:
        """Bring the branches of a Worker's clones into the repositories that they come from.

        Locks that a killed git has left behind are removed as well, so that the next run can go on.

        Returns:
            What could not be saved, in words for people.
        """
        problems = []
        async with self._lock(worker_id):
            record = await self._load_or_none(worker_id)
            for index, prepared in enumerate(record.workspaces if record is not None and record.is_ready else ()):
                await asyncio.to_thread(remove_stale_locks, prepared, LOCK_AGE_S)
                if record is None or prepared.mode != "clone":
                    continue
                try:
                    saved = await clone.fetch_branch(self._saver, prepared, worker_id)
                    if saved != prepared:
                        record = record.with_workspace(index, saved)
                        await asyncio.to_thread(self._records.save, record)
                except (GitFailed, OSError) as error:
                    fields = {"worker_id": worker_id, "workspace": prepared.name, "reason": error}
                    log.warning("cannot save the branch of a clone", extra=fields)
                    shown = printable(prepared.name)
                    problems.append(f"the commits in {shown} could not be saved: {reason_of(error)}")
        return problems

    async def release(self, worker_id: WorkerId) -> None:
        """Make repositories forget the worktrees of a Worker that is deleted. Its branches stay. Raises OSError."""
        async with self._lock(worker_id):
            record = await self._load_or_none(worker_id)
            if record is not None:
                await asyncio.to_thread(forget_made, record)
            await asyncio.to_thread(self._records.remove, worker_id)

    async def close(self) -> None:
        """Give up what was made for Workers that end with the daemon. What holds unsaved work is left behind.

        Harmless when repeated.
        """
        if self._is_closed or not self._folders.is_scratch:
            return
        self._is_closed = True
        for worker_id in await asyncio.to_thread(lambda: list(self._records.worker_ids())):
            if await self.unsaved(worker_id):
                kept = await asyncio.to_thread(self._folders.keep, worker_id)
                fields = {"worker_id": worker_id, "path": kept}
                log.warning("kept the workspaces of a Worker, because they hold unsaved work", extra=fields)
                continue
            try:
                await self.release(worker_id)
            except OSError as error:
                fields = {"worker_id": worker_id, "reason": error}
                log.warning("cannot give up the workspaces of a Worker", extra=fields)

    async def workspaces(self, worker_id: WorkerId) -> Sequence[Workspace]:
        record = await self._ready(worker_id)
        return [await self._shown(prepared) for prepared in record.workspaces]

    async def diff(self, worker_id: WorkerId, name: str) -> WorkspaceDiff:
        record = await self._ready(worker_id)
        prepared = next((prepared for prepared in record.workspaces if prepared.name == name), None)
        if prepared is None:
            raise WorkspaceNotFound(name)
        try:
            return await self._patches.write(prepared, WorkingTree(self._reader, prepared).place)
        except (GitFailed, OSError) as error:
            raise WorkspaceUnavailable(f"workspace {printable(name)}: {reason_of(error)}") from error

    async def unsaved(self, worker_id: WorkerId) -> Sequence[str]:
        await self.save(worker_id)
        try:
            record = await self._ready(worker_id)
        except WorkspaceUnavailable:
            return ["its workspaces"]
        return [prepared.name for prepared in record.workspaces if await self._is_unsaved(prepared)]

    async def _is_unsaved(self, prepared: Prepared) -> bool:
        if prepared.made is None:
            return False
        try:
            await asyncio.to_thread(remove_stale_locks, prepared)
            if prepared.mode == "worktree":
                return await worktree.is_unsaved(self._reader, prepared)
            if not await asyncio.to_thread(Path(prepared.made).is_dir):
                return False
            if prepared.mode == "clone":
                return await clone.is_unsaved(self._reader, prepared)
            return await copying.is_unsaved(self._reader, prepared)
        except (GitFailed, OSError) as error:
            fields = {"workspace": prepared.name, "reason": error}
            log.warning("cannot tell whether a workspace holds unsaved work", extra=fields)
            return True

    async def _shown(self, prepared: Prepared) -> Workspace:
        """Return a workspace as clients see it, without what cannot be told."""
        shown = Workspace(prepared.name, prepared.mode, writable=True)
        if prepared.mode != "copy":
            shown = attrs.evolve(shown, branch=prepared.branch, base=prepared.base)
        tree = WorkingTree(self._reader, prepared)
        with contextlib.suppress(GitFailed, OSError):
            if prepared.mode == "shared":
                shown = attrs.evolve(shown, branch=await tree.branch())
            shown = attrs.evolve(shown, dirty=await tree.is_dirty())
            if prepared.mode != "copy":
                shown = attrs.evolve(shown, ahead=await tree.ahead())
        return shown

    async def _ready(self, worker_id: WorkerId) -> Record:
        try:
            record = await self._load(worker_id)
        except WorkspaceFailed as error:
            raise WorkspaceUnavailable(str(error)) from error
        return record if record is not None and record.is_ready else Record(worker_id)

    async def _load(self, worker_id: WorkerId) -> Record | None:
        try:
            return await asyncio.to_thread(self._records.load, worker_id)
        except (OSError, ValueError) as error:
            log.error("cannot read the record of workspaces", extra={"worker_id": worker_id, "reason": error})
            raise WorkspaceFailed(UNREADABLE) from error

    async def _load_or_none(self, worker_id: WorkerId) -> Record | None:
        with contextlib.suppress(WorkspaceFailed):
            return await self._load(worker_id)
        return None

    def _lock(self, worker_id: WorkerId) -> asyncio.Lock:
        return self._locks.setdefault(worker_id, asyncio.Lock())
