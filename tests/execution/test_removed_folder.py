"""A Worker's folder that is removed or replaced while the Worker lives is made anew, and the Worker is told so."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
import pytest

from runtimed.core.ports import Dispatch, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import Entry
from runtimed.execution import Profile, ProfileRegistry
from runtimed.execution.confinement.confiner import HostConfiner
from runtimed.execution.policy import SandboxPolicy
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.workspace import OLD_FOLDER
from runtimed.model.event import Alert, Payload, RunEnd, TextDelta
from runtimed.model.identity import worker_id
from runtimed.model.interaction import WorkerInput
from runtimed.model.worker import BuiltinProfile, CapabilityRequest, CreateWorkerRequest
from runtimed.store.data_dir import DataDir
from tests.execution.conftest import RecordingSink

FIRST = worker_id(1)
GONE, REPLACED = "was gone: it was made anew", "was replaced by another"
KINDS = ("shell", "process", "acp")
AGENT = Path(__file__).parent / "acp" / "agent.py"

PROGRAM = """
import json, sys
for line in sys.stdin:
    if json.loads(line)["type"] == "input":
        print(json.dumps({"event": "run_end", "data": {"result": "finished"}}), flush=True)
"""


def _remove(folder: Path, outside: Path) -> None:
    shutil.rmtree(folder)


def _remove_home(folder: Path, outside: Path) -> None:
    shutil.rmtree(folder / "home")


def _link(folder: Path, outside: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(outside)


def _link_home(folder: Path, outside: Path) -> None:
    shutil.rmtree(folder / "home")
    (folder / "home").symlink_to(outside)


def _write_home(folder: Path, outside: Path) -> None:
    shutil.rmtree(folder / "home")
    (folder / "home").write_text("no folder")


def _remove_all(folder: Path, outside: Path) -> None:
    shutil.rmtree(folder.parents[1])


def _exchange(folder: Path, outside: Path) -> None:
    (folder / "home").rename(folder / "old")
    (folder / "home").mkdir()


DEEDS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "it is removed": (_remove, GONE),
    "its home is removed": (_remove_home, GONE),
    "a link stands in its place": (_link, GONE),
    "a link stands in the place of its home": (_link_home, GONE),
    "a file stands in the place of its home": (_write_home, GONE),
    "all that is around it is removed": (_remove_all, GONE),
    "its home is another folder": (_exchange, REPLACED),
}


@attrs.define
class Housed:
    """One Worker with a folder of its own."""

    registry: ProfileRegistry
    kind: str
    folder: Path
    sink: RecordingSink
    inputs: int = 0

    async def spawn(self, history: tuple[Entry, ...] | None = None) -> BackendAnswer:
        request = CreateWorkerRequest(
            profile=BuiltinProfile("builtin:housed"), requested_capabilities=(CapabilityRequest("shell"),)
        )
        return await self.registry.spawn(Spawn(FIRST, request, history), self.sink)

    async def run(self, content: str = "true") -> list[Payload]:
        """One input; the events of its run."""
        heard = len(self.sink.events)
        self.inputs += 1
        given = Dispatch(FIRST, f"input-{self.inputs}", WorkerInput("user", content))
        assert await self.registry.dispatch(given) == BackendAnswer("accepted")
        self.registry.start(FIRST, given.input_id)
        await self.sink.until(lambda events: any(isinstance(event, RunEnd) for event in events[heard:]))
        return list(self.sink.events[heard:])


def alerts(events: list[Payload]) -> list[str]:
    return [event.message for event in events if isinstance(event, Alert)]


@pytest.fixture(params=KINDS)
async def housed(request: pytest.FixtureRequest, tmp_path: Path, recorder: RecordingSink) -> AsyncIterator[Housed]:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"session/prompt": [[["obey"]]] * 5}))
    command = (sys.executable, str(AGENT), str(script)) if request.param == "acp" else (sys.executable, "-c", PROGRAM)
    profile = Profile(request.param, command, stop_grace_s=0.5)
    scratch = tmp_path / "scratch"
    registry = ProfileRegistry({"builtin:housed": profile}, workspaces=DataDir(scratch, is_scratch=True))
    yield Housed(registry, request.param, scratch / "workers" / FIRST, recorder)
    await registry.close()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    made = tmp_path / "outside"
    made.mkdir(mode=0o755)
    return made


@pytest.fixture(params=KINDS)
async def confined(
    request: pytest.FixtureRequest, tmp_path: Path, recorder: RecordingSink, confiner: HostConfiner
) -> AsyncIterator[Housed]:
    """A Worker that bubblewrap confines. Its agent writes down what it hears beside its script."""
    noted = tmp_path / "noted"
    noted.mkdir()
    noted.chmod(0o777)
    script = noted / "script.json"
    script.write_text(json.dumps({"session/prompt": [[["obey"]]] * 5}))
    command = (sys.executable, str(AGENT), str(script)) if request.param == "acp" else (sys.executable, "-c", PROGRAM)
    policy = SandboxPolicy("required", "none", writable=(noted,))
    profile = Profile(request.param, command, stop_grace_s=0.5, sandbox=policy)
    scratch = tmp_path / "scratch"
    supervisor = Supervisor(confiner=confiner)
    folders = DataDir(scratch, is_scratch=True)
    registry = ProfileRegistry({"builtin:housed": profile}, workspaces=folders, supervisor=supervisor)
    yield Housed(registry, request.param, scratch / "workers" / FIRST, recorder)
    await registry.close()


def _untouched(outside: Path) -> bool:
    return outside.stat().st_mode & 0o777 == 0o755 and not list(outside.iterdir())


@pytest.mark.parametrize("deed", DEEDS)
async def test_the_next_input_finds_the_folder_made_anew(housed: Housed, outside: Path, deed: str) -> None:
    do, told = DEEDS[deed]
    assert await housed.spawn() == BackendAnswer("accepted")
    assert alerts(await housed.run("echo hello")) == []
    await asyncio.to_thread(do, housed.folder, outside)

    events = await housed.run("echo hello")

    assert events[-1] == RunEnd("finished")
    assert [told in alert for alert in alerts(events)] == [True]
    home = housed.folder / "home"
    assert await asyncio.to_thread(lambda: home.is_dir() and not home.is_symlink() and not list(home.iterdir()))
    assert await asyncio.to_thread(_untouched, outside)
    assert alerts(await housed.run("echo hello")) == []


async def test_a_worker_that_is_brought_back_is_told_that_its_folder_is_gone(housed: Housed) -> None:
    await housed.spawn()
    await housed.registry.stop(FIRST, None)
    await asyncio.to_thread(shutil.rmtree, housed.folder)
    entry = Entry(FIRST, 1, "user", "hello", 1, 0)

    assert await housed.spawn((entry,)) == BackendAnswer("accepted")

    await housed.run("echo hello")
    assert sum(GONE in alert for alert in alerts(housed.sink.events)) == 1


@pytest.mark.parametrize("housed", ["shell"], indirect=True)
@pytest.mark.parametrize("where", [".", "..", "inner", "inner/most"])
async def test_a_shell_goes_on_in_the_new_folder(housed: Housed, where: str) -> None:
    await housed.spawn()
    await housed.run(f"mkdir -p inner/most; kept=variable; cd {where}; rm -rf {housed.folder}")

    events = await housed.run("pwd -P; ls -A; echo $kept")

    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert text == f"{housed.folder / 'home'}\nvariable\n"


async def test_a_confined_program_is_said_to_be_in_the_old_folder_and_a_shell_is_started_anew_in_the_new_one(
    confined: Housed,
) -> None:
    assert (await confined.spawn()).outcome == "accepted"
    await confined.run("echo old >file; kept=variable")
    await asyncio.to_thread(shutil.rmtree, confined.folder / "home")

    events = await confined.run("echo new >file; cat file; ls; echo kept:$kept")

    said = "; ".join(alerts(events))
    assert GONE in said
    assert ("a fresh shell starts" if confined.kind == "shell" else OLD_FOLDER) in said
    assert events[-1] == RunEnd("finished")
    if confined.kind == "shell":
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "new\nfile\nkept:\n"
        assert await asyncio.to_thread((confined.folder / "home" / "file").read_text) == "new\n"


@pytest.mark.parametrize("housed", ["shell"], indirect=True)
async def test_a_shell_that_works_elsewhere_stays_there(housed: Housed, outside: Path) -> None:
    await housed.spawn()
    await housed.run(f"set -eu; cd {outside}; rm -rf {housed.folder}")

    events = await housed.run("pwd -P")

    assert [event.text for event in events if isinstance(event, TextDelta)] == [f"{outside}\n"]


@pytest.mark.parametrize("housed", ["acp"], indirect=True)
async def test_the_session_of_an_agent_is_kept_in_the_new_folder(housed: Housed) -> None:
    await housed.spawn()
    await housed.run("echo hello")
    before = await asyncio.to_thread((housed.folder / "session.json").read_bytes)
    await asyncio.to_thread(shutil.rmtree, housed.folder)

    await housed.run("echo hello")

    assert await asyncio.to_thread((housed.folder / "session.json").read_bytes) == before


async def test_a_folder_that_can_not_be_made_anew_is_told_as_an_error(
    housed: Housed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await housed.spawn()
    await housed.run("echo hello")
    await asyncio.to_thread(shutil.rmtree, housed.folder)

    def refuse(*_: object) -> Path:
        raise PermissionError(13, "Permission denied", "/the/path/of/it")

    with monkeypatch.context() as broken:
        broken.setattr(DataDir, "worker_folder", refuse)
        events = await housed.run("echo hello")

    told = [event for event in events if isinstance(event, Alert)]
    assert [(alert.level, "could not be made anew: Permission denied" in alert.message) for alert in told] == [
        ("error", True)
    ]
    assert (await housed.run("echo hello"))[-1] == RunEnd("finished")
