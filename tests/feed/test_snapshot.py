"""The bound of a snapshot frame."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from runtimed.core import EventSink, Runtime
from runtimed.core.limits import MAX_SNAPSHOT_BYTES, Limits
from runtimed.feed import Feed
from runtimed.feed.encoding import Envelopes, ServerSentEvents, SocketMessages
from runtimed.feed.snapshot import FRAMING_BYTES, MIN_SNAPSHOT_BYTES, bounded
from runtimed.model.event import (
    RunEnd,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingStart,
    ToolCallArgsDelta,
    ToolCallStart,
)
from runtimed.model.identity import WorkerRef
from runtimed.model.interaction import WorkerInput
from runtimed.model.permission import PermissionOption, Question
from runtimed.model.worker import AssistantIntent, BuiltinProfile, CapabilityRequest, CreateWorkerRequest, TaskIntent
from runtimed.store.memory import MemoryStore
from runtimed.wire.converter import encode

from .conftest import FakeBackend, said, until, watching

BLOCK = 64 * 1024
CONTROLS = '\n"\\\x01é'
"""Characters that take more bytes in JSON, or in UTF-8."""


async def snapshot_of(runtime: Runtime, ref: WorkerRef, max_bytes: int = MAX_SNAPSHOT_BYTES) -> dict[str, Any]:
    """Return the data of a snapshot, after a check that every encoding keeps the bound."""
    shown = bounded(await runtime.snapshot(ref), max_bytes)
    for encoding in (Envelopes(), SocketMessages(), ServerSentEvents(chunked=True)):
        assert len(encoding.snapshot(shown)) <= max_bytes
    data: dict[str, Any] = json.loads(Envelopes().snapshot(shown))["payload"]["data"]
    return data


async def talking(
    runtime: Runtime, backend: FakeBackend, request: CreateWorkerRequest | None = None
) -> tuple[WorkerRef, EventSink]:
    """Create a Worker, and return it with its sink."""
    ref = (await runtime.create_worker(request or CreateWorkerRequest())).worker_ref
    return ref, backend.sinks[ref.worker_id]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
async def runtime(backend: FakeBackend) -> AsyncIterator[Runtime]:
    async with Runtime(MemoryStore(), backend) as running:
        yield running


@pytest.mark.parametrize("character", ["x", *CONTROLS])
@pytest.mark.parametrize("max_bytes", [MIN_SNAPSHOT_BYTES, MAX_SNAPSHOT_BYTES])
async def test_a_snapshot_holds_the_newest_entries_that_fit_each_of_them_whole(
    runtime: Runtime, backend: FakeBackend, character: str, max_bytes: int
) -> None:
    ref, sink = await talking(runtime, backend)
    for number in range(40):
        await sink.emit(TextDone(f"{number}:" + character * 5_000))
    await said(runtime, backend, [ref])

    entries = (await snapshot_of(runtime, ref, max_bytes))["entries"]

    transcript = await runtime.transcript(ref)
    whole = [(item.sequence, item.content, item.event_id) for item in transcript.items]
    shown = [(entry["sequence"], entry["content"], entry["event_id"]) for entry in entries]
    assert shown
    assert shown == whole[-len(shown) :]
    used = len(Envelopes().snapshot(bounded(await runtime.snapshot(ref), max_bytes)))
    older = transcript.items[: -len(shown)]
    assert not older or used + FRAMING_BYTES + len(encode(older[-1])) >= max_bytes


async def test_an_entry_that_does_not_fit_hides_earlier_entries_and_no_later_ones(
    runtime: Runtime, backend: FakeBackend
) -> None:
    ref, sink = await talking(runtime, backend)
    await sink.emit(TextDone("before"))
    await sink.emit(TextDone("x" * 600_000))
    await said(runtime, backend, [ref])
    assert (await snapshot_of(runtime, ref))["entries"] == []

    await sink.emit(TextDone("behind"))
    await said(runtime, backend, [ref])

    assert [entry["content"] for entry in (await snapshot_of(runtime, ref))["entries"]] == ["behind"]


async def test_each_open_block_keeps_its_newest_64_kib_and_is_marked_truncated(
    runtime: Runtime, backend: FakeBackend
) -> None:
    ref, sink = await talking(runtime, backend)
    text, thought, arguments = ("".join(f"{kind}{n}," for n in range(20_000)) for kind in "tha")
    await sink.emit(TextDelta(text), ThinkingStart(), ThinkingDelta(thought))
    await sink.emit(ToolCallStart("call", "tool"), ToolCallArgsDelta("call", arguments))
    await sink.emit(ToolCallStart("short", "tool"), ToolCallArgsDelta("short", "{}"))
    await said(runtime, backend, [ref])

    blocks = (await snapshot_of(runtime, ref))["in_flight"]["blocks"]

    assert [block.get("text", block.get("args")) for block in blocks] == [
        text[-BLOCK:],
        thought[-BLOCK:],
        arguments[-BLOCK:],
        "{}",
    ]
    assert [block.get("truncated") for block in blocks] == [True, True, True, None]


@pytest.mark.parametrize("character", ["x", *CONTROLS])
async def test_many_open_calls_never_make_a_snapshot_too_large_and_the_newest_are_shown(
    runtime: Runtime, backend: FakeBackend, character: str
) -> None:
    ref, sink = await talking(runtime, backend)
    for number in range(40):
        await sink.emit(ToolCallStart(f"{number}", "tool"), ToolCallArgsDelta(f"{number}", character * 70_000))
    await said(runtime, backend, [ref])

    blocks = (await snapshot_of(runtime, ref))["in_flight"]["blocks"]

    assert [block["id"] for block in blocks] == [f"{number}" for number in range(40 - len(blocks), 40)]
    assert all(block["truncated"] for block in blocks)
    size = len(character.encode())
    each = BLOCK // size * (len(json.dumps(character, ensure_ascii=False).encode()) - 2)
    assert len(blocks) == math.ceil(MAX_SNAPSHOT_BYTES / each)
    assert all(len(block["args"].encode()) == BLOCK // size * size for block in blocks[1:])


async def test_a_call_whose_name_does_not_fit_is_left_out_and_other_open_output_is_shown(
    runtime: Runtime, backend: FakeBackend
) -> None:
    ref, sink = await talking(runtime, backend)
    await sink.emit(ToolCallStart("before", "tool"), ToolCallArgsDelta("before", "{}"))
    await sink.emit(ToolCallStart("long", "n" * MIN_SNAPSHOT_BYTES), ToolCallArgsDelta("long", "{}"))
    await sink.emit(TextDelta("behind"))
    await said(runtime, backend, [ref])

    blocks = (await snapshot_of(runtime, ref, MIN_SNAPSHOT_BYTES))["in_flight"]["blocks"]

    assert [block.get("id", block.get("text")) for block in blocks] == ["before", "behind"]


@pytest.mark.parametrize("character", ["x", *CONTROLS, "\U0001f600"])
@pytest.mark.parametrize("max_bytes", [MIN_SNAPSHOT_BYTES, MAX_SNAPSHOT_BYTES])
async def test_a_snapshot_keeps_the_bound_when_every_part_is_at_its_longest(
    runtime: Runtime, backend: FakeBackend, character: str, max_bytes: int
) -> None:
    request = CreateWorkerRequest(
        TaskIntent("x" + character * 100_000),
        BuiltinProfile("builtin:x" + (character if character.isprintable() else '"') * 2_000),
        requested_capabilities=tuple(CapabilityRequest(f"{n}" + character * 100) for n in range(1_000)),
        name=(character if character.isprintable() else "n") * 128,
    )
    ref, sink = await talking(runtime, backend, request)
    for number in range(20):
        await sink.emit(TextDone(f"{number}:" + character * 5_000))
    await runtime.send_input(ref, WorkerInput("user", "go"))
    for number in range(20):
        await sink.emit(ToolCallStart(f"{number}" + character * 2_000, "tool" + character * 2_000))
        await sink.emit(ToolCallArgsDelta(f"{number}" + character * 2_000, character * 100_000))
    await sink.emit(ThinkingStart(), ThinkingDelta(character * 100_000), TextDelta(character * 100_000))
    option = PermissionOption("yes", "Yes", "allow_once")
    questions = [Question(character * 100_000, None, (option,), 60) for _ in range(20)]
    asked = [asyncio.ensure_future(sink.ask(question)) for question in questions]
    await until(lambda: len(runtime.permissions(ref)) == 20)

    shown = await snapshot_of(runtime, ref, max_bytes)

    assert shown["greeting"]["scope_summary"]
    assert len(shown["greeting"]["scope_summary"].encode()) <= 4_096
    assert shown["greeting"]["tools"]
    assert len(shown["permissions"]) == 20
    assert all(one["title"] for one in shown["permissions"])
    assert character in shown["in_flight"]["blocks"][-1].get("text", character)
    await sink.emit(RunEnd("finished"))
    await asyncio.gather(*asked)


async def test_a_greeting_shows_the_beginning_of_a_long_scope_and_only_the_first_tools(
    runtime: Runtime, backend: FakeBackend
) -> None:
    request = CreateWorkerRequest(
        AssistantIntent("é" * 100_000),
        requested_capabilities=tuple(CapabilityRequest(f"{number}" * 300) for number in range(1_000)),
    )
    ref, _ = await talking(runtime, backend, request)

    greeting = (await snapshot_of(runtime, ref))["greeting"]

    assert greeting["scope_summary"] == "é" * 2_048
    assert 0 < len(greeting["tools"]) < 1_000


async def test_long_permission_requests_are_shown_with_the_beginning_of_their_titles(
    runtime: Runtime, backend: FakeBackend
) -> None:
    ref, sink = await talking(runtime, backend)
    await sink.emit(TextDelta("x"))
    await runtime.send_input(ref, WorkerInput("user", "go"))
    option = PermissionOption("yes", "Yes", "allow_once")
    questions = [Question(f"{number} " + "y" * 50_000, None, (option,), 60) for number in range(20)]
    asked = [asyncio.ensure_future(sink.ask(question)) for question in questions]
    await until(lambda: len(runtime.permissions(ref)) == 20)

    permissions = (await snapshot_of(runtime, ref))["permissions"]

    assert [one["title"].split()[0] for one in permissions] == [f"{number}" for number in range(20)]
    assert all(one["options"] for one in permissions)
    await sink.emit(RunEnd("finished"))
    await asyncio.gather(*asked)


async def test_an_observer_is_written_a_snapshot_within_the_bound_that_is_set(backend: FakeBackend) -> None:
    limits = Limits(max_snapshot_bytes=MIN_SNAPSHOT_BYTES)
    async with Runtime(MemoryStore(), backend, limits=limits) as runtime:
        ref, sink = await talking(runtime, backend)
        for _ in range(10):
            await sink.emit(TextDone("x" * 20_000))
        await said(runtime, backend, [ref])
        async with watching(Feed(runtime), ref) as watcher:
            await watcher.read_until(lambda: watcher.envelopes)

            assert len(watcher.data) <= MIN_SNAPSHOT_BYTES
            assert len(watcher.envelopes[0]["payload"]["data"]["entries"]) == 3
