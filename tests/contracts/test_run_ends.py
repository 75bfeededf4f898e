"""However a run goes wrong, it ends, says why, and leaves a Worker that goes on, whatever kind of program it has."""

import asyncio
import contextlib
import errno
import json
import re
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

from runtimed.core import BackendAnswer, EventSink, Runtime, Spawn
from runtimed.core.limits import Limits
from runtimed.core.ports import EventRefused, ExecutionBackend
from runtimed.errors import WorkerExecutionUnavailable
from runtimed.execution import Profile, ProfileRegistry
from runtimed.execution.acp.agent import Agent
from runtimed.execution.function import FunctionBackend
from runtimed.execution.processes.line_process import LineProcess
from runtimed.execution.session.text_output import OpenText
from runtimed.model.event import ErrorRaised, Payload
from runtimed.model.execution import ExecutionResult, LossReason
from runtimed.model.identity import WorkerId, WorkerRef
from runtimed.model.interaction import WorkerInput
from runtimed.model.permission import Question, Ruling
from runtimed.model.worker import BuiltinProfile, CreateWorkerRequest
from runtimed.store.data_dir import DataDir
from runtimed.store.memory import MemoryStore
from tests.contracts.fake_driver import FakeBackend

DEADLINE_S = 30.0
AGENT = Path(__file__).parents[1] / "execution" / "acp" / "agent.py"

Kind = Literal["shell", "process", "acp", "fake"]
PROGRAMS = ("shell", "process", "acp")
"""The kinds that have programs, with files, pipes and an environment."""

PROGRAM = """
import json, os, signal, sys, time

def say(event, **data):
    print(json.dumps({"event": event, "data": data}), flush=True)

def text(content):
    say("text_delta", text=content)

def hang():
    while True:
        time.sleep(1)

def end():
    say("run_end", result=result)

def until_interrupt():
    global result
    while json.loads(sys.stdin.readline())["type"] != "interrupt":
        pass
    result = "rolled_back"

for line in sys.stdin:
    heard = json.loads(line)
    if heard["type"] == "input":
        result = "finished"
        exec(heard["content"])
        end()
"""
"""Runs its inputs as Python, as the agent and the fake do: all know `text`, `hang`, `until_interrupt` and `end`."""

OBEY = {"session/prompt": [[["call_python", "exec(state['params']['prompt'][-1]['text'])"], ["finish"]]]}

AGAIN = {"shell": "echo again", "python": 'text("again\\n")'}
FLOOD = {"shell": "yes", "python": 'while True: text("x" * 1000)'}
HANG = {"shell": "sleep 1000", "python": "hang()"}

CLEAN_UP = {"shell": "rm big; echo clean", "python": 'os.remove("big"); text("clean\\n")'}

MUTE = {"shell": "exec >&- 2>&-; sleep 0.5", "python": "os.close(1); hang()"}

DEAF = {
    "shell": "(sleep 1; kill -STOP $$; touch deaf) &",
    "python": 'end(); open("deaf", "w").close(); hang()',
}
"""Ends its run, and takes no input from then on, as the file `deaf` tells."""


class FaultyBackend:
    """An ExecutionBackend whose sinks raise `fault`, while there is one, for the events named in `faulty`.

    The sinks take no `run_end` before `free` is set.
    """

    def __init__(self, backend: ExecutionBackend) -> None:
        self._backend = backend
        self.fault: Exception | None = None
        self.faulty: tuple[str, ...] = ()
        self.is_held = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        return await self._backend.spawn(spawn, _FaultySink(self, sink))


@attrs.frozen(eq=False)
class _FaultySink:
    owner: FaultyBackend
    sink: EventSink

    async def emit(self, *payloads: Payload) -> None:
        if self.owner.fault and any(payload.event in self.owner.faulty for payload in payloads):
            raise self.owner.fault
        if not self.owner.free.is_set() and any(payload.event == "run_end" for payload in payloads):
            self.owner.is_held.set()
            await self.owner.free.wait()
        await self.sink.emit(*payloads)

    async def ask(self, question: Question) -> Ruling:
        return await self.sink.ask(question)

    async def lose(self, reason: LossReason, message: str) -> None:
        if self.owner.fault and "lose" in self.owner.faulty:
            raise self.owner.fault
        await self.sink.lose(reason, message)


class BlockingFolders(DataDir):
    """Folders that are not given out while `blocked`, as those of a file system that is gone, or with a `fault`."""

    blocked = False
    fault: OSError | None = None

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.freed = threading.Event()

    def worker_folder(self, worker_id: WorkerId) -> Path:
        if self.fault is not None:
            raise self.fault
        if self.blocked:
            self.freed.wait(DEADLINE_S)
        return super().worker_folder(worker_id)


class Harness:
    """A Runtime with one Worker of a kind. Scripts are given as {"shell": …, "python": …}."""

    def __init__(self, kind: Kind, runtime: Runtime, backend: FaultyBackend, folders: BlockingFolders) -> None:
        self.kind = kind
        self.runtime = runtime
        self.backend = backend
        self.folders = folders
        self._ref: WorkerRef | None = None

    async def create(self) -> None:
        request = CreateWorkerRequest(profile=BuiltinProfile("builtin:x"))
        self._ref = (await self.runtime.create_worker(request)).worker_ref

    @property
    def ref(self) -> WorkerRef:
        assert self._ref is not None
        return self._ref

    @property
    def state(self) -> str:
        return self.runtime.worker(self.ref).execution.run_state

    @property
    def result(self) -> ExecutionResult:
        found = self.runtime.worker(self.ref).execution.last_result
        assert found is not None
        return found

    @property
    def home(self) -> Path:
        return self.folders.path / "workers" / self.ref.worker_id / "home"

    async def begin(self, script: Mapping[str, str]) -> int:
        """Send an input; the sequence of its event."""
        content = script["shell" if self.kind == "shell" else "python"]
        ack = await self.runtime.send_input(self.ref, WorkerInput("user", content))
        return ack.event_id

    async def run(self, script: Mapping[str, str]) -> list[dict[str, Any]]:
        """Send an input; the payloads of its run, up to its end."""
        return await self.ended(await self.begin(script))

    async def ended(self, after: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(DEADLINE_S):
            while not data_of(events := await self.events(after), "run_end"):
                await asyncio.sleep(0.01)
        return events

    async def until(self, state: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.state != state:
                await asyncio.sleep(0.01)

    async def until_text(self, after: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not text_of(await self.events(after)):
                await asyncio.sleep(0.01)

    async def events(self, after: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while page := await self.runtime.events(self.ref, after):
            found += [json.loads(event.payload) for event in page]
            after = page[-1].sequence
        return found

    async def goes_on(self, attempts: int = 1) -> None:
        """An interrupt returns, and the Worker takes the next input, or one of so many that a limit may end."""
        async with asyncio.timeout(DEADLINE_S):
            await self.runtime.interrupt_worker(self.ref)
        events = await self.run(AGAIN)
        while attempts > 1 and error_reasons_and_text(events)[0]:
            attempts -= 1
            events = await self.run(AGAIN)
        assert text_of(events) == "again\n"
        assert data_of(events, "run_end") == [{"result": "finished"}]
        assert self.state == "idle"


def fill(size: int) -> dict[str, str]:
    """Write a file of this size, and hang."""
    return {
        "shell": f"head -c {size} /dev/zero >big; sleep 1000",
        "python": f'open("big", "wb").write(bytes({size})); hang()',
    }


def data_of(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event["data"] for event in events if event["event"] == name]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(data["text"] for data in data_of(events, "text_delta"))


def error_reasons_and_text(events: list[dict[str, Any]]) -> tuple[list[str | None], str]:
    """The reasons of a run's errors, and all that a person reads of it."""
    errors = data_of(events, "error")
    words = [data["message"] for data in (*errors, *data_of(events, "alert"))]
    return [data.get("reason") for data in errors], "\n".join(words)


def _contents(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):  # it is replaced
        return path.read_text()
    return ""


@pytest.fixture(params=[*PROGRAMS, "fake"])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def _backend(kind: Kind, profile: Mapping[str, Any], folders: BlockingFolders) -> ExecutionBackend:
    if kind == "fake":
        return FakeBackend(Profile("process", **profile), folders)
    return ProfileRegistry({"builtin:x": Profile(kind, **profile)}, workspaces=folders)


NewHarness = Callable[..., Awaitable[Harness]]


@pytest.fixture
async def new_harness(kind: Kind, tmp_path: Path) -> AsyncIterator[NewHarness]:
    """Makes a Worker of the kind with what else its profile and the limits of its Runtime say."""
    async with contextlib.AsyncExitStack() as stack:

        async def new(limits: Limits | None = None, *, created: bool = True, **profile: Any) -> Harness:
            script = tmp_path / "script.json"
            script.write_text(json.dumps(OBEY))
            command = (sys.executable, str(AGENT), str(script))
            command = (sys.executable, "-c", PROGRAM) if kind == "process" else command
            made = {"command": command, "stop_grace_s": 0.5, **profile}
            (tmp_path / "store").mkdir()
            folders = BlockingFolders(tmp_path / "store")
            backend = FaultyBackend(_backend(kind, made, folders))
            runtime = await stack.enter_async_context(Runtime(MemoryStore(), backend, limits=limits))
            stack.callback(folders.freed.set)
            harness = Harness(kind, runtime, backend, folders)
            if created:
                await harness.create()
            return harness

        yield new


async def test_output_beyond_max_open_text_is_cut_into_texts_and_the_run_ends(
    new_harness: NewHarness,
) -> None:
    harness = await new_harness(Limits(max_open_text=1000))

    events = await harness.run(
        {"shell": "seq 1 2000", "python": 'for n in range(1, 2001): text(f"{n}\\n")'},
    )

    whole = "".join(f"{number}\n" for number in range(1, 2001))
    assert text_of(events) == whole
    assert "".join(data["text"] for data in data_of(events, "text_done")) == whole
    assert max(len(data["text"]) for data in data_of(events, "text_done")) <= 1000
    assert data_of(events, "run_end") == [{"result": "finished"}]
    await harness.goes_on()


@pytest.mark.parametrize("faulty", [("text_delta",), ("text_delta", "text_done", "tool_result")])
async def test_an_adapter_that_fails_ends_the_run(new_harness: NewHarness, faulty: tuple[str, ...]) -> None:
    harness = await new_harness()
    harness.backend.fault, harness.backend.faulty = RuntimeError("secret"), faulty

    events = await harness.run({"shell": "echo x; sleep 1000", "python": 'text("x"); hang()'})

    reasons, words = error_reasons_and_text(events)
    assert reasons == ["protocol"]
    assert "the daemon's log has the details" in words
    assert "secret" not in words
    assert data_of(events, "run_end") == [{"result": "rolled_back"}]
    harness.backend.fault = None
    await harness.goes_on()


@pytest.mark.parametrize("kind", PROGRAMS)
async def test_a_worker_whose_folder_is_too_large_loses_its_run_and_can_clean_up(new_harness: NewHarness) -> None:
    harness = await new_harness(max_folder_bytes=1 << 20)

    events = await harness.run(fill(3_000_000))

    reasons, words = error_reasons_and_text(events)
    assert reasons == ["disk"]
    assert "max_folder_bytes allows (1,048,576 bytes)" in words
    assert re.search(r"the Worker's folder has [3-9],\d{3},\d{3} bytes", words)
    assert data_of(events, "run_end") == [{"result": "rolled_back"}]
    assert (harness.home / "big").stat().st_size == 3_000_000
    await harness.goes_on()
    assert text_of(await harness.run(CLEAN_UP)) == "clean\n"
    assert not (harness.home / "big").exists()
    assert error_reasons_and_text(await harness.run(fill(6_000_000)))[0] == ["disk"]


@pytest.mark.parametrize("kind", PROGRAMS)
async def test_an_interrupt_returns_although_the_loss_of_a_program_could_not_be_told(
    new_harness: NewHarness,
) -> None:
    harness = await new_harness(stop_grace_s=DEADLINE_S)
    harness.backend.fault, harness.backend.faulty = RuntimeError("secret"), ("text_delta", "lose")
    waiting = {
        "shell": "trap '' INT; touch begun; until [ -e go ]; do sleep 0.01; done; echo x; sleep 1000",
        "python": 'open("begun", "w").close()\nwhile not os.path.exists("go"): time.sleep(0.01)\ntext("x"); hang()',
    }
    await harness.begin(waiting)
    async with asyncio.timeout(DEADLINE_S):
        while not await asyncio.to_thread((harness.home / "begun").exists):
            await asyncio.sleep(0.01)
    asyncio.get_running_loop().call_later(0.3, (harness.home / "go").touch)

    async with asyncio.timeout(DEADLINE_S / 3):
        answer = await harness.backend.interrupt(harness.ref.worker_id)

    assert answer == BackendAnswer("accepted")


@pytest.mark.parametrize("kind", ["acp"])
async def test_an_agent_that_can_not_be_ended_is_lost_all_the_same(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    stop = Agent.stop

    async def stop_and_fail(
        agent: Agent, grace_s: float, session_id: str | None = None, *, is_running: bool = False
    ) -> None:
        await stop(agent, grace_s, session_id, is_running=is_running)
        raise RuntimeError("secret")

    harness = await new_harness()
    monkeypatch.setattr(Agent, "stop", stop_and_fail)
    harness.backend.fault, harness.backend.faulty = RuntimeError("secret"), ("text_delta",)

    events = await harness.run({"python": 'text("x"); hang()'})

    assert error_reasons_and_text(events)[0] == ["protocol"]
    monkeypatch.undo()
    harness.backend.fault = None
    await harness.goes_on()


async def test_a_program_that_can_not_be_started_is_an_answer_and_the_worker_can_be_restored(
    new_harness: NewHarness,
) -> None:
    harness = await new_harness(created=False)
    harness.folders.fault = OSError(errno.EMFILE, "Too many open files", "/secret")

    await harness.create()

    result = harness.result
    assert (result.operation, result.outcome) == ("spawn", "errored")
    assert result.message is not None
    assert result.message.endswith("could not be started: Too many open files")
    harness.folders.fault = None
    await harness.runtime.restore_worker(harness.ref)
    await harness.goes_on()


async def test_a_program_that_ends_between_two_runs_does_not_keep_the_next_from_running(
    new_harness: NewHarness,
) -> None:
    harness = await new_harness()
    dying = {"shell": "(sleep 0.1; kill -KILL $$) &", "python": "end(); os._exit(3)"}

    events = await harness.run(dying)

    assert data_of(events, "run_end") == [{"result": "finished"}]
    if harness.kind == "shell":  # which tells of it with the next script that finds it gone
        async with asyncio.timeout(DEADLINE_S):
            while "a fresh shell starts" not in error_reasons_and_text(await harness.run(AGAIN))[1]:
                await asyncio.sleep(0.01)
    else:
        await harness.until("errored")
    await harness.goes_on()


async def test_a_translator_that_fails_ends_the_run(new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    harness = await new_harness()

    def fail(_: OpenText, text: str) -> Iterator[Any]:
        if text:
            raise RuntimeError("secret")
        return iter(())

    with monkeypatch.context() as patch:
        patch.setattr(OpenText, "write", fail)
        events = await harness.run({"shell": "echo x; sleep 1000", "python": 'text("x"); hang()'})

    reasons, words = error_reasons_and_text(events)
    assert reasons == ["protocol"]
    assert "the daemon's log has the details" in words
    assert "secret" not in words
    assert data_of(events, "run_end") == [{"result": "rolled_back"}]
    await harness.goes_on()


async def test_an_interrupt_that_is_obeyed_ends_the_run_and_the_program_goes_on(
    new_harness: NewHarness,
) -> None:
    harness = await new_harness(stop_grace_s=DEADLINE_S)
    after = await harness.begin({"shell": "echo x; sleep 1000", "python": 'text("x"); until_interrupt()'})
    await harness.until_text(after)

    await harness.runtime.interrupt_worker(harness.ref)

    events = await harness.ended(after)
    assert error_reasons_and_text(events) == ([], "the run was interrupted")
    assert data_of(events, "run_end") == [{"result": "rolled_back"}]
    assert error_reasons_and_text(await harness.run(AGAIN)) == ([], "")
    await harness.goes_on()


async def test_an_interrupt_that_is_ignored_ends_the_run_and_the_program(new_harness: NewHarness) -> None:
    harness = await new_harness()
    after = await harness.begin(
        {"shell": "trap '' INT; echo x; while :; do sleep 1; done", "python": 'text("x"); hang()'}
    )
    await harness.until_text(after)

    async with asyncio.timeout(DEADLINE_S):
        await harness.runtime.interrupt_worker(harness.ref)

    events = await harness.ended(after)
    assert error_reasons_and_text(events)[0] == []
    assert data_of(events, "run_end") == [{"result": "rolled_back"}]
    await harness.goes_on()


async def test_an_interrupt_amid_a_run_end_that_waits_for_the_sink_leaves_the_program_alone(
    new_harness: NewHarness,
) -> None:
    harness = await new_harness(stop_grace_s=0.05)
    harness.backend.free.clear()
    after = await harness.begin(AGAIN)
    async with asyncio.timeout(DEADLINE_S):
        await harness.backend.is_held.wait()

    interrupting = asyncio.create_task(harness.backend.interrupt(harness.ref.worker_id))
    await asyncio.wait({interrupting}, timeout=0.5)  # ten times the grace: by then it would have been killed
    harness.backend.free.set()

    assert (await interrupting).outcome == "accepted"
    assert data_of(await harness.ended(after), "run_end") == [{"result": "finished"}]
    assert error_reasons_and_text(await harness.run(AGAIN)) == ([], "")


async def test_a_stop_amid_a_run_ends_the_run_and_nothing_is_said_after_it(new_harness: NewHarness) -> None:
    harness = await new_harness()
    after = await harness.begin({"shell": "while :; do echo x; done", "python": 'text("x"); hang()'})
    await harness.until_text(after)

    async with asyncio.timeout(DEADLINE_S):
        await harness.runtime.stop_worker(harness.ref)

    events = await harness.events(after)
    assert harness.runtime.worker(harness.ref).status == "stopped"
    assert events[-1]["event"] == "shutdown"
    assert await harness.events(after) == events


async def test_what_the_sink_refuses_ends_the_run_and_is_named(new_harness: NewHarness) -> None:
    harness = await new_harness()
    harness.backend.fault, harness.backend.faulty = EventRefused("too much of it (max_x)"), ("text_delta",)

    events = await harness.run({"shell": "echo x; sleep 1000", "python": 'text("x"); hang()'})

    reasons, words = error_reasons_and_text(events)
    assert reasons == ["protocol"]
    assert "too much of it (max_x)" in words
    harness.backend.fault = None
    await harness.goes_on()


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        ({"shell": "echo x; exit 3", "python": 'text("x"); os._exit(3)'}, 3, "ended with status 3"),
        ({"shell": "kill -KILL $$", "python": "os.kill(os.getpid(), signal.SIGKILL)"}, 137, "ended by SIGKILL"),
    ],
    ids=["exit", "kill"],
)
async def test_a_program_that_ends_amid_its_run_ends_it(
    new_harness: NewHarness, script: Mapping[str, str], status: int, words: str
) -> None:
    harness = await new_harness()

    events = await harness.run(script)

    if harness.kind == "shell":  # the end of a script is the end of its run, however the script did that
        assert [data["exit_status"] for data in data_of(events, "tool_result")] == [status]
    else:
        assert error_reasons_and_text(events)[0] == ["exit"]
        assert words in error_reasons_and_text(events)[1]
        assert data_of(events, "run_end") == [{"result": "rolled_back"}]
    await harness.goes_on()


@pytest.mark.parametrize(
    ("limit", "script", "reason"),
    [
        ({"max_output_bytes": 100_000}, FLOOD, "output"),
        # the next runs are held to these too, and a program of lines starts within them
        ({"max_run_s": 2.0}, HANG, "timeout"),
        ({"max_silence_s": 2.0}, HANG, "silence"),
    ],
    ids=["output", "timeout", "silence"],
)
async def test_a_run_beyond_a_limit_of_its_profile_ends_with_that_as_its_reason(
    new_harness: NewHarness, limit: dict[str, Any], script: Mapping[str, str], reason: str
) -> None:
    harness = await new_harness(**limit)

    events = await harness.run(script)

    reasons, words = error_reasons_and_text(events)
    assert reasons == [reason]
    assert next(iter(limit)) in words
    assert data_of(events, "run_end") == [{"result": "rolled_back"}]
    await harness.goes_on(attempts=5)


@pytest.mark.parametrize("kind", PROGRAMS)
async def test_a_program_that_takes_no_input_ends_the_run(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = await new_harness()
    await harness.run(DEAF)
    async with asyncio.timeout(DEADLINE_S):
        while not await asyncio.to_thread((harness.home / "deaf").exists):
            await asyncio.sleep(0.01)

    with monkeypatch.context() as patch:
        patch.setattr("runtimed.execution.shell.shell.BEGIN_DEADLINE_S", 0.5)
        patch.setattr(LineProcess.write, "__defaults__", (0.5,))
        events = await harness.run({name: f"{script}\n#{'x' * (1 << 20)}" for name, script in HANG.items()})

    assert error_reasons_and_text(events)[0] == ["unresponsive"]
    assert data_of(events, "run_end") == [{"result": "rolled_back"}]
    await harness.goes_on()


@pytest.mark.parametrize("kind", ["shell"])
async def test_a_shell_that_takes_no_input_can_be_interrupted(new_harness: NewHarness, kind: Kind) -> None:
    harness = await new_harness()
    await harness.run(DEAF)
    async with asyncio.timeout(DEADLINE_S):
        while not await asyncio.to_thread((harness.home / "deaf").exists):
            await asyncio.sleep(0.01)
    after = await harness.begin(HANG)
    async with asyncio.timeout(DEADLINE_S):
        while await asyncio.to_thread(_contents, harness.home.parent / "scripts" / "script") != HANG["shell"]:
            await asyncio.sleep(0.01)

    async with asyncio.timeout(DEADLINE_S):
        await harness.runtime.interrupt_worker(harness.ref)

    assert data_of(await harness.events(after), "run_end") == [{"result": "rolled_back"}]
    await harness.goes_on()


@pytest.mark.parametrize("kind", PROGRAMS)
async def test_a_program_that_closes_its_output_ends_the_run(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = await new_harness()
    await harness.run(AGAIN)  # a program that has not begun has no output open either

    with monkeypatch.context() as patch:
        patch.setattr("runtimed.execution.processes.line_process.STDOUT_CHECK_S", 0.2)
        events = await harness.run(MUTE)

    if harness.kind == "shell":  # the output of a script is its own, and it ends as any other
        assert [data["exit_status"] for data in data_of(events, "tool_result")] == [0]
    else:
        assert error_reasons_and_text(events)[0] == ["unresponsive"]
        assert data_of(events, "run_end") == [{"result": "rolled_back"}]
    await harness.goes_on()


@pytest.mark.parametrize("kind", ["process"])
async def test_an_error_of_a_program_without_a_run_end_ends_its_run(new_harness: NewHarness, kind: Kind) -> None:
    harness = await new_harness()

    events = await harness.run(
        {"python": 'say("error", code="provider_error", message="it broke"); end = lambda: None'}
    )

    assert data_of(events, "error") == [{"code": "provider_error", "message": "it broke"}]
    assert data_of(events, "run_end") == [{"result": "rolled_back"}]
    assert harness.state == "idle"
    again = await harness.run({"python": 'text("again\\n"); say("run_end", result="finished")'})
    assert data_of(again, "run_end") == [{"result": "finished"}]


@pytest.mark.parametrize("kind", ["process"])
async def test_what_a_program_says_behind_its_error_puts_off_the_end(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    monkeypatch.setattr("runtimed.execution.process.driver.RUN_END_S", 1.5)
    harness = await new_harness()

    events = await harness.run(
        {
            "python": 'say("error", code="tool_error", message="it broke")\n'
            'for _ in range(6): time.sleep(0.3); text("mending ")'
        }
    )

    assert text_of(events) == "mending " * 6
    assert [event["event"] for event in events[-2:]] == ["error", "run_end"]
    assert data_of(events, "run_end") == [{"result": "finished"}]


async def test_a_spawn_that_hangs_is_given_up_after_start_timeout_s(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.execution.session.backend.START_MARGIN_S", 0.0)
    harness = await new_harness(created=False, start_timeout_s=0.5)
    harness.folders.blocked = True

    async with asyncio.timeout(DEADLINE_S):
        await harness.create()

    result = harness.result
    assert (result.operation, result.outcome) == ("spawn", "errored")
    assert "start_timeout_s" in (result.message or "")
    harness.folders.blocked = False
    harness.folders.freed.set()
    monkeypatch.undo()
    async with asyncio.timeout(DEADLINE_S):
        while harness.state != "idle":  # an agent may take longer than start_timeout_s on a slow machine
            with contextlib.suppress(WorkerExecutionUnavailable):
                await harness.runtime.restore_worker(harness.ref)


@pytest.mark.parametrize("kind", PROGRAMS)
async def test_a_folder_that_does_not_answer_at_the_beginning_of_a_run_does_not_hold_it_up(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = await new_harness()
    await harness.run(AGAIN)
    await asyncio.to_thread(shutil.rmtree, harness.home)
    harness.folders.blocked = True

    with monkeypatch.context() as patch:
        patch.setattr("runtimed.execution.workspace.FOLDER_DEADLINE_S", 0.3)
        events = await harness.run(AGAIN)

    reasons, words = error_reasons_and_text(events)
    assert "its file system did not answer within 0.3 s" in words
    ended = {"shell": ([None], "rolled_back")}.get(harness.kind, ([], "finished"))
    assert (reasons, data_of(events, "run_end")) == (ended[0], [{"result": ended[1]}])
    harness.folders.blocked = False
    harness.folders.freed.set()
    await harness.goes_on()


@pytest.mark.parametrize(
    ("limit", "script", "words"),
    [
        ({}, {"shell": "exit 3", "python": "os._exit(3)"}, "status 3"),
        ({}, {"shell": "kill -KILL $$", "python": "os.kill(os.getpid(), signal.SIGKILL)"}, "ended by SIGKILL"),
        ({"max_output_bytes": 100_000}, FLOOD, "max_output_bytes"),
        ({"max_run_s": 4.0}, HANG, "max_run_s"),
    ],
    ids=["exit", "kill", "output", "timeout"],
)
async def test_a_worker_whose_program_is_never_started_again_is_lost_with_it_and_can_be_restored(
    new_harness: NewHarness, limit: dict[str, Any], script: Mapping[str, str], words: str
) -> None:
    harness = await new_harness(restart="never", **limit)
    await harness.run(script)
    await harness.until("errored")

    with pytest.raises(WorkerExecutionUnavailable, match=words):
        await harness.begin(AGAIN)
    await harness.runtime.restore_worker(harness.ref)

    await harness.goes_on()


async def test_a_program_that_an_interrupt_has_killed_is_lost_where_it_is_never_to_be_started_again(
    new_harness: NewHarness,
) -> None:
    harness = await new_harness(restart="never")
    after = await harness.begin({"shell": "trap '' INT; echo x; sleep 1000", "python": 'text("x"); hang()'})
    async with asyncio.timeout(DEADLINE_S):
        while not text_of(await harness.events(after)):
            await asyncio.sleep(0.01)
        await harness.runtime.interrupt_worker(harness.ref)
        while harness.state != "errored":
            await asyncio.sleep(0.01)

    assert data_of(await harness.events(after), "run_end") == [{"result": "rolled_back"}]
    with pytest.raises(WorkerExecutionUnavailable):
        await harness.begin(AGAIN)
    await harness.runtime.restore_worker(harness.ref)

    await harness.goes_on()


async def test_a_program_that_ends_is_always_there_again(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.core.services.restarts.FIRST_DELAY_S", 0.05)
    harness = await new_harness(restart="always")
    await harness.run({"shell": "exit 3", "python": "os._exit(3)"})
    async with asyncio.timeout(DEADLINE_S):
        while harness.state != "idle":
            await asyncio.sleep(0.01)
    await harness.goes_on()


async def test_alerts_tell_how_long_nothing_was_heard_ever_more_seldom(new_harness: NewHarness) -> None:
    harness = await new_harness(quiet_alert_s=1.0)
    after = await harness.begin(HANG)
    async with asyncio.timeout(DEADLINE_S):
        while len(data_of(await harness.events(after), "alert")) < 2:
            await asyncio.sleep(0.01)
    words = [data["message"] for data in data_of(await harness.events(after), "alert")]
    assert words[:2] == [f"the run has emitted nothing for {seconds} s (quiet_alert_s)" for seconds in ("1", "2")]
    await harness.runtime.interrupt_worker(harness.ref)
    await harness.goes_on()


@pytest.mark.parametrize("kind", PROGRAMS)
async def test_a_run_that_says_something_now_and_then_is_not_silent(new_harness: NewHarness) -> None:
    harness = await new_harness(max_silence_s=2.0, quiet_alert_s=2.0)
    events = await harness.run(
        {
            "shell": "for n in $(seq 12); do echo $n; sleep 0.25; done",
            "python": 'for n in range(12): text("x"); time.sleep(0.25)',
        }
    )
    assert data_of(events, "run_end") == [{"result": "finished"}]
    assert error_reasons_and_text(events) == ([], "")


@pytest.mark.parametrize("kind", ["acp"])
@pytest.mark.parametrize(
    "sign",
    [
        'update({"sessionUpdate": "tool_call_update", "toolCallId": "c", "content": []})',
        'call("fs/read_text_file", {"path": "/nowhere"})',
        'call("terminal/output", {"terminalId": "none"})',
    ],
)
async def test_an_agent_is_not_silent_that_does_what_makes_no_event(
    new_harness: NewHarness, kind: Kind, sign: str
) -> None:
    harness = await new_harness(max_silence_s=2.0, quiet_alert_s=2.0)

    events = await harness.run(
        {
            "python": 'update({"sessionUpdate": "tool_call", "toolCallId": "c", "title": "make"})\n'
            f"for _ in range(12): {sign}; time.sleep(0.25)"
        }
    )

    assert data_of(events, "run_end") == [{"result": "finished"}]
    assert error_reasons_and_text(events) == ([], "")


@pytest.mark.parametrize("kind", PROGRAMS)
async def test_variables_that_a_profile_names_are_handed_on(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSED", "passed")
    monkeypatch.setenv("KEPT", "kept")
    monkeypatch.setenv("SAID", "of the daemon")
    harness = await new_harness(env_pass=("PASSED", "SAID", "NOT_THERE"), env={"SAID": "of the profile"})
    events = await harness.run(
        {
            "shell": 'echo "$PASSED $SAID ${KEPT-no} ${NOT_THERE-no}"',
            "python": 'names = "PASSED", "SAID", "KEPT", "NOT_THERE"\n'
            'text(" ".join(os.environ.get(name, "no") for name in names) + "\\n")',
        }
    )
    assert text_of(events) == "passed of the profile no no\n"


@pytest.mark.parametrize("kind", ["process", "acp"])
async def test_a_part_of_a_command_may_begin_at_home(new_harness: NewHarness, kind: Kind, user_folders: Path) -> None:
    home = user_folders / "home"
    await asyncio.to_thread((home / "python").symlink_to, sys.executable)
    await asyncio.to_thread((home / "program.py").write_text, PROGRAM)
    await asyncio.to_thread((home / "agent.py").write_text, AGENT.read_text())
    await asyncio.to_thread((home / "script.json").write_text, json.dumps(OBEY))
    arguments = ("~/program.py",) if kind == "process" else ("~/agent.py", "~/script.json")
    harness = await new_harness(command=("~/python", *arguments))
    await harness.goes_on()


async def test_a_function_that_says_error_and_goes_on_has_ended_its_run() -> None:
    async def fail(_: WorkerInput, sink: EventSink) -> None:
        await sink.emit(ErrorRaised("tool_error", "it broke"))
        await gone.wait()

    gone = asyncio.Event()
    async with Runtime(MemoryStore(), FunctionBackend(fail)) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        await runtime.send_input(ref, WorkerInput("user", "go"))

        async def until(name: str) -> list[str]:
            async with asyncio.timeout(DEADLINE_S):
                while name not in (
                    said := [json.loads(one.payload)["event"] for one in await runtime.events(ref, 0)]
                ):
                    await asyncio.sleep(0.01)
            return said

        assert await until("run_end") == ["user_message", "invoke_start", "error", "run_end"]
        gone.set()
        assert await until("alert") == ["user_message", "invoke_start", "error", "run_end", "alert"]
        await runtime.send_input(ref, WorkerInput("user", "go"))
