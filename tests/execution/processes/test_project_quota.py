"""Folders that the kernel itself limits, on a file system of their own."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from runtimed.core.ports import Dispatch, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution import Profile, ProfileRegistry
from runtimed.execution.processes import project_quota
from runtimed.execution.quota_folders import QuotaFolders
from runtimed.execution.workspace import Home, make_spare, remove_spare
from runtimed.model.event import ErrorRaised, RunEnd
from runtimed.model.identity import worker_id
from runtimed.model.interaction import WorkerInput
from runtimed.model.worker import BuiltinProfile, CapabilityRequest, CreateWorkerRequest
from runtimed.store.data_dir import DataDir
from tests.execution.conftest import RecordingSink

MIB = 1 << 20
FIRST = worker_id(1)


MAKE: Mapping[str, tuple[str, ...]] = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}
SIZE = {"ext4": 64 * MIB, "xfs": 320 * MIB}


@pytest.fixture(params=MAKE)
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The folder of a file system that limits projects."""
    yield from _disk(tmp_path, request.param, "loop,prjquota")


@pytest.fixture(params=MAKE)
def plain_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The folder of a file system that could limit projects, but is mounted without the option."""
    yield from _disk(tmp_path, request.param, "loop")


def _disk(place: Path, kind: str, options: str) -> Iterator[Path]:
    make = MAKE[kind]
    if os.geteuid() or not all(map(shutil.which, (make[0], "mount", "umount", "setpriv"))):
        pytest.skip(f"this needs root, {make[0]}, mount, umount and setpriv")
    image, mounted = place / "image", place / "disk"
    mounted.mkdir()
    with image.open("wb") as made:
        made.truncate(SIZE[kind])
    subprocess.run([*make, str(image)], check=True)
    if not _mount(mounted, options):
        pytest.skip("this kernel mounts no such file system with project quotas (CONFIG_QFMT_V2, CONFIG_XFS_QUOTA)")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


def _mount(mounted: Path, options: str) -> bool:
    command = ["mount", "-o", options, str(mounted.parent / "image"), str(mounted)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _folder(place: Path, name: str = "folder") -> Path:
    made = place / name
    made.mkdir()
    return made


def _write(path: Path, size: int) -> "subprocess.CompletedProcess[str]":
    """Write a file with a program that quotas hold, although it is root's."""
    command = ["setpriv", "--bounding-set", "-sys_resource", "dd", "if=/dev/zero", f"of={path}"]
    command += ["bs=65536", f"count={size // 65536}", "conv=fsync"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_file_system_without_project_quotas_holds_nothing(tmp_path: Path) -> None:
    assert project_quota.hold(tmp_path / "nothing", MIB) == 0
    plain = Path("/dev/shm")
    if plain.is_dir():
        assert project_quota.hold(plain, MIB) == project_quota.find(plain) == 0


def test_a_program_cannot_write_more_than_the_limit(disk: Path) -> None:
    folder = _folder(disk)
    project = project_quota.hold(folder, 4 * MIB)
    assert project == project_quota.find(folder) != 0
    assert _write(folder / "fits", 2 * MIB).returncode == 0

    refused = _write(folder / "too large", 8 * MIB)

    assert "Disk quota exceeded" in refused.stderr or "No space left" in refused.stderr
    found = project_quota.quota_of(project, folder)
    assert found.max_bytes == 4 * MIB
    assert 2 * MIB < found.used_bytes <= 4 * MIB
    (folder / "too large").unlink()
    assert _write(folder / "fits again", MIB).returncode == 0


def test_a_limit_can_be_changed_and_lifted(disk: Path) -> None:
    folder = _folder(disk)
    project = project_quota.hold(folder, MIB)
    assert _write(folder / "file", 2 * MIB).returncode

    assert project_quota.hold(folder, 4 * MIB) == project
    assert _write(folder / "file", 2 * MIB).returncode == 0
    assert project_quota.hold(folder, 0) == 0
    assert _write(folder / "file", 8 * MIB).returncode == 0


def test_folders_have_projects_of_their_own(disk: Path) -> None:
    first, second = _folder(disk, "first"), _folder(disk, "second")
    assert project_quota.hold(first, MIB) != project_quota.hold(second, MIB)
    assert _write(first / "file", 2 * MIB).returncode
    assert _write(second / "file", MIB // 2).returncode == 0


def test_a_folder_that_has_content_already_is_left_as_it_is(disk: Path) -> None:
    folder = _folder(disk)
    (folder / "content").touch()
    assert project_quota.hold(folder, MIB) == project_quota.find(folder) == 0


def test_a_file_system_that_is_mounted_without_the_option_holds_nothing(plain_disk: Path) -> None:
    folder = _folder(plain_disk)

    assert project_quota.hold(folder, MIB) == project_quota.find(folder) == 0

    assert _write(folder / "file", 2 * MIB).returncode == 0


def test_the_home_of_a_worker_inherits_its_project(disk: Path) -> None:
    folders = DataDir(disk / "store", is_scratch=True)
    home = Home(folders, Spawn(FIRST, CreateWorkerRequest()), 4 * MIB)
    home.make()
    assert home.folder_limit is not None
    assert home.folder_limit.project == project_quota.find(home.folder) == project_quota.find(home.path)


def test_a_folder_that_is_held_before_its_workspaces_are_made_stays_held(disk: Path) -> None:
    folders = QuotaFolders(DataDir(disk / "store", is_scratch=True), lambda _: None)
    folders.hold(FIRST, 4 * MIB)
    made = folders.worker_folder(FIRST) / "workspaces"
    made.mkdir()
    home = Home(folders, Spawn(FIRST, CreateWorkerRequest()), 4 * MIB)
    home.make()
    assert home.folder_limit is not None
    assert home.folder_limit.project == project_quota.find(made) != 0
    assert _write(made / "file", 8 * MIB).returncode


def test_a_spare_folder_keeps_its_project_when_a_worker_adopts_it_until_the_worker_is_deleted(disk: Path) -> None:
    folders = QuotaFolders(DataDir(disk / "store", is_scratch=True), lambda _: None)
    spare, unused = make_spare(folders, 4 * MIB), make_spare(folders, 4 * MIB)
    project = project_quota.find(spare)
    home = Home(folders, Spawn(FIRST, CreateWorkerRequest()), 4 * MIB)
    home.adopt(spare)
    home.make()
    assert home.folder_limit is not None
    assert home.folder_limit.project == project != project_quota.find(unused)
    assert project_quota.quota_of(project, disk).max_bytes == 4 * MIB

    folders.remove_worker_folder(FIRST, lambda: False)
    remove_spare(folders, unused)

    assert project_quota.quota_of(project, disk).max_bytes == 0


@pytest.mark.parametrize("disk", ["ext4"], indirect=True)  # XFS holds programs of root too
async def test_a_worker_that_the_kernel_does_not_hold_is_ended_and_its_deletion_releases_the_quota(
    disk: Path, recorder: RecordingSink
) -> None:
    folders = DataDir(disk / "store", is_scratch=True)
    profile = Profile("shell", capabilities=("shell",), max_folder_bytes=4 * MIB)
    registry = ProfileRegistry({"builtin:shell": profile}, workspaces=folders)
    request = CreateWorkerRequest(
        profile=BuiltinProfile("builtin:shell"), requested_capabilities=(CapabilityRequest("shell"),)
    )
    try:
        assert (await registry.spawn(Spawn(FIRST, request), recorder)).outcome == "accepted"
        folder = disk / "store" / "workers" / FIRST
        project = await asyncio.to_thread(project_quota.find, folder)
        assert project

        script = WorkerInput("user", "head -c 8000000 /dev/zero >big; sleep 1000")
        assert await registry.dispatch(Dispatch(FIRST, "one", script)) == BackendAnswer("accepted")
        registry.start(FIRST, "one")

        await recorder.until(lambda events: any(isinstance(event, RunEnd) for event in events))
        errors = [event for event in recorder.events if isinstance(event, ErrorRaised)]
        assert [error.reason for error in errors] == ["disk"]
        await registry.stop(FIRST, None)
        await registry.delete(FIRST)
        assert not await asyncio.to_thread(folder.exists)
        assert (await asyncio.to_thread(project_quota.quota_of, project, disk)).is_free
    finally:
        await registry.close()
