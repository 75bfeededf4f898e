"""What must hold of a Runtime at any time, and once it is at rest. Each check reads only what a client can."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import orjson

from runtimed.core.engine.worker_registry import WorkerFilter
from runtimed.core.state.change import EncodedEvent
from runtimed.errors import (
    CursorExpired,
    CursorUnknownOrExpired,
    UpstreamClosed,
    WorkerDeleted,
    WorkerNotFound,
)
from runtimed.model.event import RunEnd, Shutdown
from runtimed.model.identity import WorkerId, cursor_of
from runtimed.model.permission import Ruling
from runtimed.model.runtime import RuntimeEvent
from runtimed.model.transcript import TranscriptItem
from runtimed.model.worker import WorkerSummary
from runtimed.wire.converter import encode
from runtimed.wire.frames import event_name
from tests.properties.harness import PATIENCE_S, UNKNOWN, Harness, busy_workers
from tests.properties.model import Story, behind, decoded, is_cut, is_refusal
from tests.properties.watcher import Watcher

MANY = 1_000
TURNS = 100
"""The loop iterations before waiting gives threads time."""


async def settle(harness: Harness) -> None:
    """Wait until everything is at rest: the disk has room, requests are answered, output is stored.

    Work that a full disk put off has no task and no caller: only the mailboxes know of it.
    """
    life = harness.life
    life.valve.shut = life.valve.full = False
    life.valve.release()
    life.backend.may.set()
    for watcher in harness.watchers:
        watcher.flowing.set()
    await until(lambda: all(request.task.done() for request in harness.requests), lambda: harness.requests)
    await until(lambda: not busy_workers(), busy_workers)
    harness.collect()
    harness.adopt({worker.worker_id: worker.labels for worker in harness.runtime.workers()})
    for story in harness.present:
        story.connected = story.status == "running" and story.worker_id in life.backend.sinks
    settled = False
    while not settled:
        await until(lambda: not (busy_workers() or unrest(harness)), lambda: busy_workers() + unrest(harness))
        await asyncio.wait_for(
            asyncio.gather(*(mailbox.settled() for mailbox in harness.runtime._started.registry)), PATIENCE_S
        )
        settled = not (busy_workers() or unrest(harness))
    harness.disturbed = False


async def until(condition: Callable[[], object], why: Callable[[], object]) -> None:
    """Wait for a condition, with a deadline."""
    deadline, turns = time.monotonic() + PATIENCE_S, 0
    while not condition():
        assert time.monotonic() < deadline, f"this does not end: {why()}"
        turns += 1
        await asyncio.sleep(0 if turns < TURNS else 0.001)


def unrest(harness: Harness) -> list[str]:
    """Return what differs from the model."""
    shown = {worker.worker_id: worker for worker in harness.runtime.workers()}
    found = [problem for story in harness.present for problem in unrest_of(story, shown.get(story.worker_id))]
    found += [f"who asked for {title} was not told" for title, asking in ruled_on(harness) if not asking.done()]
    if harness.life.published != behind(harness.events, harness.life.first - 1):
        found.append("not all that is stored is published")
    lacking = [(watcher, missing(harness, watcher)) for watcher in harness.watchers if watcher.here]
    return found + [f"{watcher} has not seen {lost}" for watcher, lost in lacking if lost]


def unrest_of(story: Story, worker: WorkerSummary | None) -> Iterator[str]:
    """Yield how a Worker differs from its model, or None if it does not exist. The model may adopt an end."""
    name = story.worker_id
    if worker is None:
        story.deleted = story.may_go
        if not story.deleted:
            yield f"{name} is not there"
        return
    if story.may_end and worker.status != "running":
        story.status = worker.status
    if worker.status != story.status or (story.kept_end and worker.status == "running"):
        yield f"{name} is {worker.status}, not as in {story}"
    if worker.execution.run_state != run_state(story, worker) and not story.doubtful:
        yield f"{name} is {worker.execution}, not as in {story}"
    yield from unrest_in(story)


def unrest_in(story: Story) -> Iterator[str]:
    """Yield what the events of a Worker lack."""
    if story.status == "running" and story.connected and not story.tells_all_that_was_said():
        yield f"{story.worker_id} has said {story.said} and told {story.said_and_told()}"
    if story.status == "running" and story.connected and story.waiting() and not story.busy:
        yield f"{story.worker_id} has inputs that wait for nothing: {story.waiting()}"
    if story.status == "running" and story.cuts_told() != story.cuts:
        yield f"{story.worker_id} has {story.cuts_told()} runs that were cut, not {story.cuts}"
    if not story.connected and story.is_open():
        yield f"nothing runs {story.worker_id}, but its events say {story.activity().in_flight()}"


def run_state(story: Story, worker: WorkerSummary) -> str:
    if story.status != "running":
        return "stopped"
    if story.connected:
        return "busy" if story.busy or story.waiting() else "idle"
    return worker.execution.run_state if worker.execution.run_state in {"rejected", "errored"} else "unconnected"


# Observers


def shows(harness: Harness, watcher: Watcher, event: EncodedEvent) -> bool:
    """Return whether an observer must see an event."""
    if watcher.worker_id not in {None, event.worker_id} or event.sequence <= (watcher.began or 0):
        return False
    if not watcher.wired:
        return True
    labels = [set(story.labels.items()) for story in harness.stories if story.worker_id == event.worker_id]
    return (not watcher.names or event_name(event.payload) in watcher.names) and (
        not watcher.labels or any(watcher.labels <= found for found in labels)
    )


def deleted(harness: Harness) -> set[str]:
    return {story.worker_id for story in harness.stories if story.deleted or story.may_go}


def missing(harness: Harness, watcher: Watcher) -> list[int]:
    """Return the events that an observer should have seen by now."""
    gone = deleted(harness)
    return [
        event.sequence
        for event in behind(harness.events, watcher.place)
        if shows(harness, watcher, event) and event.worker_id not in gone
    ]


def check_watcher(harness: Harness, watcher: Watcher) -> None:
    """Check that an observer has seen each event once and in order. Events of a deleted Worker may be missing."""
    if watcher.visit is not None and watcher.visit.done() and not watcher.visit.cancelled():
        watcher.visit.result()
        check_end(harness, watcher)
    seen = {sequence for sequence, _, _ in watcher.seen}
    gone = deleted(harness) | ({r.story.worker_id for r in harness.requests if r.kind == "delete"})
    expected = [
        (event.sequence, event.worker_id, event.payload)
        for event in harness.events
        if event.sequence <= watcher.place
        and shows(harness, watcher, event)
        and (event.sequence in seen or event.worker_id not in gone)
    ]
    told = [(sequence, worker, payload) for sequence, worker, payload in watcher.seen]
    assert [event[:2] for event in told] == [event[:2] for event in expected], f"{watcher} has not seen it right"
    assert all(mine[2] == orjson.loads(theirs[2]) for mine, theirs in zip(told, expected, strict=True))
    for sequence, data in watcher.snapshots:
        check_snapshot(harness, story_of(harness, watcher.worker_id), sequence, data)
    watcher.snapshots.clear()


def story_of(harness: Harness, worker_id: WorkerId | None) -> Story:
    return next(story for story in harness.stories if story.worker_id == worker_id)


def check_end(harness: Harness, watcher: Watcher) -> None:
    """Check that the reason why a feed ended is true."""
    match watcher.ended:
        case CursorExpired():
            assert watcher.floor > watcher.place or watcher.worker_id in deleted(harness), "nothing was lost"
        case CursorUnknownOrExpired():
            assert watcher.floor > watcher.asked or watcher.asked > watcher.head
        case WorkerDeleted() | WorkerNotFound():
            assert watcher.worker_id in deleted(harness) or any(
                request.kind == "delete" and request.story.worker_id == watcher.worker_id
                for request in harness.requests
            )
        case UpstreamClosed():
            assert harness.life.closing
        case other:
            raise AssertionError(f"a feed ended with {other!r}")


# Reads


def check_snapshot(harness: Harness, story: Story, sequence: int, data: Any) -> None:
    """Check that a snapshot agrees with the events up to it."""
    activity, transcript = story.activity(sequence), story.transcript(sequence)
    newest = transcript[-harness.limits.max_transcript_projection_items :]
    told = [(item["role"], item["content"], item["cursor"]) for item in data["entries"]]
    entries = [(role, content, cursor_of(event)) for role, content, event in newest]
    assert told == entries, f"the snapshot of {story.worker_id} at {sequence} has {told}, not {entries}"
    assert [item["sequence"] for item in data["entries"]] == list(
        range(len(transcript) - len(newest) + 1, len(transcript) + 1)
    )
    assert data["status"] == activity.status
    expected = activity.in_flight()
    assert data.get("in_flight") == (orjson.loads(encode(expected)) if expected else None)
    assert data.get("permissions", []) == orjson.loads(encode(activity.permissions))


def check_now(harness: Harness) -> None:
    """Check what holds at any time."""
    harness.complain()
    for story in harness.stories:
        told = story.inputs()
        assert len(told) == len(set(told)), "an input was stored twice"
        assert not story.refused & set(told), "an input was refused and stored"
        assert story.acked.keys() <= set(told), "an acknowledged input is lost"
        assert all(told == time for told, time in story.alert_times()), "an alert has another time than its event"
        assert story.tells_what_was_said(), f"it was said {story.said}, it was told {story.payloads}"
        asked = [request.about for request in harness.requests if request.kind == "input"]
        assert set(told) <= story.acked.keys() | story.unanswered | set(asked), "an input is stored that is not due"
    for watcher in harness.watchers:
        check_watcher(harness, watcher)


async def check_at_rest(harness: Harness) -> None:
    """Check what holds at rest."""
    runtime = harness.runtime
    check_now(harness)
    shown = {worker.worker_id: worker for worker in runtime.workers()}
    assert list(shown) == sorted(story.worker_id for story in harness.present)
    for story in harness.stories:
        await (check_gone if story.deleted else check_worker)(harness, story)
    fleet = await retained(lambda: runtime.fleet_retained_after, runtime.all_events)
    gone = deleted(harness)
    assert [e for e in fleet[1] if e.worker_id not in gone] == [
        e for e in behind(harness.events, fleet[0]) if e.worker_id not in gone
    ]
    assert not {event.worker_id for event in fleet[1]} & {s.worker_id for s in harness.stories if s.deleted}
    check_summary(harness)
    await check_runtime_events(harness)
    for name, possible in harness.bundles.items():
        held = [bundle.digest for bundle in runtime.bundles() if bundle.id == name]
        assert set(held) <= possible
        assert UNKNOWN in possible or held == list(possible)


async def retained(
    floor: Callable[[], int], read: Callable[[int], Awaitable[Sequence[EncodedEvent]]]
) -> tuple[int, list[EncodedEvent]]:
    """Read everything that is retained, page by page, with the sequence before it. Trimming may go on."""
    while True:
        begin = after = floor()
        found: list[EncodedEvent] = []
        try:
            while page := await read(after):
                found += page
                after = page[-1].sequence
        except CursorExpired:
            assert floor() > begin, "nothing was trimmed"
        else:
            return begin, found


async def check_worker(harness: Harness, story: Story) -> None:
    """Check that every read of a Worker agrees with its events."""
    runtime, ref = harness.runtime, harness.ref(story)
    detail = runtime.worker(ref)
    assert detail.last_cursor == cursor_of(story.head)
    assert detail.labels == story.labels
    assert (detail.status == "running") == (not any(isinstance(p, Shutdown) for p in story.payloads))
    begin, found = await retained(lambda: runtime.retained_after(ref), lambda after: runtime.events(ref, after, 3))
    assert found == behind(story.told, begin), f"{ref} has other events than those that were told"
    transcript: list[TranscriptItem] = []
    start = 0
    while (page := await runtime.transcript(ref, start, 3)).items:
        transcript += page.items
        start += len(page.items)
    assert [(i.role, i.content, i.cursor) for i in transcript] == [
        (role, content, cursor_of(event)) for role, content, event in story.transcript()
    ]
    assert [item.sequence for item in transcript] == list(range(1, len(transcript) + 1))
    assert detail.transcript_len == len(transcript)
    if story.status == "running" and not story.doubtful:
        assert detail.queued_inputs == len(story.waiting()), "an input that was to wait is lost, or waits no more"
    check_asked(harness, story)
    places = {item.content: (item.sequence, item.cursor) for item in transcript if item.role != "assistant"}
    assert all(places[text] == (ack.transcript_sequence, ack.cursor) for text, ack in story.acked.items()), (
        "an acknowledgement named another place"
    )
    for sequence in {begin, story.head, *(event.sequence for event in found[-6:])}:
        try:
            envelope = await runtime.snapshot(ref, sequence)
        except CursorExpired:
            assert runtime.retained_after(ref) > sequence
        else:
            check_snapshot(harness, story, sequence, orjson.loads(encode(envelope))["payload"]["data"])
    if begin:
        for lost in (runtime.events(ref, begin - 1), runtime.snapshot(ref, begin - 1)):
            await raises(lost, CursorExpired)
    check_cuts(story)


def check_cuts(story: Story) -> None:
    """Check that each run that the Runtime cut is closed: its error is followed by a run_end."""
    payloads = story.payloads
    for position, payload in enumerate(payloads):
        if is_cut(payload) or is_refusal(payload):
            assert payloads[position + 1] == RunEnd("rolled_back")
        if isinstance(payload, Shutdown):
            assert position == len(payloads) - 1


def check_asked(harness: Harness, story: Story) -> None:
    """Check that open permission requests are pending, and that rulings agree with the events."""
    waiting = {one.title for one in harness.runtime.permissions(harness.ref(story))}
    assert waiting == {one.title for one in story.activity().permissions}
    told = story.rulings()
    for title, asking in ruled_on(harness):
        if title in told:
            assert (asking.result().outcome, asking.result().option_id) == told[title]


def ruled_on(harness: Harness) -> list[tuple[str, asyncio.Task[Ruling]]]:
    """Return the permission requests whose ruling is among the events."""
    told = {title for story in harness.stories for title in story.rulings()}
    return [(title, asking) for title, asking in harness.asking.items() if title in told]


async def check_gone(harness: Harness, story: Story) -> None:
    """Check that nothing is left of a deleted Worker."""
    runtime, ref = harness.runtime, harness.ref(story)
    for read in (runtime.events(ref, 0), runtime.snapshot(ref), runtime.transcript(ref)):
        await raises(read, WorkerNotFound)


async def raises(work: Awaitable[object], error: type[Exception]) -> None:
    try:
        await work
    except error:
        return
    raise AssertionError(f"expected {error.__name__}")


def check_summary(harness: Harness) -> None:
    """Check the counts of the summary, and that labels find the Workers that have them."""
    summary = harness.runtime.summary()
    status = [story.status for story in harness.present]
    assert summary.worker_count == len(status)
    assert summary.active_worker_count == status.count("running")
    assert summary.stopped_worker_count == status.count("stopped")
    assert summary.cancelled_worker_count == status.count("cancelled")
    for labels in ({"team": "a"}, {"team": "b"}):
        found = [worker.worker_id for worker in harness.runtime.workers(WorkerFilter(labels=labels))]
        assert found == sorted(story.worker_id for story in harness.present if labels.items() <= story.labels.items())


async def all_runtime_events(harness: Harness) -> list[RuntimeEvent]:
    """Read all runtime events page by page. Reads again if the oldest were removed meanwhile."""
    while True:
        found: list[RuntimeEvent] = []
        while page := await harness.runtime.runtime_events(found[-1].id if found else 0, 3):
            found += page
        if list(await harness.runtime.runtime_events(0, 1)) == found[:1]:
            return found


def unheard(harness: Harness, event: RuntimeEvent, heard: Sequence[tuple[str, str]]) -> bool:
    """Return whether a runtime event was stored with the deletion of its Worker, just before a crash."""
    lost = {story.worker_id for story in harness.stories if story.lost}
    return event.worker_id in lost and (event.cursor, event.worker_id) not in heard


async def check_runtime_events(harness: Harness) -> None:
    """Check that runtime events report every input and every end once and in order, except for the oldest."""
    found = await all_runtime_events(harness)
    ids = [event.id for event in found]
    assert ids == sorted(set(ids))
    assert not harness.gapless or not ids or ids == list(range(ids[0], ids[-1] + 1))
    expected = [
        (cursor_of(event.sequence), event.worker_id)
        for event in harness.events
        if isinstance(decoded(event.payload), Shutdown) or (Story(event.worker_id, {}, [event]).inputs())
    ]
    told = [event for event in found if event.cursor is not None and not unheard(harness, event, expected)]
    most = harness.limits.max_runtime_events
    assert len(found) >= min(most, len(expected) + len(harness.stories)), (
        f"of the runtime events that may be kept too many are gone: {found} are left"
    )
    forgotten = len(expected) - len(told) if most < MANY else 0
    assert [(event.cursor, event.worker_id) for event in told] == expected[forgotten:], (
        f"the runtime events are {found}, not those of {expected[forgotten:]}"
    )
    created = [event.worker_id for event in found if event.kind == "worker_created"]
    assert set(created) <= {story.worker_id for story in harness.stories}
    assert len(created) == len(set(created))
