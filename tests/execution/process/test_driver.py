"""What a Worker says whose program speaks in lines."""

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from runtimed.core.ports import Dispatch, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import Entry
from runtimed.execution import Profile
from runtimed.execution.process.driver import ProcessBackend
from runtimed.execution.process.protocol import Reader
from runtimed.execution.processes.line_process import LineProcess
from runtimed.execution.processes.lines import Chunk
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.session.text_output import MAX_TEXT_BLOCK
from runtimed.execution.session.warnings import MAX_WARNINGS
from runtimed.model.event import (
    Alert,
    ErrorRaised,
    InvokeStart,
    Payload,
    RunEnd,
    SystemItem,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingDone,
    ThinkingStart,
    ToolCallStart,
    Usage,
)
from runtimed.model.identity import worker_id
from runtimed.model.interaction import InputKind, WorkerInput
from runtimed.model.permission import Question, Ruling
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store.data_dir import DataDir
from tests.execution.conftest import Traces

END = '{"event":"run_end","data":{"result":"finished"}}'
FINISHED = RunEnd("finished")
DEADLINE_S = 30.0


class RecordingSink:
    """A sink that remembers what it was told, and how the program was lost."""

    def __init__(self) -> None:
        self.events: list[Payload] = []
        self.lost: tuple[str, str] | None = None
        self.changed = asyncio.Condition()
        self.free = asyncio.Event()
        self.free.set()

    async def emit(self, *payloads: Payload) -> None:
        async with self.changed:
            self.events += payloads
            self.changed.notify_all()
        await self.free.wait()

    async def ask(self, question: Question) -> Ruling:
        raise AssertionError(f"a program of this kind asks for nothing: {question}")

    async def lose(self, reason: str, message: str) -> None:
        async with self.changed:
            self.lost = (reason, message)
            self.changed.notify_all()

    async def until(self, met: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S), self.changed:
            await self.changed.wait_for(met)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def alerts(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Alert)]

    @property
    def ends(self) -> int:
        return sum(isinstance(event, RunEnd) for event in self.events)


class Harness:
    """One Worker whose program is a bash script."""

    def __init__(self, folder: Path, supervisor: Supervisor, mark: str, profile: Profile) -> None:
        self.worker_id = worker_id(1)
        self.home = folder / "workers" / self.worker_id / "home"
        self.sink = RecordingSink()
        profile = attrs.evolve(profile, env={**profile.env, "TRACE": mark})
        self.backend = ProcessBackend(profile, DataDir(folder), supervisor)
        self.inputs = 0

    async def spawn(self, **options: Any) -> BackendAnswer:
        self.sink = RecordingSink()
        return await self.backend.spawn(Spawn(self.worker_id, CreateWorkerRequest(), **options), self.sink)

    async def offer(self, content: str = "go", kind: InputKind = "user") -> BackendAnswer:
        self.inputs += 1
        dispatch = Dispatch(self.worker_id, f"input-{self.inputs}", WorkerInput(kind, content))
        return await self.backend.dispatch(dispatch)

    async def begin(self, content: str = "go", kind: InputKind = "user") -> None:
        assert await self.offer(content, kind) == BackendAnswer("accepted")
        self.backend.start(self.worker_id, f"input-{self.inputs}")

    async def run(self, content: str = "go", kind: InputKind = "user") -> list[Payload]:
        heard, ends = len(self.sink.events), self.sink.ends
        await self.begin(content, kind)
        await self.sink.until(lambda: self.sink.ends > ends)
        return self.sink.events[heard:]

    async def loses(self) -> tuple[str, str]:
        await self.sink.until(lambda: self.sink.lost)
        assert self.sink.lost is not None
        return self.sink.lost


NewHarness = Callable[..., Harness]
Started = Callable[..., Awaitable[Harness]]


@pytest.fixture
async def new_harness(tmp_path: Path, traces: Traces) -> AsyncIterator[NewHarness]:
    """Makes a Worker of a program that is not started yet; in the end nothing of it may be left."""
    supervisor = Supervisor()
    made: list[Harness] = []

    def new(script: str = "", *, command: tuple[str, ...] = (), **options: Any) -> Harness:
        profile = Profile("process", command or ("bash", "-c", script), **options)
        made.append(Harness(tmp_path, supervisor, traces.mark, profile))
        return made[-1]

    yield new
    for harness in made:
        await harness.backend.close()
    assert await traces.pids() == []
    await supervisor.close()


@pytest.fixture
def started(new_harness: NewHarness) -> Started:
    """The same, started."""

    async def start(script: str, **options: Any) -> Harness:
        harness = new_harness(script, **options)
        assert await harness.spawn() == BackendAnswer("accepted")
        return harness

    return start


def replying(*lines: str) -> str:
    """A script that answers each input with these lines, and then ends the run."""
    said = "\n".join((*lines, END))
    return f"while read -r line; do cat <<'REPLY'\n{said}\nREPLY\ndone"


def event(kind: str, **data: Any) -> str:
    return json.dumps({"event": kind, "data": data} if data else {"event": kind})


async def test_a_program_gets_its_inputs_as_lines_and_is_told_of_a_stop(started: Started) -> None:
    harness = await started(f"while read -r line; do echo \"$line\" >>heard; echo '{END}'; done")
    await harness.run('say "é"\nand go')
    await harness.run("be nice", "system")
    await harness.backend.stop(harness.worker_id, "enough")
    heard = [json.loads(line) for line in (await asyncio.to_thread((harness.home / "heard").read_text)).splitlines()]
    assert heard == [
        {"type": "input", "kind": "user", "content": 'say "é"\nand go', "input_id": "input-1"},
        {"type": "input", "kind": "system", "content": "be nice", "input_id": "input-2"},
        {"type": "stop"},
    ]


async def test_events_come_through_as_they_are(started: Started) -> None:
    lines = [
        event("thinking_start"),
        event("thinking_delta", text="hm"),
        event("thinking_done", text="hm"),
        event("tool_call_start", id="1", name="look"),
        event("usage", input_tokens=1, output_tokens=None),
        event("system_item", item={"kind": "plan", "steps": [1, None, {"a": 0.5}]}),
        "  " + event("text_done", text="the answer") + " \r",
    ]
    harness = await started(replying(*lines))
    assert await harness.run() == [
        InvokeStart("user_send"),
        ThinkingStart(),
        ThinkingDelta("hm"),
        ThinkingDone("hm"),
        ToolCallStart("1", "look"),
        Usage(1, None),
        SystemItem({"kind": "plan", "steps": [1, None, {"a": 0.5}]}),
        TextDone("the answer"),
        FINISHED,
    ]


async def test_a_system_input_begins_its_run_as_a_notification(started: Started) -> None:
    harness = await started(replying())
    assert await harness.run("wake up", "system") == [InvokeStart("notify"), FINISHED]


async def test_lines_that_are_no_json_objects_are_text_and_closed_with_the_run(started: Started) -> None:
    lines = ["hello", "", "123", "[1, half", '"quoted"', "{not json", "{", '{"event":1} trailing', "true", "bye\r"]
    harness = await started(replying(*lines))
    text = "\n".join(lines) + "\n"
    assert await harness.run() == [InvokeStart("user_send"), TextDelta(text), TextDone(text), FINISHED]


@pytest.mark.parametrize("front", ["50% done", "héllo ", '{"event": "run_end"} ', '{"data":', "[1] {", "{" * 1_000])
async def test_text_before_an_event_in_one_line_is_that_text_and_then_that_event(
    started: Started, front: str
) -> None:
    harness = await started(replying(front + event("usage", input_tokens=1, output_tokens=2), "text"))
    events = await harness.run()
    assert events[1] == TextDelta(front)
    assert isinstance(events[2], Alert)
    assert events[3:] == [Usage(1, 2), TextDelta("text\n"), TextDone(front + "text\n"), FINISHED]


async def test_text_before_an_event_may_end_the_run_and_is_told_once(started: Started) -> None:
    harness = await started(f"while read -r; do printf 'done%s\\n' '{END}'; done")
    events = await harness.run()
    again = await harness.run()

    assert events[:2] == [InvokeStart("user_send"), TextDelta("done")]
    assert events[3:] == [TextDone("done"), FINISHED]
    assert harness.sink.alerts == [
        "text came before an event on the same line: done: expected events as JSON objects, each on a line of its own"
    ]
    assert again == [InvokeStart("user_send"), TextDelta("done"), TextDone("done"), FINISHED]


@pytest.mark.parametrize(
    "line",
    [
        f"text {END} more",
        f"text [{END}]",
        f'text {{"said": {END}}}',
        'text {"event":"dance"}',
        'text {"event":"text_delta","data":{"text":1}}',
        'text {"event":"user_message","data":{"segments":[]}}',
        "text " + '{"event":' * 20 + "1" + "}" * 20,
    ],
)
async def test_text_around_what_is_no_whole_event_is_text(started: Started, line: str) -> None:
    harness = await started(replying(line))
    assert await harness.run() == [
        InvokeStart("user_send"),
        TextDelta(line + "\n"),
        TextDone(line + "\n"),
        FINISHED,
    ]


@pytest.mark.parametrize("line", ['{"event"', '{"event":', "{", '{"event":"a"}', "[", '{"data":{', "[{", "\xef"])
async def test_the_time_for_a_line_grows_no_faster_than_the_line(line: str) -> None:
    def seconds(size: int) -> float:
        written = line.encode("latin-1") * (size // len(line)) + b'"event"}\n'
        began = time.process_time()
        list(Reader().read(Chunk(written)))
        return time.process_time() - began

    assert min(seconds(4 << 20) for _ in range(3)) < 3 * min(seconds(2 << 20) for _ in range(3)) + 0.05


async def test_a_byte_order_mark_is_taken_off_text_and_events(started: Started) -> None:
    harness = await started(
        f"mark='\\xef\\xbb\\xbf'; read -r; printf \"${{mark}}hello\\n$mark%s\\n\" '{END}'; read -r"
    )
    assert await harness.run() == [InvokeStart("user_send"), TextDelta("hello\n"), TextDone("hello\n"), FINISHED]


async def test_a_byte_order_mark_before_the_first_event_is_taken_off(started: Started) -> None:
    harness = await started(f"read -r; printf '\\xef\\xbb\\xbf'; sleep 0.5; echo '{END}'; read -r")
    assert await harness.run() == [InvokeStart("user_send"), FINISHED]


@pytest.mark.parametrize(
    ("lines", "kind", "quoted"),
    [
        ([f"[{END}]"], "an array", f"[{END}]"),
        (["[1, 2]"], "an array", "[1, 2]"),
        (["[", '  {"event": "run_end"},', "]"], "an array", "[ {"),
        (json.dumps(json.loads(END), indent=2).splitlines(), "an object on several lines", '{ "event": "run_end"'),
        (['{"event": "run_end", "data": {', '"result": "finished"}}'], "an object on several lines", '{"event"'),
    ],
)
async def test_an_array_or_a_pretty_printed_object_is_text_and_told_with_its_beginning(
    started: Started, lines: list[str], kind: str, quoted: str
) -> None:
    harness = await started(replying(*lines, *lines, *["more"] * 3))
    for _ in range(2):
        events = await harness.run()
        alerts = [said.message for said in events if isinstance(said, Alert)]
        assert len(alerts) == 1
        assert alerts[0].startswith(f"{kind} was read as text: {quoted}")
        assert events[-2:] == [TextDone("\n".join((*lines, *lines, *["more"] * 3)) + "\n"), FINISHED]


@pytest.mark.parametrize("line", ["[INFO] started", "[", "{", "[1", "[x]", "{ 'a': 1 }", "int main() {"])
async def test_text_with_brackets_is_not_told(started: Started, line: str) -> None:
    harness = await started(replying(line, "  more", "}"))
    assert [type(said) for said in await harness.run()] == [InvokeStart, TextDelta, TextDone, RunEnd]


async def test_a_line_that_has_not_ended_is_shown_and_what_follows_is_a_line_of_its_own(
    started: Started,
) -> None:
    harness = await started(
        f"read -r; printf 'name? '; while [ ! -e go ]; do sleep 0.01; done; echo '{END}'; read -r"
    )
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.text == "name? ")
    await asyncio.to_thread((harness.home / "go").touch)
    await harness.sink.until(lambda: harness.sink.ends)
    assert harness.sink.events[1:] == [TextDelta("name? "), TextDone("name? "), FINISHED]


@pytest.mark.parametrize("front", ["", "  ", "text"])
async def test_an_event_that_comes_slowly_is_not_shown_before_its_end(started: Started, front: str) -> None:
    half = len(END) // 2
    harness = await started(f"read -r; printf %s '{front}{END[:half]}'; sleep 0.7; echo '{END[half:]}'; read -r")
    events = await harness.run()
    assert [said for said in events if not isinstance(said, Alert)][-1] == FINISHED
    assert harness.sink.text.strip() == front.strip()


async def test_what_a_program_says_between_runs_is_a_text_of_its_own_at_once(started: Started) -> None:
    thought = event("thinking_delta", text="hm")
    harness = await started(f"printf 'early\\n%s\\nmore' '{thought}'; while read -r; do echo '{END}'; done")
    await harness.sink.until(lambda: len(harness.sink.events) == 7)
    assert harness.sink.events == [
        TextDelta("early\n"),
        ThinkingStart(),
        ThinkingDelta("hm"),
        TextDone("early\n"),
        ThinkingDone("hm"),
        TextDelta("more"),
        TextDone("more"),
    ]
    assert await harness.run() == [InvokeStart("user_send"), FINISHED]


async def test_an_input_is_accepted_once_what_was_printed_before_it_is_told(started: Started) -> None:
    harness = await started(f"printf %05000d 0; : >said; while read -r; do echo '{END}'; done")
    async with asyncio.timeout(DEADLINE_S):
        while not await asyncio.to_thread((harness.home / "said").exists):
            continue
    for _ in range(2):
        assert await harness.offer() == BackendAnswer("accepted")
        assert harness.sink.text == "0" * 5_000
        assert harness.sink.events[-1] == TextDone("0" * 5_000)
        harness.backend.withdraw(harness.worker_id, f"input-{harness.inputs}")
    assert await harness.run() == [InvokeStart("user_send"), FINISHED]


async def test_text_of_both_kinds_is_one_text(started: Started) -> None:
    harness = await started(replying("plain", event("text_delta", text="{in json}"), "plain again"))
    events = await harness.run()
    assert events[-2:] == [TextDone("plain\n{in json}plain again\n"), FINISHED]


async def test_a_text_that_the_program_has_ended_is_not_ended_again(started: Started) -> None:
    harness = await started(replying("one", event("text_done", text="one"), event("text_delta", text="two")))
    events = await harness.run()
    assert [said.text for said in events if isinstance(said, TextDone)] == ["one", "two"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{}", "event: required, but missing"),
        ('{"event":"dance"}', "event: expected one of user_message, "),
        ('{"event":"text_delta"}', "data: required, but missing"),
        ('{"event":"text_delta","data":{"text":1}}', "data.text: expected a string, got a number"),
        ('{"event":"text_delta","data":{"text":"a","more":1}}', "data.more: unknown field"),
        ('{"event":"text_delta","data":{"text":"a"},"at":1}', "at: unknown field"),
        ('{"event":"run_end","data":{"result":"great"}}', "data.result: expected one of finished, "),
        ('{"event":"user_message","data":{"segments":[]}}', "event: only the Runtime emits user_message"),
        ('{"event":"invoke_start","data":{"kind":"notify"}}', "event: only the Runtime emits invoke_start"),
        ('{"event":"shutdown"}', "event: only the Runtime emits shutdown"),
        ('{"event":"system_item","data":{"item":{}}}', "data.item.kind: expected a string"),
        (
            '{"event":"system_item","data":{"item":{"kind":"permission_request"}}}',
            "data.item.kind: only the Runtime emits permission_request",
        ),
        (
            '{"event":"system_item","data":{"item":{"kind":"embedded_worker_system_input"}}}',
            "data.item.kind: only the Runtime emits embedded_worker_system_input",
        ),
        (
            '{"event":"system_item","data":{"item":{"kind":"network_refused","host":"a"}}}',
            "data.item.kind: only the Runtime emits network_refused",
        ),
        (
            f'{{"event":"system_item","data":{{"item":{{"kind":"deep","in":{"[" * 200}{"]" * 200}}}}}}}',
            "nested too deeply: expected at most 64 levels",
        ),
    ],
)
async def test_an_object_that_is_not_accepted_is_told_and_the_run_goes_on(
    started: Started, line: str, problem: str
) -> None:
    harness = await started(replying(line, "and on"))
    events = await harness.run()
    assert [type(said) for said in events] == [InvokeStart, Alert, TextDelta, TextDone, RunEnd]
    [_, alert, *_] = events
    assert isinstance(alert, Alert)
    assert problem in alert.message
    assert (alert.level, alert.source) == ("warn", "worker")


async def test_a_program_that_talks_nonsense_is_complained_of_a_few_times_in_each_run(
    started: Started,
) -> None:
    harness = await started(replying(*["{}"] * 1_000))
    for _ in range(2):
        alerts = [said.message for said in await harness.run() if isinstance(said, Alert)]
        assert len(alerts) == MAX_WARNINGS + 1
        assert alerts[-1] == f"{1_000 - MAX_WARNINGS:,} more lines were left out in the same way"


async def test_an_error_does_not_end_the_run_and_comes_with_its_end(started: Started) -> None:
    errors = [event("error", code="tool_error", message=message) for message in ("first", "second")]
    harness = await started(replying(errors[0], "still here", errors[1]))
    events = await harness.run()
    assert [said.message for said in events if isinstance(said, Alert)] == ["the program reports an error: first"]
    assert events[-3:] == [TextDone("still here\n"), ErrorRaised("tool_error", "second"), FINISHED]


async def test_what_is_said_between_runs_is_heard_and_can_not_end_the_next(started: Started) -> None:
    error = event("error", code="internal", message="too early")
    harness = await started(f"printf '%s\\n' early '{END}' '{error}'; read -r; echo late; read -r")
    await harness.sink.until(lambda: len(harness.sink.events) == 3)
    assert harness.sink.events[0] == TextDelta("early\n")
    assert harness.sink.alerts == [
        "the program wrote this outside of a run: run_end",
        "the program wrote this outside of a run: error: too early",
    ]
    await harness.begin()
    await harness.sink.until(lambda: "late" in harness.sink.text)
    assert harness.sink.ends == 0
    assert harness.sink.events[3:5] == [TextDone("early\n"), InvokeStart("user_send")]
    assert (await harness.offer()).outcome == "busy"


async def test_a_long_text_is_cut_into_entries_of_bounded_size(started: Started) -> None:
    harness = await started(f"read -r; yes | head -c 3000000; echo; echo '{END}'; read -r")
    events = await harness.run()
    entries = [said.text for said in events if isinstance(said, TextDone)]
    assert "".join(entries) == "y\n" * 1_500_000 + "\n"
    assert max(map(len, entries)) <= MAX_TEXT_BLOCK


async def test_a_long_thought_is_cut_too(started: Started) -> None:
    thought = event("thinking_delta", text="x" * 10_000)
    start = event("thinking_start")
    script = f"read -r; echo '{start}'; for i in {{1..300}}; do echo '{thought}'; done; echo '{END}'; read -r"
    harness = await started(script)
    events = await harness.run()
    assert sum(len(said.text) for said in events if isinstance(said, ThinkingDone)) == 3_000_000
    bounds = [said.event for said in events if isinstance(said, ThinkingStart | ThinkingDone)]
    assert bounds == ["thinking_start", "thinking_done"] * 3


async def test_a_thought_that_the_program_does_not_begin_is_begun_once(started: Started) -> None:
    thought = event("thinking_delta", text="hm")
    harness = await started(f"while read -r; do echo '{thought}'; echo 'so'; echo '{thought}'; echo '{END}'; done")
    for _ in range(2):
        bounds = [said for said in await harness.run() if isinstance(said, ThinkingStart | ThinkingDone)]
        assert bounds == [ThinkingStart(), ThinkingDone("hmhm")]


async def test_a_line_without_end_is_text_and_the_run_ends_all_the_same(started: Started) -> None:
    harness = await started(f"read -r; head -c 20000000 /dev/zero; echo; echo '{END}'; read -r")
    await harness.run()
    assert harness.sink.text == "\0" * 20_000_000 + "\n"


async def test_bytes_that_are_no_text_are_replaced(started: Started) -> None:
    harness = await started(f"read -r; printf 'a\\377b\\000c\\033[1m\\303\\251\\n'; echo '{END}'; read -r")
    await harness.run()
    assert harness.sink.text == "a\ufffdb\0c\x1b[1mé\n"


async def test_a_program_waits_while_nobody_takes_its_output(started: Started) -> None:
    harness = await started("read -r; for i in {1..5000}; do printf '%010000d\\n' $i; echo $i >count; done; read -r")
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.text)
    harness.sink.free.clear()
    before, now = "", ""
    async with asyncio.timeout(DEADLINE_S):
        while not now or before != now:
            before, now = now, await asyncio.to_thread(_contents, harness.home / "count")
            await asyncio.sleep(0.3)
    assert int(now) < 5_000


def _contents(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def test_a_program_that_ends_is_lost_with_its_output_before(started: Started) -> None:
    harness = await started("read -r; echo last words; echo trouble >&2; exit 3")
    await harness.begin()
    reason, message = await harness.loses()
    assert reason == "exit"
    assert message == "the program ended with status 3; stderr: trouble"
    assert harness.sink.events[-1] == TextDone("last words\n")
    assert await harness.offer() == BackendAnswer("errored", "nothing runs this Worker")


async def test_an_error_that_was_held_is_told_when_the_program_ends(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.execution.process.driver.RUN_END_S", 30.0)
    harness = await started(f"read -r; echo '{event('error', code='internal', message='no model')}'; exit 1")
    await harness.begin()
    await harness.loses()
    assert harness.sink.alerts == ["the program reports an error: no model"]


async def test_a_program_that_dies_between_runs_is_lost_too(started: Started) -> None:
    harness = await started("kill -SEGV $$")
    reason, message = await harness.loses()
    assert reason == "exit"
    assert message.startswith("the program was ended by SIGSEGV")


async def test_a_grandchild_that_holds_the_pipe_does_not_hide_the_end(started: Started, traces: Traces) -> None:
    harness = await started("(trap '' TERM HUP; setsid sleep 1000) & exit 0")
    assert (await harness.loses())[0] == "exit"
    assert await traces.pids() == []


async def test_a_lost_worker_may_be_spawned_again_and_is_told_that_all_is_new(started: Started) -> None:
    harness = await started("read -r; echo hello; exit")
    await harness.begin()
    await harness.loses()
    history = (Entry(harness.worker_id, 1, "user", "go", 1, 1),)
    assert await harness.spawn(history=history) == BackendAnswer("accepted")
    await harness.sink.until(lambda: harness.sink.alerts)
    assert harness.sink.alerts == ["the program was started again without its earlier state"]
    await harness.begin()
    await harness.loses()
    assert "hello\n" in harness.sink.text


HOG = f"""read -r; {sys.executable} -c "import time; x = b'x' * (300 << 20); time.sleep(1000)"; exit $?"""


@pytest.mark.parametrize(
    ("script", "limits", "reason", "setting"),
    [
        (HOG, {"max_memory_bytes": 100 << 20}, "oom", "max_memory_bytes"),
        (
            "read -r; for i in {1..40}; do sleep 1000 & done; wait",
            {"max_processes": 20},
            "processes",
            "max_processes",
        ),
        ("read -r; while :; do :; done", {"max_cpu_s": 0.3}, "cpu", "max_cpu_s"),
        ("read -r; yes", {"max_output_bytes": 100_000}, "output", "max_output_bytes"),
        ("read -r; sleep 1000", {"max_run_s": 0.3}, "timeout", "max_run_s"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isalpha() else "",
)
async def test_a_program_that_meets_a_limit_is_lost_for_it(
    started: Started, script: str, limits: dict[str, Any], reason: str, setting: str
) -> None:
    harness = await started(script, **limits)
    await harness.begin()
    found, message = await harness.loses()
    assert found == reason
    assert setting in message


async def test_the_limits_of_a_run_begin_anew_with_each(started: Started) -> None:
    script = f"while read -r; do yes | head -c 60000; sleep 0.3; echo '{END}'; done"
    harness = await started(script, max_output_bytes=100_000, max_run_s=20, max_cpu_s=20)
    for _ in range(4):
        assert (await harness.run())[-1] == FINISHED


async def test_a_program_that_does_not_read_is_lost(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LineProcess.write, "__defaults__", (0.2,))
    harness = await started("sleep 1000")
    await harness.begin("x" * 1_000_000)
    reason, message = await harness.loses()
    assert reason == "unresponsive"
    assert message == "the program read no input for 0.2 seconds"


async def test_a_program_that_closes_its_output_and_lives_on_is_lost(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.execution.processes.line_process.STDOUT_CHECK_S", 0.2)
    harness = await started("echo up; read -r; echo all; exec >&-; read -r")
    await harness.sink.until(lambda: harness.sink.text)  # before it begins nothing has its output open
    await harness.begin()
    assert await harness.loses() == (
        "unresponsive",
        "the program was ended: it closed its output and kept running",
    )
    assert harness.sink.text == "up\nall\n"


async def test_a_program_that_heeds_an_interrupt_goes_on(started: Started) -> None:
    rolled_back = event("run_end", result="rolled_back")
    harness = await started(
        f"known=0; while read -r line; do case $line in *interrupt*) echo '{rolled_back}';; "
        f"*) known=$((known+1)); echo $known;; esac; done"
    )
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.text)
    assert await harness.backend.interrupt(harness.worker_id) == BackendAnswer("accepted")
    assert [type(said) for said in harness.sink.events[-3:]] == [TextDone, Alert, RunEnd]
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.text.endswith("2\n"))


@pytest.mark.parametrize("script", ["trap '' TERM; sleep 1000; sleep 1000", "read -r; exit 5"], ids=["deaf", "dies"])
async def test_a_program_that_does_not_heed_an_interrupt_is_started_anew(started: Started, script: str) -> None:
    harness = await started(f"echo started; read -r; echo begun; {script}", stop_grace_s=0.2)
    await harness.begin()
    await harness.sink.until(lambda: "begun" in harness.sink.text)
    assert await harness.backend.interrupt(harness.worker_id) == BackendAnswer("accepted")
    new = [TextDelta("started\n"), TextDone("started\n")]  # of the new program, which may have spoken by now
    assert [said for said in harness.sink.events if said not in new][-1] == RunEnd("rolled_back")
    assert harness.sink.alerts == [
        "the run was interrupted and its program ended: it is started again without its earlier state"
    ]
    await harness.sink.until(lambda: harness.sink.text.count("started") == 2)
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.text.count("begun") == 2)


@pytest.mark.parametrize("command", ["no-such-program", "/opt/no-such-program"])
async def test_a_program_that_is_not_there_is_an_answer_that_names_it(
    new_harness: NewHarness, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await new_harness(command=(command,)).spawn()
    assert answer.outcome == "errored"
    assert answer.message == (
        "the program could not be started: "
        "command: 'no-such-program' does not exist: expected a program in PATH, or a path to one"
    )
    (logged,) = [record for record in caplog.records if "cannot start" in record.getMessage()]
    assert (vars(logged)["worker_id"], vars(logged)["program"]) == ("worker-00000001", "program")


@pytest.mark.parametrize("command", ["./contrib/no-such-program", "contrib/no-such-program"])
async def test_of_a_relative_path_that_is_not_there_it_is_told_from_where_it_goes(
    new_harness: NewHarness, command: str
) -> None:
    answer = await new_harness(command=(command,)).spawn()
    assert answer.message == (
        "the program could not be started: "
        "command: 'no-such-program' does not exist: a relative path starts in the Worker's own folder; "
        "expected an absolute one, or a program in PATH"
    )


async def test_a_program_that_is_not_executable_is_told_from_one_that_is_not_there(
    new_harness: NewHarness, tmp_path: Path
) -> None:
    script = tmp_path / "worker.py"
    script.write_text("#!/bin/sh\n")
    for command in (script, tmp_path):
        answer = await new_harness(command=(str(command),)).spawn()
        assert answer.message == (
            "the program could not be started: "
            f"command: '{command.name}' can't be run: expected a file that may be executed"
        )


async def test_a_program_lives_in_the_home_of_its_worker(started: Started) -> None:
    harness = await started(f"while read -r; do pwd; ls /proc/self/fd; echo '{END}'; done")
    await harness.run()
    assert harness.sink.text.split() == [str(harness.home), "0", "1", "2", "3"]


async def test_one_program_that_ends_leaves_the_other_workers_alone(started: Started) -> None:
    harness = await started("read -r line; case $line in *die*) exit 1;; *) echo alive; read -r;; esac")
    other = RecordingSink()
    assert await harness.backend.spawn(Spawn(worker_id(2), CreateWorkerRequest()), other) == BackendAnswer("accepted")
    await harness.begin("die")
    await harness.loses()
    await harness.backend.dispatch(Dispatch(worker_id(2), "one", WorkerInput("user", "live")))
    harness.backend.start(worker_id(2), "one")
    await other.until(lambda: other.text == "alive\n")
    assert other.lost is None


async def test_many_rounds_leave_no_descriptor_no_task_and_no_process(
    started: Started, traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "runtimed.execution.processes.resource_monitor.INTERVAL_S", 1_000.0
    )  # a canceled look still has a file open
    harness = await started(replying("hello"))
    held = []
    for _ in range(10):
        await harness.run()
        await harness.backend.stop(harness.worker_id, None)
        gc.collect()
        held.append((len(await asyncio.to_thread(os.listdir, "/proc/self/fd")), len(asyncio.all_tasks())))
        assert await harness.spawn() == BackendAnswer("accepted")
    assert held[-1] == held[0]
    await harness.backend.close()
    assert await traces.pids() == []
