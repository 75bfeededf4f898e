"""A sink that remembers, a shell to talk to, and a count of processes."""

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from runtimed.core.ports import Dispatch, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution import Profile
from runtimed.execution.confinement.confiner import HostConfiner
from runtimed.execution.confinement.host_paths import HostPaths
from runtimed.execution.confinement.probe import Mechanisms, find_bubblewrap
from runtimed.execution.confinement.users import Users
from runtimed.execution.processes import containment
from runtimed.execution.processes.containment import Containment
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.shell import ShellBackend
from runtimed.model.event import Alert, Payload, RunEnd, TextDelta, TextDone, ToolResult
from runtimed.model.execution import LossReason
from runtimed.model.identity import WorkerId, worker_id
from runtimed.model.interaction import InputKind, WorkerInput
from runtimed.model.permission import Question, Ruling
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store import spare_folders
from tests.event_loops import loop_factories

DEADLINE_S = 30.0


def pytest_asyncio_loop_factories(config: pytest.Config) -> Mapping[str, Any]:
    """Every test here runs on the standard event loop or on uvloop, or on both."""
    return loop_factories(config)


class RecordingSink:
    """An EventSink that remembers; while `held`, it makes whoever speaks wait."""

    def __init__(self) -> None:
        self.events: list[Payload] = []
        self._changed = asyncio.Condition()
        self._free = asyncio.Event()
        self._free.set()

    async def emit(self, *payloads: Payload) -> None:
        await self._free.wait()
        async with self._changed:
            self.events += payloads
            self._changed.notify_all()

    async def ask(self, question: Question) -> Ruling:
        raise AssertionError(f"nothing asks in these tests: {question}")

    async def lose(self, reason: LossReason, message: str) -> None:
        raise AssertionError(f"nothing is lost in these tests: {reason}, {message}")

    def hold(self) -> None:
        self._free.clear()

    def free(self) -> None:
        self._free.set()

    async def until(self, met: Callable[[list[Payload]], object]) -> None:
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(lambda: met(self.events))


@attrs.frozen
class Run:
    """What one input led to."""

    events: list[Payload]

    @property
    def names(self) -> list[str]:
        return [event.event for event in self.events]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def entries(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, TextDone)]

    @property
    def alerts(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Alert)]

    @property
    def status(self) -> int | None:
        return next(event.exit_status for event in self.events if isinstance(event, ToolResult))


class Traces:
    """Finds every process that carries a mark in its environment or its command line, in whatever namespace."""

    def __init__(self) -> None:
        self.mark = f"1{secrets.randbelow(10**12):012}"

    async def pids(self) -> list[int]:
        return await asyncio.to_thread(self._pids)

    async def until(self, met: Callable[[list[int]], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            found = await self.pids()
            while not met(found):
                await asyncio.sleep(0.01)
                found = await self.pids()

    def _pids(self) -> list[int]:
        return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal() and self._in(path)]

    def _in(self, process: Path) -> bool:
        try:
            said = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:
            return False
        return self.mark.encode() in said and int(process.name) != os.getpid()


class Folders:
    """The folders of Workers, plainly below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def worker_folder(self, worker_id: WorkerId) -> Path:
        return self.find_worker_folder(worker_id)

    def find_worker_folder(self, worker_id: WorkerId) -> Path:
        entry = self._folder / worker_id
        return spare_folders.taken_over(entry) or entry

    def make_spare(self) -> Path:
        folder = self._folder / spare_folders.new_name()
        folder.mkdir(mode=0o700)
        return folder

    def adopt(self, worker_id: WorkerId, spare: Path) -> None:
        spare_folders.take_over(self._folder / worker_id, spare)

    def spares(self) -> Sequence[Path]:
        return spare_folders.spares(self._folder)

    def remove_worker_folder(self, worker_id: WorkerId, is_cut: Callable[[], bool]) -> None:
        shutil.rmtree(self.worker_folder(worker_id), ignore_errors=True)
        if (self._folder / worker_id).is_symlink():
            (self._folder / worker_id).unlink()


class Harness:
    """One Worker of a ShellBackend; `traces.mark` is in the environment of all that it starts."""

    def __init__(self, folder: Path, supervisor: Supervisor, grace: float, limits: Mapping[str, Any]) -> None:
        self.traces = Traces()
        self.sink = RecordingSink()
        self.worker_id = worker_id(1)
        self.folder = folder / self.worker_id
        profile = Profile("shell", env={"TRACE": self.traces.mark}, stop_grace_s=grace, **limits)
        self.backend = ShellBackend(profile, Folders(folder), supervisor)
        self._inputs = 0

    async def spawn(self) -> BackendAnswer:
        return await self.backend.spawn(Spawn(self.worker_id, CreateWorkerRequest()), self.sink)

    async def offer(self, content: str, kind: InputKind = "user") -> BackendAnswer:
        self._inputs += 1
        given = WorkerInput(kind, content)
        return await self.backend.dispatch(Dispatch(self.worker_id, f"input-{self._inputs}", given))

    @property
    def last_input(self) -> str:
        return f"input-{self._inputs}"

    async def begin(self, script: str) -> None:
        answer = await self.offer(script)
        assert answer == BackendAnswer("accepted")
        self.backend.start(self.worker_id, f"input-{self._inputs}")

    async def run(self, script: str) -> Run:
        heard = len(self.sink.events)
        await self.begin(script)
        await self.sink.until(lambda events: any(isinstance(event, RunEnd) for event in events[heard:]))
        return Run(self.sink.events[heard:])


NewHarness = Callable[..., Harness]


def own_uids(count: int) -> range:
    """Return up to 256 users that no other process of pytest on this machine gives to its programs.

    A program that runs as a user counts for all who ask whether the user has processes.
    """
    first = 1_000_000_000 + 256 * os.getpid()
    return range(first, first + count)


NUMBERS = own_uids(100)
"""The users of confined Workers, where tests run as root."""


@pytest.fixture
async def confiner(tmp_path: Path) -> HostConfiner:
    """A Confiner by bubblewrap, which hides `scratch` in the folder of the test: the folders of Workers are there."""
    problem, bubblewrap = await asyncio.to_thread(find_bubblewrap, NUMBERS.start if os.geteuid() == 0 else None)
    if bubblewrap is None:
        pytest.skip(f"bubblewrap does not work here: {problem}")
    scratch = tmp_path / "scratch"
    users = Users(NUMBERS, scratch / "workers") if os.geteuid() == 0 else None
    return HostConfiner(Mechanisms((bubblewrap,)), HostPaths((scratch,)), users)


@pytest.fixture
def traces() -> Traces:
    return Traces()


@pytest.fixture
def recorder() -> RecordingSink:
    return RecordingSink()


@pytest.fixture(params=["namespace", "group"])
def contained(request: pytest.FixtureRequest) -> Callable[[], Containment]:
    """Each way to keep a process tree together that this machine allows."""
    if request.param == "group":
        return containment.group
    found = containment.namespace()
    if found is None:
        pytest.skip("no PID namespace can be made here")
    return lambda: found


@pytest.fixture
async def supervisor(contained: Callable[[], Containment]) -> AsyncIterator[Supervisor]:
    made = Supervisor(contained)
    yield made
    await made.close()


@pytest.fixture
async def new_harness(tmp_path: Path, supervisor: Supervisor) -> AsyncIterator[NewHarness]:
    """Makes a Worker of a ShellBackend, not yet spawned; in the end nothing of it may be left."""
    made: list[Harness] = []

    def new(grace: float = 5.0, limits: Mapping[str, Any] | None = None) -> Harness:
        made.append(Harness(tmp_path, supervisor, grace, limits or {}))
        return made[-1]

    yield new
    for harness in made:
        await harness.backend.close()
        assert await harness.traces.pids() == []


@pytest.fixture
async def shell(new_harness: NewHarness) -> Harness:
    """A Worker with its shell running."""
    harness = new_harness()
    assert await harness.spawn() == BackendAnswer("accepted")
    return harness
