"""Files that the daemon reads and writes for an agent that is confined, and an agent that was started ahead."""

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from runtimed.core.ports import Dispatch, Spawn, WorkingFolders
from runtimed.core.state.change import Entry
from runtimed.execution import Profile
from runtimed.execution.acp import AcpBackend
from runtimed.execution.acp.files import Roots, write_text
from runtimed.execution.confinement.confiner import HostConfiner
from runtimed.execution.confinement.enclosure import Owned, WorkerEnclosure
from runtimed.execution.confinement.no_confinement import NoConfinement
from runtimed.execution.confinement.reach import Bind, Reach
from runtimed.execution.policy import SandboxPolicy
from runtimed.execution.processes.confinement import UNCONFINED, SandboxRequest
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.model.identity import worker_id
from runtimed.model.interaction import WorkerInput
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store.data_dir import DataDir
from tests.execution.acp.conftest import ACCEPTED, AGENT, DEADLINE_S, RecordingSink

FIRST = worker_id(1)
ALL = ("read", "write", "shell")
SECRET = "s3cret"


@attrs.define
class Confined:
    """A Worker whose agent bubblewrap confines, with `shared` as its further folder."""

    backend: AcpBackend
    supervisor: Supervisor
    folder: Path
    shared: Path
    script: Path
    request: SandboxRequest
    sink: RecordingSink
    inputs: int = 0

    @property
    def home(self) -> Path:
        return self.folder / "home"

    async def spawn(self, *, history: tuple[Entry, ...] | None = None, alone: bool = False) -> None:
        folders = (
            WorkingFolders() if alone else WorkingFolders(others={"RUNTIMED_WORKSPACE_SHARED": str(self.shared)})
        )
        spawn = Spawn(FIRST, CreateWorkerRequest(), history, folders=folders)
        await self.supervisor.confiner.enclose(FIRST, self.request, self.folder, spawn)
        self.sink = RecordingSink()
        assert await self.backend.spawn(spawn, self.sink) == ACCEPTED

    async def told(self, *asked: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Have the agent ask these, and return the answers."""
        steps: list[list[Any]] = [
            step for each in asked for step in (["tell", *each], ["call_python", "text(chr(10))"])
        ]
        steps.append(["end"])
        return [json.loads(line) for line in (await self.run(steps)).splitlines()]

    async def run(self, steps: list[list[Any]]) -> str:
        """Have the agent do this in a run, and return its text."""
        todo = self.script.with_name("todo.json")
        await asyncio.to_thread(todo.write_text, json.dumps(steps))
        self.inputs += 1
        ended, said = len(self.sink.ends), len(self.sink.text)
        given = Dispatch(FIRST, f"input-{self.inputs}", WorkerInput("user", "go"))
        assert await self.backend.dispatch(given) == ACCEPTED
        self.backend.start(FIRST, given.input_id)
        await self.sink.until(lambda: len(self.sink.ends) > ended or self.sink.losses)
        assert not self.sink.losses
        return self.sink.text[said:]


TODO = """run(json.loads((script_path.parent / "todo.json").read_text()))"""
"""What the agent does in each run."""


@pytest.fixture
async def confined(tmp_path: Path, confiner: HostConfiner) -> AsyncIterator[Confined]:
    noted, shared = tmp_path / "noted", tmp_path / "shared"
    for folder in (noted, shared):
        folder.mkdir()
        folder.chmod(0o777)
    if os.geteuid() == 0:
        os.chown(shared, 1000, 1000)
    script = noted / "script.json"
    script.write_text(json.dumps({"session/prompt": [[["call_python", TODO]]] * 9}))
    command = (sys.executable, str(AGENT), str(script))
    policy = SandboxPolicy("required", "none", writable=(noted,))
    profile = Profile("acp", command, capabilities=ALL, stop_grace_s=0.5, sandbox=policy, warm=1)
    supervisor = Supervisor(confiner=confiner)
    folders = DataDir(tmp_path / "scratch", is_scratch=True)
    backend = AcpBackend(profile, folders, supervisor)
    folder = await asyncio.to_thread(folders.worker_folder, FIRST)
    yield Confined(backend, supervisor, folder, shared, script, profile.sandbox_request, RecordingSink())
    await backend.close()
    await supervisor.close()


@pytest.fixture
def group_of_root() -> Iterator[None]:
    """Have this process be root, in the group of root."""
    if os.geteuid():
        pytest.skip("only root can read what belongs to others")
    before = os.getgroups()
    os.setgroups([0])
    yield
    os.setgroups(before)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """The folder of a file system whose room is left for root alone."""
    if os.geteuid() or not all(map(shutil.which, ("mkfs.ext4", "mount", "umount"))):
        pytest.skip("this needs root, mkfs.ext4, mount and umount")
    image, mounted = tmp_path / "image", tmp_path / "disk"
    mounted.mkdir()
    with image.open("wb") as made:
        made.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "50", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", image, mounted], capture_output=True, check=False).returncode:
        pytest.skip("this host mounts no such file system")
    try:
        mounted.chmod(0o777)
        fill = "exec dd if=/dev/zero of=filler bs=64k"
        filled = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", fill]
        subprocess.run(filled, cwd=mounted, capture_output=True, check=False)
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


def read(path: object) -> tuple[str, dict[str, Any]]:
    return "fs/read_text_file", {"path": str(path)}


def write(path: object, content: str = "x") -> tuple[str, dict[str, Any]]:
    return "fs/write_text_file", {"path": str(path), "content": content}


async def test_files_and_folders_that_are_written_for_a_confined_agent_belong_to_its_user(confined: Confined) -> None:
    await confined.spawn()

    answers = await confined.told(write(confined.home / "a" / "b", "one"), write(confined.shared / "c" / "d", "two"))
    changed = "import pathlib; pathlib.Path('a/b').write_text('three'); text(str(os.stat('a').st_uid == os.getuid()))"

    assert answers == [{"result": {}}] * 2
    assert await confined.run([["call_python", changed], ["end"]]) == "True"
    made = [confined.home, *confined.home.rglob("*"), *confined.shared.rglob("*")]
    assert {path.lstat().st_uid for path in made} == {confined.shared.stat().st_uid}
    assert (await confined.told(read(confined.home / "a" / "b")))[0]["result"]["content"] == "three"


async def test_what_is_written_into_a_folder_of_root_belongs_to_root_as_if_the_agent_had_written_it(
    confined: Confined, group_of_root: None
) -> None:
    os.chown(confined.shared, 0, 0)
    confined.shared.chmod(0o700)
    (confined.shared / "other").mkdir(mode=0o700)
    (confined.shared / "other" / "file").write_text(SECRET)
    os.chown(confined.shared / "other", 1000, 1000)
    await confined.spawn()

    written, read_back, refused = await confined.told(
        write(confined.shared / "c" / "d", "two"),
        read(confined.shared / "c" / "d"),
        read(confined.shared / "other" / "file"),
    )
    own = f"text(open({str(confined.shared / 'c' / 'd')!r}).read())"

    assert (written, read_back) == ({"result": {}}, {"result": {"content": "two"}})
    assert refused["error"]["message"] == "Permission denied"
    assert await confined.run([["call_python", own], ["end"]]) == "two"
    assert {path.stat().st_uid for path in (confined.shared / "c", confined.shared / "c" / "d")} == {0}


async def test_the_daemon_reads_and_writes_nothing_for_a_confined_agent_that_its_user_could_not(
    confined: Confined, group_of_root: None
) -> None:
    await asyncio.to_thread(_make_private, confined.shared)
    await confined.spawn()

    shared = confined.shared
    answers = await confined.told(
        read(shared / "private"),
        write(shared / "private"),
        read(shared / "grouped"),
        write(shared / "folder" / "new"),
        read(shared / "folder" / "file"),
    )

    assert [answer.get("error", {}).get("message") for answer in answers] == ["Permission denied"] * 5
    assert (shared / "private").read_text() == SECRET


async def test_the_daemon_shows_a_confined_agent_nothing_that_is_hidden_in_a_folder_of_it(
    confined: Confined, tmp_path: Path
) -> None:
    scratch, alias = tmp_path / "scratch", tmp_path / "shared" / "alias"
    (scratch / "token").write_text(SECRET)
    alias.symlink_to(scratch / "token")
    if os.geteuid() == 0:
        os.chown(tmp_path, 1000, 1000)
        os.chown(scratch / "token", 1000, 1000)
    confined.shared = tmp_path
    await confined.spawn()

    answers = await confined.told(
        read(scratch / "token"), write(scratch / "token"), read(alias), write(scratch / "new"), read(tmp_path / "own")
    )

    assert ["cannot be" in answer["error"]["message"] for answer in answers[:4]] == [True] * 4, answers
    assert SECRET not in json.dumps(answers)
    assert (scratch / "token").read_text() == SECRET


async def test_a_home_that_is_made_anew_belongs_to_the_user_of_the_agent_at_once(confined: Confined) -> None:
    await confined.spawn()
    await confined.run([["end"]])
    user = confined.home.stat().st_uid
    await asyncio.to_thread(shutil.rmtree, confined.home)

    (answer,) = await confined.told(write(confined.home / "a" / "b", "one"))

    assert answer == {"result": {}}
    made = [confined.home, *confined.home.rglob("*")]
    assert {path.stat().st_uid for path in made} == {user}


def test_the_daemon_takes_no_room_for_an_agent_that_is_reserved_for_root(full_disk: Path) -> None:
    """As with a quota, from which root is exempt: the kernel looks at who writes, not at who has opened the file."""
    folder = full_disk / "folder"
    folder.mkdir()
    os.chown(folder, 100_000, 100_000)
    reach = Reach((Bind(folder, folder, writable=True),))
    rules = WorkerEnclosure(UNCONFINED, NoConfinement(), folder, reach, Owned((), (), 100_000), {})
    file = folder / "file"

    with pytest.raises(OSError, match="No space left") as refused:
        write_text(Roots([folder], rules), str(file), "x" * (4 << 20))

    assert refused.value.errno == errno.ENOSPC
    file.write_text("x" * (4 << 20))


async def test_files_are_written_for_an_agent_that_nothing_confines(confined: Confined) -> None:
    confined.request = attrs.evolve(confined.request, policy=SandboxPolicy("off"))
    await confined.spawn()

    assert await confined.told(write(confined.home / "a" / "b", "one")) == [{"result": {}}]
    assert (confined.home / "a" / "b").read_text() == "one"


async def test_an_agent_that_was_started_ahead_works_confined_in_the_folder_of_its_worker(confined: Confined) -> None:
    confined.backend.keep_warm(600)
    async with asyncio.timeout(DEADLINE_S):
        while not confined.backend.ready:
            await asyncio.sleep(0.01)
    await confined.spawn(alone=True)

    home = confined.home.resolve()
    at_first = await confined.run([["call_python", "text(os.getcwd())"], ["end"]])
    answers = await confined.told(
        write(home / "file", "one"),
        read(home / "file"),
        ("terminal/create", {"command": "cat file; pwd -P; id -u; echo two >made", "cwd": str(home)}),
        ("terminal/wait_for_exit", {"terminalId": "$terminal"}),
        ("terminal/output", {"terminalId": "$terminal"}),
        read(home / "made"),
    )
    seen = f"text(open({str(home / 'made')!r}).read() + str(os.getuid()))"

    assert at_first == str(home)
    assert "warm-" in at_first
    assert answers[1]["result"]["content"] == "one"
    user = home.stat().st_uid
    assert answers[4]["result"]["output"] == f"one{home}\n{user}\n"
    assert answers[5]["result"]["content"] == "two\n"
    assert await confined.run([["call_python", seen], ["end"]]) == f"two\n{user}"
    assert {path.stat().st_uid for path in home.iterdir()} == {user}

    await confined.backend.stop(FIRST, None)
    confined.folder = home.parent
    await confined.spawn(history=(), alone=True)

    assert await confined.run([["call_python", seen], ["end"]]) == f"two\n{user}"


def _make_private(folder: Path) -> None:
    """Put files and a folder of root into a folder that belongs to somebody else."""
    (folder / "private").write_text(SECRET)
    (folder / "private").chmod(0o600)
    (folder / "grouped").write_text(SECRET)
    (folder / "grouped").chmod(0o640)
    (folder / "folder").mkdir(mode=0o700)
    (folder / "folder" / "file").write_text(SECRET)
