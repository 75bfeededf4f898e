"""What the Runtime relies on, of whichever ExecutionBackend."""

import asyncio
import contextlib
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Literal

import attrs
import pytest

from runtimed.core.ports import Dispatch, EventSink, ExecutionBackend, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution import Profile, ProfileRegistry
from runtimed.execution.acp import AcpBackend
from runtimed.execution.echo import EchoBackend
from runtimed.execution.function import FunctionBackend
from runtimed.execution.process.driver import ProcessBackend
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.shell.driver import ShellBackend
from runtimed.model.event import InvokeStart, Payload, RunEnd, TextDelta, TextDone
from runtimed.model.execution import LossReason
from runtimed.model.identity import WorkerId, worker_id
from runtimed.model.interaction import WorkerInput
from runtimed.model.permission import Question, Ruling
from runtimed.model.worker import BuiltinProfile, CapabilityRequest, CreateWorkerRequest
from runtimed.store.data_dir import DataDir

DEADLINE_S = 30.0
ACCEPTED = BackendAnswer("accepted")
FIRST, SECOND, NOBODY = worker_id(1), worker_id(2), worker_id(99)

AGENT = Path(__file__).parents[1] / "execution" / "acp" / "agent.py"

Kind = Literal["echo", "function", "shell", "process", "acp"]

PROGRAM = """
import json, queue, sys, threading

def say(event, **data):
    print(json.dumps({"event": event, "data": data}), flush=True)

def listen():
    for line in sys.stdin:
        heard.put(json.loads(line))
    heard.put({"type": "stop"})

heard = queue.SimpleQueue()
threading.Thread(target=listen, daemon=True).start()
while (message := heard.get())["type"] != "stop":
    if message["type"] != "input":
        continue
    result = "finished"
    if message["content"].startswith("echo "):
        print(message["content"].removeprefix("echo "), flush=True)
    else:
        while heard.empty():
            print("again", flush=True)
            try:
                heard.put(heard.get(timeout=0.01))
            except queue.Empty:
                pass
        if heard.get()["type"] == "stop":
            break
        result = "rolled_back"
    say("run_end", result=result)
"""
"""Understands two scripts of this suite, as `_run` does."""


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
        return Ruling("cancelled")

    async def lose(self, reason: LossReason, message: str) -> None:
        raise AssertionError(f"a program was lost: {reason}, {message}")

    async def says(self, name: str) -> None:
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(lambda: name in self.names)

    def hold(self) -> None:
        self._free.clear()

    def free(self) -> None:
        self._free.set()

    @property
    def names(self) -> list[str]:
        return [event.event for event in self.events]

    async def ends(self, count: int = 1) -> None:
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(lambda: self.names.count("run_end") >= count)


@attrs.frozen
class Subject:
    """A backend, how to ask it for a Worker, and a mark that the environment of its programs carries."""

    backend: ExecutionBackend
    kind: Kind
    mark: str

    async def spawn(self, worker: WorkerId = FIRST) -> RecordingSink:
        sink = RecordingSink()
        profile = BuiltinProfile(f"builtin:{self.kind}")
        request = CreateWorkerRequest(profile=profile, requested_capabilities=(CapabilityRequest("shell"),))
        assert await self.backend.spawn(Spawn(worker, request), sink) == ACCEPTED
        return sink

    async def offer(self, input_id: str, worker: WorkerId = FIRST, content: str = "echo hello") -> BackendAnswer:
        return await self.backend.dispatch(Dispatch(worker, input_id, WorkerInput("user", content)))

    async def begin(self, input_id: str, worker: WorkerId = FIRST, content: str = "echo hello") -> None:
        assert await self.offer(input_id, worker, content) == ACCEPTED
        self.backend.start(worker, input_id)

    async def begin_endless(self, sink: RecordingSink, input_id: str, worker: WorkerId = FIRST) -> None:
        """Begin a run that does not end by itself, and wait until it speaks; echo has none."""
        await self.begin(input_id, worker, "while :; do echo again; sleep 0.01; done")
        await sink.says("text_delta")

    async def processes(self) -> int:
        return await asyncio.to_thread(self._count)

    def _count(self) -> int:
        return sum(self._ours(path) for path in Path("/proc").iterdir() if path.name.isdecimal())

    def _ours(self, process: Path) -> bool:
        try:
            return self.mark.encode() in (process / "environ").read_bytes()
        except OSError:
            return False


async def _run(message: WorkerInput, sink: EventSink) -> None:
    """Understands two scripts of this suite: `echo` is said back, anything else goes on until it is cut."""
    while not message.content.startswith("echo"):
        await sink.emit(TextDelta("again"))
        await asyncio.sleep(0.01)
    await sink.emit(TextDelta(message.content), TextDone(message.content))


def _make(name: str, kind: Kind, profile: Profile, folder: Path, supervisor: Supervisor) -> ExecutionBackend:
    if name == "registry":
        profiles = {f"builtin:{kind}": profile}
        return ProfileRegistry(profiles, workspaces=DataDir(folder), supervisor=supervisor)
    if kind == "shell":
        return ShellBackend(profile, DataDir(folder), supervisor)
    if kind == "process":
        return ProcessBackend(profile, DataDir(folder), supervisor)
    if kind == "acp":
        return AcpBackend(profile, DataDir(folder), supervisor)
    return EchoBackend() if kind == "echo" else FunctionBackend(_run)


@contextlib.asynccontextmanager
async def _subject(name: str, kind: Kind, folder: Path) -> AsyncIterator[Subject]:
    mark, supervisor = secrets.token_hex(8), Supervisor()
    backend = "echo" if kind == "function" else kind
    script = folder / "script.json"
    script.write_text('{"session/prompt": [[["obey"]]]}')
    command = (sys.executable, str(AGENT), str(script)) if kind == "acp" else (sys.executable, "-c", PROGRAM)
    profile = Profile(backend, command, env={"MARK": mark}, stop_grace_s=0.2)
    found = Subject(_make(name, kind, profile, folder, supervisor), kind, mark)
    yield found
    await found.backend.close()
    await supervisor.close()
    assert await found.processes() == 0


@pytest.fixture(
    params=[
        ("bare", "echo"),
        ("bare", "function"),
        ("bare", "shell"),
        ("bare", "process"),
        ("bare", "acp"),
        ("registry", "echo"),
        ("registry", "shell"),
        ("registry", "process"),
        ("registry", "acp"),
    ],
    ids=" ".join,
)
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    name, kind = request.param
    async with _subject(name, kind, tmp_path) as found:
        yield found


@pytest.fixture(
    params=[
        ("bare", "function"),
        ("bare", "shell"),
        ("bare", "process"),
        ("bare", "acp"),
        ("registry", "shell"),
    ],
    ids=" ".join,
)
async def endless(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    """One whose runs can go on for ever."""
    name, kind = request.param
    async with _subject(name, kind, tmp_path) as found:
        yield found


async def test_nothing_is_said_before_an_input_is_started(subject: Subject) -> None:
    sink = await subject.spawn()
    assert await subject.offer("one") == ACCEPTED
    await asyncio.sleep(0.05)
    assert sink.events == []
    subject.backend.start(FIRST, "one")
    await sink.ends()
    assert sink.events[0] == InvokeStart("user_send")


async def test_a_run_says_what_it_has_to_say_and_ends(subject: Subject) -> None:
    sink = await subject.spawn()
    await subject.begin("one")
    await sink.ends()
    assert sink.names[0] == "invoke_start"
    assert sink.names.index("text_delta") < sink.names.index("text_done") < sink.names.index("run_end")
    assert sink.events[-1] == RunEnd("finished")
    said = [event.text for event in sink.events if isinstance(event, TextDone)]
    assert "hello" in said[0]


async def test_a_withdrawn_input_never_runs_and_the_next_does(subject: Subject) -> None:
    sink = await subject.spawn()
    await subject.offer("one", content="echo forgotten")
    subject.backend.withdraw(FIRST, "one")
    subject.backend.start(FIRST, "one")
    await subject.begin("two", content="echo remembered")
    await sink.ends()
    assert sink.names.count("invoke_start") == 1
    assert "forgotten" not in str(sink.events)
    assert "remembered" in str(sink.events)


async def test_a_worker_is_busy_from_accepting_an_input_until_its_run_has_ended(subject: Subject) -> None:
    sink = await subject.spawn()
    await subject.offer("one")
    assert (await subject.offer("two")).outcome == "busy"
    sink.hold()
    subject.backend.start(FIRST, "one")
    await asyncio.sleep(0.05)
    assert (await subject.offer("three")).outcome == "busy"
    sink.free()
    await sink.ends()
    assert await subject.offer("four") == ACCEPTED


async def test_starting_or_withdrawing_something_else_changes_nothing(subject: Subject) -> None:
    sink = await subject.spawn()
    await subject.offer("one")
    subject.backend.start(FIRST, "other")
    subject.backend.withdraw(FIRST, "other")
    subject.backend.start(NOBODY, "one")
    subject.backend.withdraw(NOBODY, "one")
    assert (await subject.offer("two")).outcome == "busy"
    assert sink.events == []


async def test_many_inputs_run_one_after_another(subject: Subject) -> None:
    sink = await subject.spawn()
    for number in range(20):
        await subject.begin(f"input-{number}", content=f"echo number {number}")
        await sink.ends(number + 1)
    said = [event.text for event in sink.events if isinstance(event, TextDone)]
    assert [int(text.split()[-1]) for text in said] == list(range(20))


async def test_workers_do_not_hear_each_other(subject: Subject) -> None:
    first, second = await subject.spawn(FIRST), await subject.spawn(SECOND)
    await subject.begin("one", FIRST, "echo to the first")
    await subject.begin("one", SECOND, "echo to the second")
    await first.ends()
    await second.ends()
    assert "second" not in str(first.events)
    assert "first" not in str(second.events)


async def test_a_worker_is_spawned_only_once_at_a_time(subject: Subject) -> None:
    await subject.spawn()
    again = await subject.backend.spawn(
        Spawn(
            FIRST,
            CreateWorkerRequest(
                profile=BuiltinProfile(f"builtin:{subject.kind}"),
                requested_capabilities=(CapabilityRequest("shell"),),
            ),
        ),
        RecordingSink(),
    )
    assert again == BackendAnswer("rejected", "this Worker is running already")
    await subject.begin("one")


async def test_an_unknown_worker_takes_no_input(subject: Subject) -> None:
    assert await subject.offer("one", NOBODY) == BackendAnswer("errored", "nothing runs this Worker")


@pytest.mark.parametrize("way", ["stop", "cancel"])
async def test_ending_a_worker_may_be_repeated_and_is_harmless_for_an_unknown_one(subject: Subject, way: str) -> None:
    end: Callable[..., Awaitable[BackendAnswer]] = getattr(subject.backend, way)
    await subject.spawn()
    results = await asyncio.gather(*(end(FIRST, "reason") for _ in range(3)), end(NOBODY, None))
    assert results == [ACCEPTED] * 4
    assert await end(FIRST, None) == ACCEPTED
    assert (await subject.offer("one")).outcome == "errored"


@pytest.mark.parametrize("way", ["stop", "cancel"])
async def test_after_its_end_nothing_is_said_and_nothing_is_left_of_a_worker(subject: Subject, way: str) -> None:
    sink = await subject.spawn()
    sink.hold()
    await subject.begin("one", content="while :; do echo again; done")
    await getattr(subject.backend, way)(FIRST, None)
    sink.free()
    said = len(sink.events)
    assert await subject.processes() == 0
    await asyncio.sleep(0.05)
    assert len(sink.events) == said


async def test_an_interrupt_ends_the_run_and_the_worker_goes_on(endless: Subject) -> None:
    sink = await endless.spawn()
    await endless.begin_endless(sink, "one")
    assert await endless.backend.interrupt(FIRST) == ACCEPTED
    assert sink.names[-2:] == ["alert", "run_end"]
    assert sink.events[-1] == RunEnd("rolled_back")
    await endless.begin("two", content="echo and on")
    await sink.ends(2)
    assert sink.events[-1] == RunEnd("finished")
    assert "and on" in str(sink.events)


async def test_an_interrupted_run_says_nothing_after_its_end(endless: Subject) -> None:
    sink = await endless.spawn()
    await endless.begin_endless(sink, "one")
    assert await asyncio.gather(*(endless.backend.interrupt(FIRST) for _ in range(3))) == [ACCEPTED] * 3
    said = len(sink.events)
    await asyncio.sleep(0.05)
    assert len(sink.events) == said
    assert sink.names.count("run_end") == 1


async def test_an_interrupt_just_behind_the_start_ends_that_run(endless: Subject) -> None:
    sink = await endless.spawn()
    await endless.begin("one", content="sleep 1000")
    assert await endless.backend.interrupt(FIRST) == ACCEPTED
    assert sink.events[-1] == RunEnd("rolled_back")


async def test_an_interrupt_leaves_other_workers_alone(endless: Subject) -> None:
    first, second = await endless.spawn(FIRST), await endless.spawn(SECOND)
    await endless.begin_endless(first, "one", FIRST)
    await endless.begin_endless(second, "one", SECOND)
    await endless.backend.interrupt(FIRST)
    assert "run_end" not in second.names
    assert (await endless.offer("two", SECOND)).outcome == "busy"


async def test_a_stop_amid_an_interrupt_ends_both(endless: Subject) -> None:
    sink = await endless.spawn()
    await endless.begin_endless(sink, "one")
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(endless.backend.interrupt(FIRST), endless.backend.stop(FIRST, None))
    assert (await endless.offer("two")).outcome == "errored"


async def test_interrupting_where_nothing_runs_changes_nothing(subject: Subject) -> None:
    sink = await subject.spawn()
    assert await subject.backend.interrupt(FIRST) == ACCEPTED
    assert await subject.backend.interrupt(NOBODY) == ACCEPTED
    assert sink.events == []
    await subject.offer("one")
    assert await subject.backend.interrupt(FIRST) == ACCEPTED
    assert sink.events == []
    subject.backend.start(FIRST, "one")
    await sink.ends()
    assert sink.events[-1] == RunEnd("finished")


async def test_a_worker_may_be_spawned_again_after_it_was_ended(subject: Subject) -> None:
    await subject.spawn()
    await subject.begin("one")
    await subject.backend.stop(FIRST, None)
    sink = await subject.spawn()
    await subject.begin("two")
    await sink.ends()


async def test_close_ends_every_worker_and_may_be_repeated(subject: Subject) -> None:
    sinks = [await subject.spawn(worker_id(number)) for number in (1, 2, 3)]
    await subject.begin("one", FIRST, "sleep 1000")
    await subject.backend.close()
    said = [len(sink.events) for sink in sinks]
    assert await subject.processes() == 0
    await subject.backend.close()
    assert (await subject.offer("two", SECOND)).outcome == "errored"
    assert [len(sink.events) for sink in sinks] == said


async def test_nothing_but_the_test_is_left_running_after_close(subject: Subject) -> None:
    await subject.spawn()
    await subject.begin("one", content="sleep 1000")
    await subject.backend.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
