"""Prepare the workspaces of a Worker before its program starts, and undo that."""

import asyncio
import contextlib
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from runtimed.core.ports import Spawn, WorkingFolders, WorktreeRepository
from runtimed.errors import printable
from runtimed.execution.tasks import completed
from runtimed.execution.workspace import Workspaces
from runtimed.execution.workspaces import worktree
from runtimed.execution.workspaces.catalog import Catalog, Source, WorkspaceRefused
from runtimed.execution.workspaces.clone import make_clone
from runtimed.execution.workspaces.copying import copy_folder, snapshot
from runtimed.execution.workspaces.git import Git, GitFailed
from runtimed.execution.workspaces.locks import remove_stale_branch_lock, remove_stale_locks
from runtimed.execution.workspaces.record import Prepared, Record, Records, objects_of
from runtimed.execution.workspaces.repository import commit_of, find_repository
from runtimed.execution.workspaces.worktree import PREPARE_DEADLINE_S
from runtimed.model.identity import WorkerId
from runtimed.model.worker import NamedReference

CWD = "cwd"
"""The name of the workspace where programs start."""

FOLDER = "workspaces"
"""The folder in a Worker's own folder that holds what was made for it."""

VARIABLE = "RUNTIMED_WORKSPACE_"
MAX_WORKSPACES = 16
MAX_NAME = 64
MAX_CLAIMS = 10
"""How often a branch is tried under another name because git does not make one with this name."""

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", re.ASCII)
_NO_VARIABLE = re.compile(r"[^A-Z0-9]", re.ASCII)


class WorkspaceFailed(Exception):
    """A workspace could not be prepared; the text says why, in words for clients."""


class Preparation:
    """Prepares workspaces: first the plan is recorded, then it is carried out, then the record is complete.

    So a preparation that the end of the daemon has cut can be undone at the next start.
    """

    def __init__(self, git: Git, catalog: Catalog, folders: Workspaces, records: Records) -> None:
        self._git = git
        self.catalog = catalog
        self._folders = folders
        self._records = records

    async def make(self, spawn: Spawn, mapped: Mapping[str, str]) -> Record:
        """Prepare the workspaces of a new Worker.

        Args:
            spawn: The request to run it.
            mapped: Further shared folders by reference.

        Raises:
            WorkspaceRefused: The Worker cannot have one of them.
            WorkspaceFailed: One of them could not be prepared. Nothing is left of any.
            OSError: The plan cannot be recorded.
        """
        refs = spawn.request.workspace_refs
        check_names(refs)
        sources = await asyncio.to_thread(lambda: [self.catalog.find(ref.reference, mapped) for ref in refs])
        record = await completed(asyncio.to_thread(self._planned, spawn.worker_id, refs, sources))
        try:
            for index, source in enumerate(sources):
                record = await self._make(record, index, source)
            return await self._save(attrs.evolve(record, is_ready=True))
        except BaseException as error:
            await completed(self._undo_newest(record))
            if isinstance(error, GitFailed | OSError | _Problem):
                raise WorkspaceFailed(_explained(error)) from error
            raise

    async def revive(self, record: Record, mapped: Mapping[str, str]) -> Record:
        """Make sure that the workspaces of a Worker that is restored are still there, and free of stale locks.

        Raises:
            WorkspaceRefused: The Worker cannot have one of them any more.
            WorkspaceFailed: One of them is gone.
            OSError: The record cannot be saved.
        """
        for index, prepared in enumerate(record.workspaces):
            if prepared.made is None:
                source = await asyncio.to_thread(self.catalog.find, prepared.reference, mapped)
                if str(source.path) != prepared.path:
                    shown = printable(prepared.name)
                    raise WorkspaceFailed(f"workspace {shown}: its reference means another folder by now")
                continue
            try:
                record = record.with_workspace(index, await self._revive(prepared))
            except (GitFailed, OSError) as error:
                raise WorkspaceFailed(f"workspace {printable(prepared.name)}: {reason_of(error)}") from error
        return await self._save(record)

    async def undo(self, record: Record) -> None:
        """Remove all that was made for a Worker that has not begun to work, its branches too."""
        await asyncio.to_thread(remove_made, record)
        for prepared in record.workspaces:
            if prepared.made is not None:
                await asyncio.to_thread(remove_stale_branch_lock, prepared)
                await worktree.undo_branch(self._git, prepared)
        await asyncio.to_thread(self._records.remove, record.worker_id)

    async def _undo_newest(self, record: Record) -> None:
        """Undo what the newest state of a record says."""
        newest = await asyncio.to_thread(self._records.load, record.worker_id)
        await self.undo(record if newest is None else newest)

    def _planned(self, worker_id: WorkerId, refs: Sequence[NamedReference], sources: Sequence[Source]) -> Record:
        top = self._folders.worker_folder(worker_id).resolve() / FOLDER
        if any(source.mode != "shared" for source in sources):
            top.mkdir(mode=0o700, parents=True, exist_ok=True)
        workspaces = []
        for number, (ref, source) in enumerate(zip(refs, sources, strict=True)):
            own = ref.name if _PLAIN.fullmatch(ref.name) else str(number)
            made = None if source.mode == "shared" else str(top / f"{worker_id}-{number}-{own}")
            path, shared = made or str(source.path), str(source.path)
            workspaces.append(Prepared(ref.name, ref.reference, source.mode, path, shared, made))
        record = Record(worker_id, workspaces=tuple(workspaces))
        self._records.save(record)
        return record

    async def _make(self, record: Record, index: int, source: Source) -> Record:
        planned = record.workspaces[index]
        try:
            if source.mode == "shared":
                made = await self._shared(planned, source)
            elif source.mode == "copy":
                made = await self._copy(planned)
            else:
                planned = await worktree.plan(self._git, planned, source.ref)
                record = await self._branched(record, index, planned)
                planned = record.workspaces[index]
                make = worktree.make_worktree if source.mode == "worktree" else make_clone
                made = await make(self._git, planned)
        except (GitFailed, OSError) as error:
            raise _Problem(planned, error) from error
        return await self._save(record.with_workspace(index, made))

    async def _branched(self, record: Record, index: int, planned: Prepared) -> Record:
        """Make the branch of a workspace.

        It is recorded before it is made, and no longer once somebody else has made it: undoing removes it. A name
        that git refuses, because it is locked or a branch begins with it, is as good as taken.
        """
        refused: set[str] = set()
        for _ in range(MAX_CLAIMS):
            claimed = await worktree.with_free_branch(self._git, planned, record.worker_id, refused)
            record = await self._save(record.with_workspace(index, claimed))
            if await worktree.make_branch(self._git, claimed):
                return record
            record = await self._save(record.with_workspace(index, planned))
            refused.add(claimed.branch or "")
        raise GitFailed(await worktree.why_no_branch(self._git, planned))

    async def _shared(self, planned: Prepared, source: Source) -> Prepared:
        with contextlib.suppress(GitFailed):
            found = await find_repository(self._git, source.path, source.root)
            if found is not None and found.work_tree is not None:
                return attrs.evolve(
                    planned,
                    git_dir=str(found.git_dir),
                    work_tree=str(found.work_tree),
                    base=await commit_of(self._git, found.place(source.path), "HEAD"),
                )
        return planned

    async def _copy(self, planned: Prepared) -> Prepared:
        cut = threading.Event()
        made = Path(planned.made or "")
        copying = asyncio.ensure_future(asyncio.to_thread(copy_folder, Path(planned.source), made, cut.is_set))
        try:
            async with asyncio.timeout(PREPARE_DEADLINE_S):
                await asyncio.shield(copying)
        except TimeoutError:
            raise GitFailed(f"copying it took longer than {PREPARE_DEADLINE_S:g} s") from None
        finally:
            cut.set()
            await asyncio.wait({copying})
        await asyncio.to_thread(remove_stale_locks, planned)
        return await snapshot(self._git, planned, beginning_of(planned))

    async def _revive(self, prepared: Prepared) -> Prepared:
        made = Path(prepared.made or "")
        if prepared.mode == "worktree" and await asyncio.to_thread(worktree.is_half_made, prepared):
            await asyncio.to_thread(shutil.rmtree, made, ignore_errors=True)
        if await asyncio.to_thread(made.is_dir):
            await asyncio.to_thread(remove_stale_locks, prepared)
            return prepared
        if prepared.mode != "worktree":
            raise GitFailed("its folder is gone")
        return await worktree.make_worktree(self._git, prepared)

    async def _save(self, record: Record) -> Record:
        await completed(asyncio.to_thread(self._records.save, record))
        return record


class _Problem(Exception):
    """One workspace could not be made."""

    def __init__(self, prepared: Prepared, error: Exception) -> None:
        super().__init__(f"workspace {printable(prepared.name)}: {reason_of(error)}")


def working_folders(record: Record) -> WorkingFolders:
    """Return the folders of prepared workspaces: programs start in the one named CWD, or else in the first."""
    first = next((prepared for prepared in record.workspaces if prepared.name == CWD), record.workspaces[0])
    others = {variable_of(prepared.name): prepared.path for prepared in record.workspaces if prepared is not first}
    repositories = [
        WorktreeRepository(prepared.common_dir, prepared.git_dir)
        for prepared in record.workspaces
        if prepared.mode == "worktree" and prepared.common_dir and prepared.git_dir
    ]
    borrowed = [objects_of(prepared) for prepared in record.workspaces if prepared.mode == "clone"]
    return WorkingFolders(first.path, others, tuple(repositories), tuple(map(str, borrowed)))


def check_names(refs: Sequence[NamedReference]) -> None:
    """Check the names of workspaces. Raises WorkspaceRefused."""
    if len(refs) > MAX_WORKSPACES:
        raise WorkspaceRefused(f"workspace_refs: expected at most {MAX_WORKSPACES}")
    names: dict[str, str] = {}
    for ref in refs:
        if len(ref.name) > MAX_NAME or not ref.name.isprintable():
            raise WorkspaceRefused(f"workspace_refs: expected names of 1 to {MAX_NAME} printable characters")
        variable = variable_of(ref.name)
        if variable in names:
            pair = f"{printable(names[variable])} and {printable(ref.name)}"
            raise WorkspaceRefused(f"workspace_refs: {pair} have the same variable {variable}")
        names[variable] = ref.name


def variable_of(name: str) -> str:
    """Return the environment variable that tells programs of a workspace."""
    return VARIABLE + _NO_VARIABLE.sub("_", name.upper())


def beginning_of(prepared: Prepared) -> Path:
    """Return the repository that holds how a copy began."""
    return Path(f"{prepared.made}.git")


def forget_made(record: Record) -> None:
    """Remove what repositories keep about the worktrees of a Worker. Blocks. Raises OSError."""
    for prepared in record.workspaces:
        if prepared.mode == "worktree":
            worktree.forget_worktree(prepared)


def remove_made(record: Record) -> None:
    """Remove the folders that were made for a Worker too. Blocks. Raises OSError."""
    for prepared in record.workspaces:
        if prepared.made is not None:
            for folder in (Path(prepared.made), beginning_of(prepared)):
                shutil.rmtree(folder, ignore_errors=True)
    forget_made(record)


def _explained(error: BaseException) -> str:
    return str(error) if isinstance(error, _Problem) else f"the workspaces could not be prepared: {reason_of(error)}"


def reason_of(error: BaseException) -> str:
    """Return why something failed, without paths of this host."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
