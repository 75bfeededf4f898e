"""Workspaces within a registry of profiles: what an early end, a failure and a lack of support leave behind."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest

from runtimed.core.ports import Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.errors import WorkspaceUnavailable
from runtimed.execution import Profile, ProfileRegistry
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.workspaces import worktree
from runtimed.execution.workspaces.catalog import Catalog, ConfiguredWorkspace
from runtimed.execution.workspaces.manager import WorkspaceManager
from runtimed.execution.workspaces.preparation import forget_made
from runtimed.execution.workspaces.record import Prepared, Record, Records
from runtimed.model.identity import worker_id
from runtimed.model.worker import BuiltinProfile, CapabilityRequest, CreateWorkerRequest, NamedReference
from runtimed.model.workspace import WorkspaceMode
from runtimed.store.data_dir import DataDir
from tests.execution.conftest import RecordingSink

FIRST, SECOND = worker_id(1), worker_id(2)
SHELL = CreateWorkerRequest(
    profile=BuiltinProfile("builtin:shell"), requested_capabilities=(CapabilityRequest("shell"),)
)


def git(folder: Path, *args: str) -> str:
    own = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
    done = subprocess.run(["git", *own, *args], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def relative(path: Path, start: Path) -> str:
    return os.path.relpath(path, start)


@attrs.frozen
class Host:
    """A registry whose references `repo`, `clone` and `copy` are a worktree, a clone and a copy of `repository`."""

    repository: Path
    registry: ProfileRegistry
    manager: WorkspaceManager
    records: Records

    @property
    def is_untouched(self) -> bool:
        branches = git(self.repository, "branch", "--list", "runtimed/*")
        return not branches and len(git(self.repository, "worktree", "list").splitlines()) == 1


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "-q")
    git(repository, "commit", "-q", "--allow-empty", "-m", "first")
    supervisor = Supervisor()
    folders = DataDir(tmp_path / "store", is_scratch=True)
    modes: dict[str, WorkspaceMode] = {"repo": "worktree", "clone": "clone", "copy": "copy"}
    catalog = Catalog((), {name: ConfiguredWorkspace(str(repository), mode) for name, mode in modes.items()})
    manager = WorkspaceManager(catalog, folders, supervisor)
    profiles = {"builtin:late": Profile("process", command=("sleep", "600"), stop_grace_s=0.1)}
    registry = ProfileRegistry(profiles, workspaces=folders, supervisor=supervisor, manager=manager)
    yield Host(repository, registry, manager, Records(folders))
    await registry.close()


def spawn(*references: str, request: CreateWorkerRequest = SHELL) -> Spawn:
    refs = tuple(NamedReference(f"w{number}", reference) for number, reference in enumerate(references))
    return Spawn(FIRST, attrs.evolve(request, workspace_refs=refs))


async def test_a_worker_that_is_ended_while_its_workspaces_are_prepared_leaves_nothing(
    host: Host, recorder: RecordingSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, real = tmp_path / "slow", shutil.which("git")
    slow.mkdir()
    pause = f'"{real}" "$@"; touch "{tmp_path}/made"; exec sleep 600'
    (slow / "git").write_text(f'#!/bin/sh\ncase "$*" in *"worktree add"*) {pause};; esac\nexec "{real}" "$@"\n')
    (slow / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow}:{os.environ['PATH']}")
    spawning = asyncio.create_task(host.registry.spawn(spawn("repo"), recorder))
    async with asyncio.timeout(30):
        while not (tmp_path / "made").exists():
            await asyncio.sleep(0.01)

    assert await host.registry.cancel(FIRST, None) == BackendAnswer("accepted")

    assert (await spawning).outcome == "errored"
    assert await asyncio.to_thread(lambda: host.is_untouched)
    assert await host.manager.workspaces(FIRST) == []


async def test_a_caller_that_gives_up_its_spawn_leaves_nothing(host: Host, recorder: RecordingSink) -> None:
    spawning = asyncio.create_task(host.registry.spawn(spawn("repo", "repo"), recorder))
    async with asyncio.timeout(30):
        while await asyncio.to_thread(host.records.load, FIRST) is None:
            await asyncio.sleep(0.01)

    spawning.cancel()
    await asyncio.wait({spawning})

    assert await asyncio.to_thread(lambda: host.is_untouched)


async def test_a_worker_whose_second_workspace_is_refused_gets_none(host: Host, recorder: RecordingSink) -> None:
    answer = await host.registry.spawn(spawn("repo", "nope"), recorder)

    assert answer.outcome == "rejected"
    assert await asyncio.to_thread(lambda: host.is_untouched)


async def test_a_worktree_whose_folder_was_removed_is_made_again_from_its_branch(
    host: Host, recorder: RecordingSink
) -> None:
    assert (await host.registry.spawn(spawn("repo"), recorder)).outcome == "accepted"
    (made,) = (Path(line.split()[0]) for line in git(host.repository, "worktree", "list").splitlines()[1:])
    (made / "file").write_text("kept")
    git(made, "add", "file")
    git(made, "commit", "-q", "-m", "kept")
    await host.registry.stop(FIRST, None)
    shutil.rmtree(made)

    answer = await host.registry.spawn(attrs.evolve(spawn("repo"), history=()), recorder)

    assert answer.outcome == "accepted"
    assert (made / "file").read_text() == "kept"
    assert [(one.ahead, one.dirty) for one in await host.manager.workspaces(FIRST)] == [(1, False)]


def test_a_worker_that_claims_the_worktree_of_another_gets_nothing_of_that(tmp_path: Path) -> None:
    repository = tmp_path / "claimed"
    git(tmp_path, "init", "-q", "-b", "main", str(repository))
    git(repository, "commit", "-q", "--allow-empty", "-m", "first")
    made = tmp_path / "worker-00000002-0-cwd"
    claiming = repository / ".git" / "worktrees" / "worker-00000001-0-cwd"
    claiming.mkdir(parents=True)
    (claiming / "gitdir").write_text(f"{made}/.git\n")
    planned = Prepared("cwd", "repo:x", "worktree", str(made), str(repository), str(made))
    planned = attrs.evolve(planned, common_dir=str(repository / ".git"))

    assert worktree.find_entry(planned) is None

    git(repository, "worktree", "add", "-q", "-f", str(made), "-b", "second")
    assert worktree.find_entry(planned) == claiming.with_name(made.name)


async def test_a_worker_that_claims_the_place_and_the_branch_of_the_next_does_not_keep_it_from_starting(
    host: Host, recorder: RecordingSink
) -> None:
    assert (await host.registry.spawn(spawn("repo"), recorder)).outcome == "accepted"
    (made,) = (Path(line.split()[0]) for line in git(host.repository, "worktree", "list").splitlines()[1:])
    next_made = Path(str(made).replace(FIRST, SECOND))
    entry = host.repository / ".git" / "worktrees" / made.name
    (entry / "gitdir").write_text(f"{next_made}/.git\n")
    (entry / "HEAD").write_text(f"ref: refs/heads/runtimed/{SECOND}\n")
    (entry / "locked").write_text("mine")

    answer = await host.registry.spawn(attrs.evolve(spawn("repo"), worker_id=SECOND), recorder)

    assert answer.outcome == "accepted", answer
    assert git(next_made, "rev-parse", "--abbrev-ref", "HEAD") == f"runtimed/{SECOND}"


async def test_a_registry_without_workspaces_rejects_what_would_need_one(
    tmp_path: Path, recorder: RecordingSink
) -> None:
    registry = ProfileRegistry({}, workspaces=DataDir(tmp_path))

    answer = await registry.spawn(spawn("repo"), recorder)

    assert answer == BackendAnswer("rejected", "workspace_refs: this Runtime has no workspaces")
    await registry.close()


async def test_a_branch_that_somebody_else_makes_at_the_same_time_is_left_alone(
    host: Host, recorder: RecordingSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster, real = tmp_path / "faster", shutil.which("git")
    faster.mkdir()
    theirs = f"runtimed/{FIRST}"
    once = f'[ -e "{tmp_path}/raced" ] || {{ touch "{tmp_path}/raced"; '
    race = f'{once} env -u GIT_DIR "{real}" -C "{host.repository}" branch {theirs}; }}'
    (faster / "git").write_text(f'#!/bin/sh\ncase "$*" in *"update-ref -m"*) {race};; esac\nexec "{real}" "$@"\n')
    (faster / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{faster}:{os.environ['PATH']}")

    answer = await host.registry.spawn(spawn("repo"), recorder)

    assert answer.outcome == "accepted"
    assert [one.branch for one in await host.manager.workspaces(FIRST)] == [f"{theirs}-2"]
    assert git(host.repository, "branch", "--list", theirs) == theirs


@pytest.mark.parametrize("obstacle", ["a lock", "a branch below"])
async def test_a_name_that_git_makes_no_branch_of_is_taken(
    host: Host, recorder: RecordingSink, obstacle: str
) -> None:
    lock = host.repository / ".git" / "refs" / "heads" / "runtimed" / f"{FIRST}.lock"
    if obstacle == "a lock":
        lock.parent.mkdir()
        lock.touch()
    else:
        git(host.repository, "branch", f"runtimed/{FIRST}/below")

    answer = await host.registry.spawn(spawn("repo"), recorder)

    assert answer.outcome == "accepted"
    assert [one.branch for one in await host.manager.workspaces(FIRST)] == [f"runtimed/{FIRST}-2"]


async def test_a_repository_with_a_branch_that_is_in_the_way_is_named_as_the_reason(
    host: Host, recorder: RecordingSink
) -> None:
    git(host.repository, "branch", "runtimed")

    answer = await host.registry.spawn(spawn("clone"), recorder)

    assert answer.outcome == "errored"
    assert "its repository has a branch named runtimed: rename it" in (answer.message or "")


async def test_a_clone_of_a_repository_on_no_branch_begins_at_its_commit(host: Host, recorder: RecordingSink) -> None:
    git(host.repository, "checkout", "-q", "--detach")
    git(host.repository, "commit", "-q", "--allow-empty", "-m", "detached")

    answer = await host.registry.spawn(spawn("clone"), recorder)

    assert answer.outcome == "accepted", answer.message
    (shown,) = await host.manager.workspaces(FIRST)
    assert (shown.branch, shown.base, shown.ahead, shown.dirty) == (
        f"runtimed/{FIRST}",
        git(host.repository, "rev-parse", "HEAD"),
        0,
        False,
    )


async def test_a_kill_while_a_branch_was_made_leaves_neither_the_branch_nor_its_lock(host: Host) -> None:
    common, branch = host.repository / ".git", f"runtimed/{FIRST}"
    git(host.repository, "branch", branch)
    lock = common / "refs" / "heads" / f"{branch}.lock"
    lock.touch()
    made = host.repository.parent / "made"
    base = git(host.repository, "rev-parse", "HEAD")
    planned = Prepared("w0", "repo", "worktree", str(made), str(host.repository), str(made))
    planned = attrs.evolve(planned, common_dir=str(common), branch=branch, base=base)
    await asyncio.to_thread(host.records.save, Record(FIRST, workspaces=(planned,)))

    await host.manager.recover()

    assert host.is_untouched
    assert not lock.exists()
    assert await asyncio.to_thread(host.records.load, FIRST) is None


async def test_a_kill_right_behind_the_save_of_a_clone_leads_to_no_second_branch(
    host: Host, recorder: RecordingSink
) -> None:
    await host.registry.spawn(spawn("clone"), recorder)
    before = await asyncio.to_thread(host.records.load, FIRST)
    assert before is not None
    git(Path(before.workspaces[0].path), "commit", "-q", "--allow-empty", "-m", "kept")
    await host.manager.save(FIRST)
    await asyncio.to_thread(host.records.save, before)

    assert await host.manager.save(FIRST) == []

    branches = git(host.repository, "branch", "--list", "runtimed/*", "--format=%(refname:short) %(subject)")
    assert branches == f"runtimed/{FIRST} kept"


async def test_a_worktree_that_was_being_made_again_at_a_kill_is_made_whole(
    host: Host, recorder: RecordingSink
) -> None:
    (host.repository / "file").write_text("first")
    git(host.repository, "add", "file")
    git(host.repository, "commit", "-q", "-m", "file")
    await host.registry.spawn(spawn("repo"), recorder)
    await host.registry.stop(FIRST, None)
    (entry,) = (host.repository / ".git" / "worktrees").iterdir()
    made = Path((entry / "gitdir").read_text().strip()).parent
    (entry / "index").rename(entry / "index.lock")
    (entry / "locked").write_text("initializing")
    (made / "file").unlink()

    answer = await host.registry.spawn(attrs.evolve(spawn("repo"), history=()), recorder)

    assert answer.outcome == "accepted"
    assert (made / "file").read_text() == "first"
    assert [one.dirty for one in await host.manager.workspaces(FIRST)] == [False]


async def test_workspaces_whose_plan_cannot_be_recorded_are_an_error_in_words(
    host: Host, recorder: RecordingSink, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    (store / "workspaces").symlink_to(tmp_path / "nowhere")

    answer = await host.registry.spawn(spawn("repo"), recorder)

    assert answer.outcome == "errored"
    assert "the workspaces could not be prepared: workspaces: expected a folder" in (answer.message or "")
    assert str(tmp_path) not in (answer.message or "")
    (store / "workspaces").unlink()


async def test_a_registry_closes_although_a_workspace_cannot_be_given_up(
    host: Host, recorder: RecordingSink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    second = worker_id(2)
    for one in (spawn("repo"), attrs.evolve(spawn("repo"), worker_id=second)):
        assert (await host.registry.spawn(one, recorder)).outcome == "accepted"

    def refuse_first(record: Record) -> None:
        if record.worker_id == FIRST:
            raise PermissionError(1, "Operation not permitted")
        forget_made(record)

    monkeypatch.setattr("runtimed.execution.workspaces.manager.forget_made", refuse_first)

    await host.registry.close()

    left = await asyncio.to_thread(git, host.repository, "worktree", "list")
    assert FIRST in left
    assert second not in left
    assert "cannot give up the workspaces of a Worker" in caplog.text


async def test_an_index_that_is_a_link_is_not_read_and_the_list_shows_what_can_be_told(
    host: Host, recorder: RecordingSink, tmp_path: Path
) -> None:
    await host.registry.spawn(spawn("clone"), recorder)
    record = await asyncio.to_thread(host.records.load, FIRST)
    assert record is not None
    index = Path(record.workspaces[0].git_dir or "") / "index"
    index.rename(tmp_path / "elsewhere")
    index.symlink_to(tmp_path / "elsewhere")

    (shown,) = await host.manager.workspaces(FIRST)

    assert (shown.mode, shown.branch, shown.dirty) == ("clone", f"runtimed/{FIRST}", None)
    with pytest.raises(WorkspaceUnavailable, match="its index cannot be opened"):
        await host.manager.diff(FIRST, "w0")
    assert await host.manager.unsaved(FIRST) == ["w0"]


async def test_a_list_does_not_fail_where_there_is_no_room_to_look(
    host: Host, recorder: RecordingSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.registry.spawn(spawn("repo"), recorder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))

    (shown,) = await host.manager.workspaces(FIRST)

    assert (shown.branch, shown.dirty) == (f"runtimed/{FIRST}", None)


async def test_commits_in_the_repository_of_a_copy_are_unsaved_work(host: Host, recorder: RecordingSink) -> None:
    git(host.repository, "checkout", "-q", "--detach")
    git(host.repository, "commit", "-q", "--allow-empty", "-m", "on no branch")
    await host.registry.spawn(spawn("copy"), recorder)
    record = await asyncio.to_thread(host.records.load, FIRST)
    assert record is not None
    made = Path(record.workspaces[0].path)
    assert await host.manager.unsaved(FIRST) == []

    git(made, "commit", "-q", "--allow-empty", "-m", "new")
    git(made, "branch", "aside")
    git(made, "checkout", "-q", "--detach", "HEAD^")

    assert await host.manager.unsaved(FIRST) == ["w0"]


async def test_a_worktree_with_relative_pointers_is_found(host: Host, recorder: RecordingSink) -> None:
    await host.registry.spawn(spawn("repo"), recorder)
    (entry,) = (host.repository / ".git" / "worktrees").iterdir()
    made = Path((entry / "gitdir").read_text().strip()).parent
    (entry / "gitdir").write_text(relative(made / ".git", entry) + "\n")
    (made / ".git").write_text(f"gitdir: {relative(entry, made)}\n")

    assert await host.manager.unsaved(FIRST) == []
    await host.manager.release(FIRST)

    assert not entry.exists()


async def test_commits_of_a_worktree_on_no_branch_are_unsaved_work_even_if_its_folder_is_gone(
    host: Host, recorder: RecordingSink
) -> None:
    await host.registry.spawn(spawn("repo"), recorder)
    record = await asyncio.to_thread(host.records.load, FIRST)
    assert record is not None
    made = Path(record.workspaces[0].path)
    shutil.rmtree(made)
    assert await host.manager.unsaved(FIRST) == []
    await host.manager.release(FIRST)
    await asyncio.to_thread(host.records.save, record)
    git(host.repository, "worktree", "add", "-q", "--detach", str(made))
    git(made, "commit", "-q", "--allow-empty", "-m", "on no branch")
    shutil.rmtree(made)

    assert await host.manager.unsaved(FIRST) == ["w0"]
