"""An agent that follows a script, and a Worker that is run by it."""

import asyncio
import fcntl
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from runtimed.core.ports import Dispatch, Spawn, WorkingFolders
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import Entry
from runtimed.execution import Profile
from runtimed.execution.acp import AcpBackend
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.model.event import Alert, Payload, RunEnd, SystemItem, TextDelta, ToolResult
from runtimed.model.execution import LossReason
from runtimed.model.identity import worker_id
from runtimed.model.interaction import InputKind, WorkerInput
from runtimed.model.mcp_server import McpServer
from runtimed.model.permission import Question, Ruling
from runtimed.model.worker import AssistantIntent, CreateWorkerRequest, Intent
from tests.execution.conftest import Folders

P = TypeVar("P", bound=Payload)

AGENT = Path(__file__).with_name("agent.py")
DEADLINE_S = 30.0
ACCEPTED = BackendAnswer("accepted")


class RecordingSink:
    """An EventSink that remembers, and rules on questions when it is told to."""

    def __init__(self) -> None:
        self.events: list[Payload] = []
        self.questions: list[Question] = []
        self.losses: list[tuple[LossReason, str]] = []
        self.refused = ""
        self._ruling: asyncio.Future[Ruling] | None = None
        self._changed = asyncio.Condition()

    async def emit(self, *payloads: Payload) -> None:
        if self.refused in [payload.event for payload in payloads]:
            raise ValueError("refused")
        async with self._changed:
            self.events += payloads
            self._changed.notify_all()

    async def ask(self, question: Question) -> Ruling:
        async with self._changed:
            self.questions.append(question)
            self._changed.notify_all()
        if question.ruled is not None:
            return Ruling("selected", question.ruled, content=question.content)
        self._ruling = asyncio.get_running_loop().create_future()
        return await self._ruling

    async def lose(self, reason: LossReason, message: str) -> None:
        async with self._changed:
            self.losses.append((reason, message))
            self._changed.notify_all()

    def rule(self, ruling: Ruling) -> None:
        assert self._ruling is not None
        self._ruling.set_result(ruling)

    async def until(self, met: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(met)

    def of(self, kind: type[P]) -> list[P]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def names(self) -> list[str]:
        return [event.event for event in self.events]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.of(TextDelta))

    @property
    def alerts(self) -> list[str]:
        return [event.message for event in self.of(Alert)]

    @property
    def results(self) -> list[ToolResult]:
        return self.of(ToolResult)

    @property
    def items(self) -> list[dict[str, Any]]:
        return [event.item for event in self.of(SystemItem)]

    @property
    def ends(self) -> list[str]:
        return [event.result for event in self.of(RunEnd)]


class Roll:
    """The agents that were told to `enroll`, in the order of their starts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def notes(self) -> list[dict[str, Any]]:
        """What the agents have noted: their names and their environments."""
        file = self._folder / "agents.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [note["name"] for note in self.notes]

    def is_gone(self, name: str) -> bool:
        """Whether an agent has ended."""
        with (self._folder / f"alive-{name}").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def end(self, name: str) -> None:
        """Have an agent end by itself, soon."""
        (self._folder / f"die-{name}").touch()


class Harness:
    """One Worker whose agent follows a script."""

    def __init__(self, folder: Path, supervisor: Supervisor, script: dict[str, Any], **profile: Any) -> None:
        self.worker_id = worker_id(1)
        self.folder = folder / self.worker_id
        self.home = self.folder / "home"
        self.sink = RecordingSink()
        self._script = folder / "script.json"
        self._script.write_text(json.dumps(script))
        made = {"stop_grace_s": 0.5, "command": (sys.executable, str(AGENT), str(self._script)), **profile}
        self.backend = AcpBackend(Profile("acp", **made), Folders(folder), supervisor)
        self._inputs = 0

    def rewrite(self, script: dict[str, Any]) -> None:
        """What the next agent is to do."""
        self._script.write_text(json.dumps(script))

    async def spawn(
        self,
        intent: Intent | None = None,
        history: tuple[Entry, ...] | None = None,
        folders: tuple[Path, ...] = (),
        session_config: dict[str, str] | None = None,
        mcp_servers: tuple[McpServer, ...] = (),
    ) -> BackendAnswer:
        request = CreateWorkerRequest(
            intent=intent or AssistantIntent(), session_config=session_config or {}, mcp_servers=mcp_servers
        )
        others = {f"RUNTIMED_WORKSPACE_{number}": str(folder) for number, folder in enumerate(folders[1:])}
        working = WorkingFolders(str(folders[0]), others) if folders else WorkingFolders()
        return await self.backend.spawn(Spawn(self.worker_id, request, history, folders=working), self.sink)

    async def offer(self, content: str = "hi", kind: InputKind = "user") -> BackendAnswer:
        self._inputs += 1
        given = WorkerInput(kind, content)
        return await self.backend.dispatch(Dispatch(self.worker_id, f"input-{self._inputs}", given))

    async def begin(self, content: str = "hi", kind: InputKind = "user") -> None:
        assert await self.offer(content, kind) == ACCEPTED
        self.backend.start(self.worker_id, f"input-{self._inputs}")

    async def run(self, content: str = "hi", kind: InputKind = "user") -> RecordingSink:
        """Run an input to its end; the sink, with what it took."""
        ended = len(self.sink.ends)
        await self.begin(content, kind)
        await self.sink.until(lambda: len(self.sink.ends) > ended or self.sink.losses)
        return self.sink

    def heard(self, method: str) -> list[dict[str, Any]]:
        """The parameters of what the agent was told by this method."""
        lines = self._script.with_name("heard.jsonl").read_text().splitlines()
        messages = [json.loads(line) for line in lines]
        return [message["params"] for message in messages if message.get("method") == method]

    def answers(self) -> list[dict[str, Any]]:
        """What the agent was answered to requests of its own."""
        lines = self._script.with_name("heard.jsonl").read_text().splitlines()
        return [message for message in map(json.loads, lines) if "method" not in message]

    def listen_anew(self) -> None:
        """What is said from here on goes to a new sink."""
        self.sink = RecordingSink()

    async def restart(self, history: tuple[str, ...] = ()) -> BackendAnswer:
        """End the Worker as a daemon that stops does, and bring it back; `history` is what the user has said."""
        await self.backend.stop(self.worker_id, None)
        self.listen_anew()
        said = enumerate(history, start=1)
        entries = tuple(Entry(self.worker_id, number, "user", content, number, number) for number, content in said)
        return await self.spawn(history=entries)


NewHarness = Callable[..., Harness]


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    made = Supervisor()
    yield made
    await made.close()


@pytest.fixture
async def new_harness(tmp_path: Path, supervisor: Supervisor) -> AsyncIterator[NewHarness]:
    """Makes a Worker, not yet spawned, for a script and what else its profile says."""
    made: list[Harness] = []

    def new(script: dict[str, Any] | None = None, **profile: Any) -> Harness:
        made.append(Harness(tmp_path, supervisor, script or {}, **profile))
        return made[-1]

    yield new
    for harness in made:
        await harness.backend.close()
