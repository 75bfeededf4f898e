"""Workspaces of Workers that are confined: git works inside, and nothing in a repository changes its owner."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
import pytest

from runtimed.core.ports import Dispatch, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import Entry
from runtimed.execution import Profile, ProfileRegistry
from runtimed.execution.confinement.confiner import HostConfiner
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.workspaces.catalog import Catalog, ConfiguredWorkspace
from runtimed.execution.workspaces.git import Git
from runtimed.execution.workspaces.manager import WorkspaceManager
from runtimed.execution.workspaces.repository import find_repository
from runtimed.execution.workspaces.worktree import BORROWS
from runtimed.model.event import RunEnd
from runtimed.model.identity import worker_id
from runtimed.model.interaction import WorkerInput
from runtimed.model.worker import BuiltinProfile, CapabilityRequest, CreateWorkerRequest, NamedReference
from runtimed.model.workspace import WorkspaceMode
from runtimed.store.data_dir import DataDir
from tests.execution.conftest import RecordingSink, Run

FIRST = worker_id(1)
MODES: tuple[WorkspaceMode, ...] = ("shared", "worktree", "clone", "copy")
SOMEBODY = 1000
COMMIT = (
    "set -e; git config --global user.email w@example.org; git config --global user.name w; "
    "echo changed >file; git add file; git commit -q -m second; git status --porcelain; cat file; id -u"
)


USUAL = """
echo more >more; git add more; git commit -q -m more; git commit -q --amend -m 'more of it'
git tag mine; git update-ref -d refs/tags/mine; git branch -m renamed; git branch -m back
git checkout -q -b topic HEAD~1; echo topic >more; git add more; git commit -q -m topic; git checkout -q back
git cherry-pick topic && exit 1; echo both >more; git add more; git cherry-pick --continue
git rebase topic && exit 1; echo both >more; git add more; git rebase --continue || git rebase --skip
git revert --no-edit HEAD; git stash; echo stashed >>more; git stash; git stash pop; git checkout -q more
git config user.name 'for this program'; git branch -q tracking --track main
git checkout -q -B back HEAD; git update-ref -d refs/heads/topic; git commit -q --allow-empty -m 'on the other'
git fetch -q . main; git reflog >/dev/null; git worktree list; git fsck; git status
"""
"""What people and agents do in a repository, with conflicts in between."""


def git(repository: Path, *args: str) -> str:
    own = ("-c", "user.name=tester", "-c", "user.email=tester@example.org", "-c", "safe.directory=*")
    return subprocess.run(
        ["git", *own, *args], cwd=repository, capture_output=True, text=True, check=True
    ).stdout.strip()


@attrs.define
class Host:
    """A registry that confines by bubblewrap; its reference of each mode is `repository`."""

    repository: Path
    registry: ProfileRegistry
    supervisor: Supervisor
    manager: WorkspaceManager
    sink: RecordingSink
    inputs: int = 0

    async def spawn(self, *references: str, history: tuple[Entry, ...] | None = None) -> BackendAnswer:
        refs = tuple(NamedReference(reference, reference) for reference in references)
        capabilities = (CapabilityRequest("shell"),)
        request = CreateWorkerRequest(
            profile=BuiltinProfile("builtin:shell"), requested_capabilities=capabilities, workspace_refs=refs
        )
        return await self.registry.spawn(Spawn(FIRST, request, history), self.sink)

    async def run(self, script: str) -> Run:
        heard = len(self.sink.events)
        self.inputs += 1
        given = Dispatch(FIRST, f"input-{self.inputs}", WorkerInput("user", script))
        assert await self.registry.dispatch(given) == BackendAnswer("accepted")
        self.registry.start(FIRST, given.input_id)
        await self.sink.until(lambda events: any(isinstance(event, RunEnd) for event in events[heard:]))
        return Run(self.sink.events[heard:])

    def owners(self) -> set[int]:
        """Return the users that own something in the repository."""
        return {path.lstat().st_uid for path in (self.repository, *self.repository.rglob("*"))}


@pytest.fixture(params=["this user", "somebody"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A repository of this user, or of somebody else whose files nobody else can read."""
    if request.param == "somebody" and os.geteuid():
        pytest.skip("only root can give a folder to somebody")
    made = tmp_path / "repository"
    made.mkdir(mode=0o700)
    before = os.umask(0o077)
    try:
        git(made, "init", "-q", "-b", "main")
        git(made, "commit", "-q", "--allow-empty", "-m", "first")
    finally:
        os.umask(before)
    if request.param == "somebody":
        for path in (made, *made.rglob("*")):
            os.chown(path, SOMEBODY, SOMEBODY)
    return made


@pytest.fixture
async def host(
    tmp_path: Path, repository: Path, recorder: RecordingSink, confiner: HostConfiner
) -> AsyncIterator[Host]:
    folders = DataDir(tmp_path / "scratch", is_scratch=True)
    supervisor = Supervisor(confiner=confiner)
    catalog = Catalog((), {mode: ConfiguredWorkspace(str(repository), mode) for mode in MODES})
    manager = WorkspaceManager(catalog, folders, supervisor)
    profiles = {"builtin:shell": Profile("shell", stop_grace_s=1)}
    registry = ProfileRegistry(profiles, workspaces=folders, supervisor=supervisor, manager=manager)
    yield Host(repository, registry, supervisor, manager, recorder)
    await registry.close()


@pytest.mark.parametrize("mode", MODES)
async def test_a_confined_worker_commits_in_its_workspace_and_the_daemon_tells_what_changed(
    host: Host, mode: WorkspaceMode
) -> None:
    answer = await host.spawn(mode)
    assert answer.outcome == "accepted", answer.message
    assert answer.sandbox is not None
    assert answer.sandbox.mechanism == "bubblewrap"
    before = host.owners()

    done = await host.run(COMMIT)

    assert (done.status, done.text.split()[:1]) == (0, ["changed"]), done.text
    (shown,) = await host.manager.workspaces(FIRST)
    assert (shown.dirty, shown.ahead) == ((True, None) if mode == "copy" else (False, 1))
    assert b"+changed" in (await host.manager.diff(FIRST, mode)).patch
    assert await asyncio.to_thread(host.owners) == before == {host.repository.stat().st_uid}
    if mode in {"worktree", "clone"}:
        assert git(host.repository, "show", f"{shown.branch}:file") == "changed"


async def test_a_confined_worker_works_in_a_repository_and_in_a_worktree_of_it(host: Host) -> None:
    answer = await host.spawn("worktree", "shared")
    assert answer.outcome == "accepted", answer.message
    assert answer.sandbox is not None
    assert answer.sandbox.mechanism == "bubblewrap"
    before = host.owners()

    done = await host.run(f"set -e; echo changed >{host.repository}/file; {COMMIT}")

    assert done.status == 0, done.text
    assert (host.repository / "file").read_text() == "changed\n"
    assert await asyncio.to_thread(host.owners) == before
    await host.registry.stop(FIRST, None)
    await host.registry.delete(FIRST)


async def test_usual_git_works_in_a_worktree_and_loses_no_refs_of_others(host: Host) -> None:
    git(host.repository, "branch", "other")
    git(host.repository, "tag", "packed")
    git(host.repository, "pack-refs", "--all")
    git(host.repository, "branch", "loose")
    refs, config = git(host.repository, "show-ref"), (host.repository / ".git" / "config").read_bytes()
    assert (await host.spawn("worktree")).outcome == "accepted"
    assert (await host.run(COMMIT)).status == 0

    done = await host.run(f"set -e; export GIT_EDITOR=true\n{USUAL}")

    assert done.status == 0, done.text
    assert "could not lock" not in done.text
    assert "could not delete" not in done.text
    assert "fatal:" not in done.text
    assert done.text.endswith("nothing to commit, working tree clean\n")
    assert (host.repository / ".git" / "config").read_bytes() == config
    assert set(refs.splitlines()) <= set(git(host.repository, "show-ref").splitlines())

    git(host.repository, "pack-refs", "--all", "--prune")
    done = await host.run("git log --format=%s -1; git show-ref packed; ! git tag -d packed; git gc -q; git show-ref")

    assert done.text.startswith("on the other")
    assert set(refs.splitlines()) <= set(git(host.repository, "show-ref").splitlines())


@pytest.mark.parametrize("mode", ["worktree", "clone", "copy"])
async def test_workspaces_of_a_confined_worker_are_there_after_a_restart_and_gone_after_its_deletion(
    host: Host, mode: WorkspaceMode
) -> None:
    assert (await host.spawn(mode)).outcome == "accepted"
    assert (await host.run(COMMIT)).status == 0
    await host.registry.stop(FIRST, None)

    answer = await host.spawn(mode, history=())
    done = await host.run("cat file; echo more >>file; git commit -q -a -m third; git log --format=%s")

    assert answer.outcome == "accepted", answer.message
    assert done.text.split() == ["changed", "third", "second", "first"]
    assert await host.manager.unsaved(FIRST) == (["copy"] if mode == "copy" else [])
    await host.registry.stop(FIRST, None)
    await host.registry.delete(FIRST)
    assert git(host.repository, "worktree", "list").count("\n") == 0
    assert await asyncio.to_thread(host.owners) == {host.repository.stat().st_uid}


async def test_a_repository_that_borrows_objects_is_refused_with_the_reason(host: Host, tmp_path: Path) -> None:
    owner, objects = host.repository.stat().st_uid, host.repository / ".git" / "objects"
    lender = tmp_path / "objects"
    await asyncio.to_thread(objects.rename, lender)
    (objects / "info").mkdir(parents=True)
    (objects / "info" / "alternates").write_text(f"{lender}\n")
    for path in (objects, *objects.rglob("*")):
        os.chown(path, owner, -1)

    answer = await host.spawn("worktree")

    assert answer.outcome == "errored"
    assert BORROWS in (answer.message or "")


async def test_links_that_somebody_puts_into_a_repository_lead_the_daemon_nowhere(host: Host, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / "heads" / "runtimed").mkdir(parents=True)
    (victim / "heads" / "runtimed" / f"{FIRST}.lock").touch()
    assert (await host.spawn("worktree")).outcome == "accepted"
    _replace_by_link(host.repository / ".git" / "refs", victim)
    await host.registry.stop(FIRST, None)

    await host.manager.unsaved(FIRST)
    await host.registry.delete(FIRST)

    assert (victim / "heads" / "runtimed" / f"{FIRST}.lock").exists()


async def test_entries_of_worktrees_are_not_removed_through_a_link(host: Host, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    assert (await host.spawn("worktree")).outcome == "accepted"
    shutil.copytree(host.repository / ".git" / "worktrees", victim, dirs_exist_ok=True)
    before = sorted(victim.rglob("*"))
    _replace_by_link(host.repository / ".git" / "worktrees", victim)
    await host.registry.stop(FIRST, None)

    with contextlib.suppress(OSError):
        await host.registry.delete(FIRST)

    assert before
    assert sorted(victim.rglob("*")) == before


def _replace_by_link(path: Path, target: Path) -> None:
    path.rename(path.with_name("kept"))
    path.symlink_to(target)


def _point_by_file(repository: Path, victim: Path) -> None:
    (repository / ".git").write_text(f"gitdir: {victim}/.git\n")


def _point_by_link(repository: Path, victim: Path) -> None:
    (repository / ".git").symlink_to(victim / ".git")


def _point_by_common_folder(repository: Path, victim: Path) -> None:
    shutil.copytree(victim / ".git", repository / ".git", symlinks=True)
    (repository / ".git" / "commondir").write_text(f"{victim}/.git\n")


def _point_to_a_worktree(repository: Path, victim: Path) -> None:
    git(victim, "worktree", "add", "-q", "-b", "elsewhere", str(victim.with_name("elsewhere")))
    (repository / ".git").write_text(f"gitdir: {victim}/.git/worktrees/elsewhere\n")


@pytest.fixture
def victim(repository: Path, tmp_path: Path) -> Path:
    """Another repository of the same user."""
    made = tmp_path / "victim"
    shutil.copytree(repository, made)
    for path in (made, *made.rglob("*")):
        os.chown(path, repository.stat().st_uid, repository.stat().st_gid)
    return made


@pytest.mark.parametrize("mode", ["worktree", "clone"])
@pytest.mark.parametrize("point", [_point_by_file, _point_by_link, _point_by_common_folder, _point_to_a_worktree])
async def test_a_folder_that_points_to_another_repository_gives_nobody_access_to_that(
    host: Host, victim: Path, mode: WorkspaceMode, point: Callable[[Path, Path], None]
) -> None:
    (host.repository / ".git").rename(host.repository / "before")
    await asyncio.to_thread(point, host.repository, victim)
    refs = git(victim, "show-ref")

    answer = await host.spawn(mode)

    assert answer.outcome == "errored", answer
    assert "points to one that does not point back" in (answer.message or "")
    assert git(victim, "show-ref") == refs


@pytest.mark.parametrize("mode", ["worktree", "clone"])
@pytest.mark.parametrize("part", [".git", ".git/objects"])
async def test_a_worker_is_not_restored_once_a_link_leads_to_the_repository_of_its_workspace(
    host: Host, victim: Path, mode: WorkspaceMode, part: str
) -> None:
    assert (await host.spawn(mode)).outcome == "accepted"
    await host.registry.stop(FIRST, None)
    _replace_by_link(host.repository / part, victim / part)

    answer = await host.spawn(mode, history=())

    assert answer.outcome == "rejected", answer
    assert "was replaced by a link" in (answer.message or "")


async def test_a_linked_worktree_and_a_submodule_are_repositories_too(host: Host, tmp_path: Path) -> None:
    """Their folders point to a repository elsewhere, which points back."""
    library, linked, outer = (tmp_path / name for name in ("library", "linked", "outer"))
    for folder in (library, outer):
        git(tmp_path, "init", "-q", str(folder))
    git(library, "commit", "-q", "--allow-empty", "-m", "first")
    git(library, "worktree", "add", "-q", "-b", "linked", str(linked))
    git(outer, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(library), "inner")

    for folder in (linked, outer / "inner"):
        assert await find_repository(Git(host.supervisor), folder, None) is not None, folder
