"""What must hold of a Runtime at any time, and once it has come to rest. Each check reads only what a client can."""

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
from runtimed.model.identity import cursor_of
from runtimed.wire.converter import encode
from runtimed.wire.frames import event_name
from tests.properties.model import Story, behind, decoded, is_cut, is_refusal
from tests.properties.watcher import Watcher
from tests.properties.world import PATIENCE_S, UNKNOWN, World, works

MANY = 1_000
TURNS = 100
"""How often the loop turns before a thread is given time."""


async def settle(world: World) -> None:
    """Let everything come to rest: there is room, all that was asked is answered, all that was said is stored.

    What was put off by a full disk has no task and no caller any more: only the lanes know of it.
    """
    life = world.life
    life.valve.shut = life.valve.full = False
    life.valve.release()
    life.puppet.may.set()
    for watcher in world.watchers:
        watcher.flowing.set()
    await until(lambda: all(request.task.done() for request in world.requests), lambda: world.requests)
    await until(lambda: not works(), works)
    world.collect()
    world.adopt({worker.worker_id: worker.labels for worker in world.runtime.workers()})
    for story in world.present:
        story.connected = story.status == "running" and story.worker_id in life.puppet.sinks
    settled = False
    while not settled:
        await until(lambda: not (works() or unrest(world)), lambda: works() + unrest(world))
        await asyncio.wait_for(
            asyncio.gather(*(mailbox.settled() for mailbox in world.runtime._started.registry)), PATIENCE_S
        )
        settled = not (works() or unrest(world))
    world.disturbed = False


async def until(condition: Callable[[], bool], why: Callable[[], Any]) -> None:
    """Wait for something that is bound to happen."""
    deadline, turns = time.monotonic() + PATIENCE_S, 0
    while not condition():
        assert time.monotonic() < deadline, f"this does not end: {why()}"
        turns += 1
        await asyncio.sleep(0 if turns < TURNS else 0.001)


def unrest(world: World) -> list[str]:
    """What the model expects and is not so yet."""
    shown = {worker.worker_id: worker for worker in world.runtime.workers()}
    found = [problem for story in world.present for problem in unrest_of(story, shown.get(story.worker_id))]
    found += [f"who asked for {title} was not told" for title, asking in ruled_on(world) if not asking.done()]
    if world.life.published != behind(world.events, world.life.first - 1):
        found.append("not all that is stored is published")
    lacking = [(watcher, missing(world, watcher)) for watcher in world.watchers if watcher.here]
    return found + [f"{watcher} has not seen {lost}" for watcher, lost in lacking if lost]


def unrest_of(story: Story, worker: Any) -> Iterator[str]:
    """What is not so yet with a Worker, None where it is not there. Its story may learn of an end."""
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
    """What a Worker has not told yet."""
    if story.status == "running" and story.connected and not story.tells_all_that_was_said():
        yield f"{story.worker_id} has said {story.said} and told {story.said_and_told()}"
    if story.status == "running" and story.connected and story.waiting() and not story.busy:
        yield f"{story.worker_id} has inputs that wait for nothing: {story.waiting()}"
    if story.status == "running" and story.cuts_told() != story.cuts:
        yield f"{story.worker_id} has {story.cuts_told()} runs that were cut, not {story.cuts}"
    if not story.connected and story.is_open():
        yield f"nothing runs {story.worker_id}, but its events say {story.activity().in_flight()}"


def run_state(story: Story, worker: Any) -> str:
    if story.status != "running":
        return "stopped"
    if story.connected:
        return "busy" if story.busy or story.waiting() else "idle"
    return worker.execution.run_state if worker.execution.run_state in {"rejected", "errored"} else "unconnected"


# Observers


def shows(world: World, watcher: Watcher, event: EncodedEvent) -> bool:
    """Whether an event is one that this observer is to see."""
    if watcher.worker_id not in {None, event.worker_id} or event.sequence <= (watcher.began or 0):
        return False
    if not watcher.wired:
        return True
    labels = [set(story.labels.items()) for story in world.stories if story.worker_id == event.worker_id]
    return (not watcher.names or event_name(event.payload) in watcher.names) and (
        not watcher.labels or any(watcher.labels <= found for found in labels)
    )


def deleted(world: World) -> set[str]:
    return {story.worker_id for story in world.stories if story.deleted or story.may_go}


def missing(world: World, watcher: Watcher) -> list[int]:
    """The events that it should have seen by now."""
    gone = deleted(world)
    return [
        event.sequence
        for event in behind(world.events, watcher.place)
        if shows(world, watcher, event) and event.worker_id not in gone
    ]


def check_watcher(world: World, watcher: Watcher) -> None:
    """It has seen each event once and in order, up to where it is; those of a deleted Worker need not be shown."""
    if watcher.visit is not None and watcher.visit.done() and not watcher.visit.cancelled():
        watcher.visit.result()
        check_end(world, watcher)
    seen = {sequence for sequence, _, _ in watcher.seen}
    gone = deleted(world) | ({r.story.worker_id for r in world.requests if r.kind == "delete"} - {None})
    expected = [
        (event.sequence, event.worker_id, event.payload)
        for event in world.events
        if event.sequence <= watcher.place
        and shows(world, watcher, event)
        and (event.sequence in seen or event.worker_id not in gone)
    ]
    told = [(sequence, worker, payload) for sequence, worker, payload in watcher.seen]
    assert [event[:2] for event in told] == [event[:2] for event in expected], f"{watcher} has not seen it right"
    assert all(mine[2] == orjson.loads(theirs[2]) for mine, theirs in zip(told, expected, strict=True))
    for sequence, data in watcher.snapshots:
        check_snapshot(world, world_story(world, watcher.worker_id), sequence, data)
    watcher.snapshots.clear()


def world_story(world: World, worker_id: Any) -> Story:
    return next(story for story in world.stories if story.worker_id == worker_id)


def check_end(world: World, watcher: Watcher) -> None:
    """A feed ends for a reason that is true."""
    match watcher.ended:
        case CursorExpired():
            assert watcher.floor > watcher.place or watcher.worker_id in deleted(world), "nothing was lost"
        case CursorUnknownOrExpired():
            asked = watcher.asked if watcher.asked is not None else 0
            assert watcher.floor > asked or asked > watcher.head
        case WorkerDeleted() | WorkerNotFound():
            assert watcher.worker_id in deleted(world) or any(
                request.kind == "delete" and request.story.worker_id == watcher.worker_id
                for request in world.requests
            )
        case UpstreamClosed():
            assert world.life.closing
        case other:
            raise AssertionError(f"a feed ended with {other!r}")


# Reads


def check_snapshot(world: World, story: Story, sequence: int, data: Any) -> None:
    """A snapshot is what the events up to there add up to."""
    activity, transcript = story.activity(sequence), story.transcript(sequence)
    newest = transcript[-world.limits.max_transcript_projection_items :]
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


def check_now(world: World) -> None:
    """What holds at any time."""
    world.complain()
    for story in world.stories:
        told = story.inputs()
        assert len(told) == len(set(told)), "an input was stored twice"
        assert not story.refused & set(told), "an input was refused and stored"
        assert story.acked.keys() <= set(told), "an acknowledged input is lost"
        assert all(told == time for told, time in story.alert_times()), "an alert has another time than its event"
        assert story.tells_what_was_said(), f"it was said {story.said}, it was told {story.payloads}"
        asked = [request.about for request in world.requests if request.kind == "input"]
        assert set(told) <= story.acked.keys() | story.unanswered | set(asked), "an input is stored that is not due"
    for watcher in world.watchers:
        check_watcher(world, watcher)


async def check_at_rest(world: World) -> None:
    """What holds when nothing is going on."""
    runtime = world.runtime
    check_now(world)
    shown = {worker.worker_id: worker for worker in runtime.workers()}
    assert list(shown) == sorted(story.worker_id for story in world.present)
    for story in world.stories:
        await (check_gone if story.deleted else check_worker)(world, story)
    fleet = await retained(lambda: runtime.fleet_retained_after, runtime.all_events)
    gone = deleted(world)
    assert [e for e in fleet[1] if e.worker_id not in gone] == [
        e for e in behind(world.events, fleet[0]) if e.worker_id not in gone
    ]
    assert not {event.worker_id for event in fleet[1]} & {s.worker_id for s in world.stories if s.deleted}
    check_summary(world)
    await check_runtime_events(world)
    for name, possible in world.bundles.items():
        held = [bundle.digest for bundle in runtime.bundles() if bundle.id == name]
        assert set(held) <= possible
        assert UNKNOWN in possible or held == list(possible)


async def retained(
    floor: Callable[[], int], read: Callable[[int], Awaitable[Sequence[EncodedEvent]]]
) -> tuple[int, list[EncodedEvent]]:
    """All that is retained, page by page, and behind which sequence; trimming may go on meanwhile."""
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


async def check_worker(world: World, story: Story) -> None:
    """A Worker is what its events say, however it is read."""
    runtime, ref = world.runtime, world.ref(story)
    detail = runtime.worker(ref)
    assert detail.last_cursor == cursor_of(story.head)
    assert detail.labels == story.labels
    assert (detail.status == "running") == (not any(isinstance(p, Shutdown) for p in story.payloads))
    begin, found = await retained(lambda: runtime.retained_after(ref), lambda after: runtime.events(ref, after, 3))
    assert found == behind(story.told, begin), f"{ref} has other events than those that were told"
    transcript, start = [], 0
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
    check_asked(world, story)
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
            check_snapshot(world, story, sequence, orjson.loads(encode(envelope))["payload"]["data"])
    if begin:
        for lost in (runtime.events(ref, begin - 1), runtime.snapshot(ref, begin - 1)):
            await raises(lost, CursorExpired)
    check_cuts(story)


def check_cuts(story: Story) -> None:
    """Whatever the Runtime cut short is closed: an error of its own is followed by the end of the run."""
    payloads = story.payloads
    for position, payload in enumerate(payloads):
        if is_cut(payload) or is_refusal(payload):
            assert payloads[position + 1] == RunEnd("rolled_back")
        if isinstance(payload, Shutdown):
            assert position == len(payloads) - 1


def check_asked(world: World, story: Story) -> None:
    """What is asked waits, and whoever asked was told what the events tell."""
    waiting = {one.title for one in world.runtime.permissions(world.ref(story))}
    assert waiting == {one.title for one in story.activity().permissions}
    told = story.rulings()
    for title, asking in ruled_on(world):
        if title in told:
            assert (asking.result().outcome, asking.result().option_id) == told[title]


def ruled_on(world: World) -> list[tuple[str, Any]]:
    """Who asked for what the events tell the ruling of."""
    told = {title for story in world.stories for title in story.rulings()}
    return [(title, asking) for title, asking in world.asking.items() if title in told]


async def check_gone(world: World, story: Story) -> None:
    """Nothing is left of a Worker that was deleted."""
    runtime, ref = world.runtime, world.ref(story)
    for read in (runtime.events(ref, 0), runtime.snapshot(ref), runtime.transcript(ref)):
        await raises(read, WorkerNotFound)


async def raises(work: Awaitable[Any], error: type[Exception]) -> None:
    try:
        await work
    except error:
        return
    raise AssertionError(f"expected {error.__name__}")


def check_summary(world: World) -> None:
    """The counts are those of the Workers there are, and labels find those that have them."""
    summary = world.runtime.summary()
    status = [story.status for story in world.present]
    assert summary.worker_count == len(status)
    assert summary.active_worker_count == status.count("running")
    assert summary.stopped_worker_count == status.count("stopped")
    assert summary.cancelled_worker_count == status.count("cancelled")
    for labels in ({"team": "a"}, {"team": "b"}):
        found = [worker.worker_id for worker in world.runtime.workers(WorkerFilter(labels=labels))]
        assert found == sorted(story.worker_id for story in world.present if labels.items() <= story.labels.items())


async def all_runtime_events(world: World) -> list[Any]:
    """All that are kept, page by page; read again where the oldest were forgotten meanwhile."""
    while True:
        found: list[Any] = []
        while page := await world.runtime.runtime_events(found[-1].id if found else 0, 3):
            found += page
        if list(await world.runtime.runtime_events(0, 1)) == found[:1]:
            return found


def unheard(world: World, event: Any, heard: Sequence[tuple[str, str]]) -> bool:
    """Whether a runtime event tells of what was stored with the deletion of its Worker, just before a crash."""
    lost = {story.worker_id for story in world.stories if story.lost}
    return event.worker_id in lost and (event.cursor, event.worker_id) not in heard


async def check_runtime_events(world: World) -> None:
    """Runtime events tell of every input and every end, once and in order; the oldest go where there are too many."""
    found = await all_runtime_events(world)
    ids = [event.id for event in found]
    assert ids == sorted(set(ids))
    assert not world.gapless or not ids or ids == list(range(ids[0], ids[-1] + 1))
    expected = [
        (cursor_of(event.sequence), event.worker_id)
        for event in world.events
        if isinstance(decoded(event.payload), Shutdown) or (Story(event.worker_id, {}, [event]).inputs())
    ]
    told = [event for event in found if event.cursor is not None and not unheard(world, event, expected)]
    most = world.limits.max_runtime_events
    assert len(found) >= min(most, len(expected) + len(world.stories)), (
        f"of the runtime events that may be kept too many are gone: {found} are left"
    )
    forgotten = len(expected) - len(told) if most < MANY else 0
    assert [(event.cursor, event.worker_id) for event in told] == expected[forgotten:], (
        f"the runtime events are {found}, not those of {expected[forgotten:]}"
    )
    created = [event.worker_id for event in found if event.kind == "worker_created"]
    assert set(created) <= {story.worker_id for story in world.stories}
    assert len(created) == len(set(created))
