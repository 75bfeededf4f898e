"""The programs on the page about them, and those in contrib, are run as Workers and do what is said of them."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from runtimed.core import Runtime
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution import Profile, ProfileRegistry
from runtimed.feed import Feed
from runtimed.feed.reader import Reader
from runtimed.model.event import Alert, ErrorRaised, Payload, RunEnd, TextDelta, TextDone, ToolResult
from runtimed.model.identity import WorkerRef
from runtimed.model.interaction import InputKind, WorkerInput
from runtimed.model.worker import BuiltinProfile, CreateWorkerRequest
from runtimed.settings import load
from runtimed.store.data_dir import DataDir
from runtimed.store.memory import MemoryStore
from runtimed.wire.converter import encode_payload
from tests.docs.conftest import ReadPage

PAGE = "how-to/programs.md"
EXAMPLES = Path(__file__).parents[2] / "contrib" / "process"
DEADLINE_S = 30.0


class Worker:
    """A Worker that runs a program, and an observer of it."""

    def __init__(self, runtime: Runtime, backend: ProfileRegistry, reader: Reader, ref: WorkerRef) -> None:
        self.ref = ref
        self.backend = backend
        self._runtime = runtime
        self._events = reader.events()

    async def begin(self, content: str, kind: InputKind = "user") -> None:
        await self._runtime.send_input(self.ref, WorkerInput(kind, content))

    async def until(self, met: Callable[[Payload], object]) -> list[Payload]:
        heard: list[Payload] = []
        async with asyncio.timeout(DEADLINE_S):
            while not (heard and met(heard[-1])):
                heard.append((await anext(self._events)).payload)
        return heard

    async def run(self, content: str, kind: InputKind = "user") -> list[Payload]:
        await self.begin(content, kind)
        return await self.until(lambda event: isinstance(event, RunEnd))


NewWorker = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def new_worker(tmp_path: Path) -> AsyncIterator[NewWorker]:
    """Makes a Worker of a command, in a Runtime of its own."""
    async with contextlib.AsyncExitStack() as made:

        async def new(*command: str) -> Worker:
            profiles = {"builtin:mine": Profile("process", command, stop_grace_s=2)}
            backend = ProfileRegistry(profiles, workspaces=DataDir(tmp_path))
            made.push_async_callback(backend.close)
            runtime = await made.enter_async_context(Runtime(MemoryStore(), backend))
            worker = await runtime.create_worker(CreateWorkerRequest(profile=BuiltinProfile("builtin:mine")))
            assert worker.execution.run_state == "idle", worker.execution
            reader = made.enter_context(Feed(runtime).open(worker.worker_ref))
            return Worker(runtime, backend, reader, worker.worker_ref)

        yield new


def _text(events: list[Payload]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_the_smallest_program_leads_to_the_events_on_the_page(
    page: ReadPage, new_worker: NewWorker, tmp_path: Path
) -> None:
    guide = page(PAGE)
    program = tmp_path / "shout.py"
    await asyncio.to_thread(program.write_text, guide.blocks("python")[0])
    worker = await new_worker(sys.executable, str(program))
    said = [encode_payload(event).decode() for event in await worker.run("hello")]
    assert said == guide.blocks("")[0].splitlines()


def test_the_profile_on_the_page_is_accepted(page: ReadPage, tmp_path: Path) -> None:
    [example] = page(PAGE).blocks("toml")
    file = tmp_path / "config.toml"
    file.write_text(example)
    assert load({}, str(file)).profile_table() == {
        "builtin:shout": Profile("process", ("python3", "/opt/workers/shout.py"))
    }


async def test_the_notebook_keeps_notes_and_finds_them(new_worker: NewWorker) -> None:
    worker = await new_worker(str(EXAMPLES / "notebook.py"))
    assert _text(await worker.run("list")) == "no notes\n"
    for note in ("buy milk", "call Ann"):
        assert _text(await worker.run(note)) == "kept\n"
    assert TextDone("buy milk\ncall Ann\n") in await worker.run("list")
    found = await worker.run("find milk")
    assert [event.output for event in found if isinstance(event, ToolResult)] == ["buy milk"]
    assert _text(await worker.run("be nice", "system")) == "noted\n"


async def test_the_notebook_can_be_interrupted_while_it_counts(new_worker: NewWorker) -> None:
    worker = await new_worker(str(EXAMPLES / "notebook.py"))
    await worker.begin("count 1000")
    await worker.until(lambda event: isinstance(event, TextDelta))
    assert await worker.backend.interrupt(worker.ref.worker_id) == BackendAnswer("accepted")
    events = await worker.until(lambda event: isinstance(event, RunEnd))
    assert [event.message for event in events if isinstance(event, Alert)] == ["the run was interrupted"]
    assert events[-1] == RunEnd("rolled_back")
    assert (await worker.run("count 1"))[-1] == RunEnd("finished")


async def test_a_notebook_that_ends_by_itself_is_an_error_with_its_last_words(new_worker: NewWorker) -> None:
    worker = await new_worker(str(EXAMPLES / "notebook.py"))
    events = await worker.run("quit")
    [error] = [event for event in events if isinstance(event, ErrorRaised)]
    assert error.reason == "exit"
    assert error.message == "the program ended with status 1; stderr: I was asked to quit"


async def test_the_shell_script_reports_each_time_it_is_asked(new_worker: NewWorker) -> None:
    worker = await new_worker(str(EXAMPLES / "report.sh"))
    assert "asked: 1\n" in _text(await worker.run("how are you?"))
    second = await worker.run('"quoted" and\nin two lines')
    assert "load: " in _text(second)
    assert "asked: 2\n" in _text(second)
