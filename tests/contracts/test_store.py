"""What the Runtime relies on, of whichever store."""

import asyncio
import re
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtimed.core.paging import PageSize
from runtimed.core.ports import Store
from runtimed.core.state.activity import Activity, Pieces, Prose
from runtimed.core.state.change import (
    Change,
    EncodedEvent,
    Entry,
    Event,
    EventPage,
    Forgotten,
    IdempotencyRecord,
    InputAttachments,
    Mark,
    NumberedDiagnostic,
    QueuedInput,
    StateAt,
    StoredBundle,
    TokenRecord,
    Trim,
    TrimRange,
)
from runtimed.core.state.runtime_items import PERMISSION_RESOLVED, PermissionRequested, render
from runtimed.errors import RuntimeStopped, SerializeFailed, StoreCorrupt, StoreForeign
from runtimed.model.bundle import BundleMetadata, BundleProfile, ConfigBundle, Declaration, Provenance
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import (
    Alert,
    InFlight,
    InFlightBlock,
    InvokeStart,
    Payload,
    RunEnd,
    StatusChanged,
    SystemItem,
    TextBlock,
    TextDelta,
    TextDone,
    TextSegment,
    ThinkingBlock,
    ThinkingDelta,
    ThinkingDone,
    ThinkingStart,
    ToolCallArgsDelta,
    ToolCallBlock,
    ToolCallDone,
    ToolCallStart,
    ToolResult,
    Usage,
    UserMessage,
)
from runtimed.model.execution import Execution, ExecutionResult
from runtimed.model.identity import WorkerId, cursor_of, worker_id
from runtimed.model.interaction import Attachment
from runtimed.model.permission import Permission, PermissionOption
from runtimed.model.runtime import RuntimeEvent, StoreCheck
from runtimed.model.token import Token
from runtimed.model.worker import (
    BuiltinProfile,
    BundleReference,
    CapabilityRequest,
    CreateWorkerRequest,
    NamedReference,
    TaskIntent,
)
from runtimed.store.memory import MemoryStore
from runtimed.store.pages import LOOK_AHEAD
from runtimed.store.sqlite import SqliteStore
from runtimed.wire.converter import encode_payload
from tests.contracts.conftest import BORN_MS, Host, Teller, told_at

MAX_SEQUENCE = 2**63 - 1
WIDE = PageSize(items=1_000, max_bytes=1_000_000)
FIRST, SECOND, THIRD = worker_id(1), worker_id(2), worker_id(3)


def user(text: str) -> UserMessage:
    return UserMessage((TextSegment(text),))


def remark(number: int, about: WorkerId | None = None) -> NumberedDiagnostic:
    return NumberedDiagnostic(number, Diagnostic(f"code.{number}", "info", "message", about))


def bundle(revision: str, key: str = "bundle-1", tenant: str | None = None) -> StoredBundle:
    metadata = BundleMetadata(key, "d" * 64, revision, "workspace-1", "2026-06-26T00:00:00Z", Provenance("test"))
    made = ConfigBundle(
        metadata,
        (BundleProfile(BuiltinProfile("builtin:coder"), "label"),),
        (Declaration("secret_ref", "name", "secret:x"),),
    )
    return StoredBundle(made, tenant)


async def test_a_new_store_makes_up_a_runtime_id_and_is_empty(host: Host) -> None:
    state = await host.open()
    assert re.fullmatch(r"runtime-[0-9a-f]{16}", state.runtime_id)
    assert (state.head, state.worker_number, state.activities) == (0, 0, {})
    assert not [*state.workers, *state.bundles, *state.diagnostics, *state.marks, *state.deleted]


async def test_a_new_store_takes_the_runtime_id_it_is_given(host: Host) -> None:
    assert (await host.open("runtime-mine")).runtime_id == "runtime-mine"
    assert (await host.reopen()).runtime_id == "runtime-mine"


async def test_a_made_up_runtime_id_stays_through_a_restart(host: Host) -> None:
    made = (await host.open()).runtime_id
    assert (await host.reopen()).runtime_id == made
    assert (await host.reopen(made)).runtime_id == made


async def test_a_store_of_another_runtime_is_refused_and_both_are_named(host: Host) -> None:
    await host.open("runtime-mine")
    with pytest.raises(StoreForeign, match=r"belongs to runtime runtime-mine, not runtime-other"):
        await host.reopen("runtime-other")
    assert (await host.reopen("runtime-mine")).runtime_id == "runtime-mine"


async def test_the_backend_is_a_name_of_the_contract(host: Host) -> None:
    assert host.store.backend in {"memory", "fs_store"}


async def test_a_commit_gives_back_its_events_encoded_once(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.commit(teller.create())
    change = teller.tell(FIRST, user("hé"), TextDelta("a"))
    encoded = [EncodedEvent(e.sequence, FIRST, told_at(e.sequence), encode_payload(e.payload)) for e in change.events]
    assert list(await host.store.commit(change)) == encoded
    assert list(await host.store.read_events(FIRST, 0, MAX_SEQUENCE, WIDE)) == encoded


async def test_what_a_commit_cost_outside_of_the_event_loop_is_known(host: Host, teller: Teller) -> None:
    await host.open()

    await host.store.commit(teller.create())

    assert host.store.commit_cost_s >= 0


async def test_commits_finish_in_the_order_of_the_calls(host: Host, teller: Teller) -> None:
    await host.open()
    finished: list[int] = []

    def finish(number: int, _: object) -> None:
        finished.append(number)

    futures = [host.store.commit(teller.create())]
    for number in range(300):
        future = host.store.commit(teller.tell(FIRST, TextDelta(str(number))))
        future.add_done_callback(partial(finish, number))
        futures.append(future)
    await asyncio.gather(*futures)
    await asyncio.sleep(0)  # callbacks run in the loop's next turn, where all futures were done before gather too
    assert finished == list(range(300))
    events = await host.store.read_events(FIRST, 0, MAX_SEQUENCE, WIDE)
    assert [event.sequence for event in events] == list(range(1, 301))


async def test_a_commit_whose_caller_went_away_is_stored_all_the_same(host: Host, teller: Teller) -> None:
    await host.open()
    host.store.commit(teller.create())
    host.store.commit(teller.tell(FIRST, user("gone"))).cancel()
    await host.store.commit(teller.tell(FIRST, TextDelta("a")))
    assert [entry.content for entry in await host.store.read_entries(FIRST, 0, WIDE)] == ["gone"]


async def test_a_read_sees_every_commit_that_is_done(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.commit(teller.create())
    for number in range(1, 40):
        await host.store.commit(teller.tell(FIRST, user(str(number))))
        assert len(await host.store.read_entries(FIRST, 0, WIDE)) == number


async def test_entries_are_read_from_behind_a_place_and_only_those_of_one_worker(host: Host, teller: Teller) -> None:
    await host.open()
    await asyncio.gather(host.store.commit(teller.create()), host.store.commit(teller.create()))
    for number in range(1, 6):
        await host.store.commit(teller.tell(FIRST, user(f"a{number}")))
        await host.store.commit(teller.tell(SECOND, user(f"b{number}")))
    found = await host.store.read_entries(FIRST, 2, PageSize(2, 1_000))
    assert list(found) == [
        Entry(FIRST, 3, "user", "a3", 5, told_at(5)),
        Entry(FIRST, 4, "user", "a4", 7, told_at(7)),
    ]
    assert list(await host.store.read_entries(FIRST, 5, WIDE)) == []
    assert list(await host.store.read_entries(THIRD, 0, WIDE)) == []


async def test_the_newest_entries_end_at_a_place_and_come_oldest_first(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.commit(teller.create())
    await host.store.commit(teller.tell(FIRST, *(user(str(number)) for number in range(1, 10))))

    async def newest(upto: int, items: int) -> list[int]:
        return [entry.sequence for entry in await host.store.newest_entries(FIRST, upto, PageSize(items, 1_000))]

    assert await newest(9, 3) == [7, 8, 9]
    assert await newest(5, 3) == [3, 4, 5]
    assert await newest(2, 3) == [1, 2]
    assert await newest(0, 3) == []
    assert [e.sequence for e in await host.store.newest_entries(FIRST, 9, PageSize(9, 2))] == [8, 9]


async def test_events_are_read_between_two_places(host: Host, teller: Teller) -> None:
    await host.open()
    await asyncio.gather(host.store.commit(teller.create()), host.store.commit(teller.create()))
    for _ in range(5):
        await host.store.commit(teller.tell(FIRST, TextDelta("a")))
        await host.store.commit(teller.tell(SECOND, TextDelta("b")))

    async def sequences(after: int, upto: int, items: int = 100) -> list[int]:
        events = await host.store.read_events(FIRST, after, upto, PageSize(items, 10_000))
        return [event.sequence for event in events]

    assert await sequences(0, MAX_SEQUENCE) == [1, 3, 5, 7, 9]
    assert await sequences(3, 7) == [5, 7]
    assert await sequences(2, 6) == [3, 5]
    assert await sequences(0, 9, items=2) == [1, 3]
    assert await sequences(9, 9) == []


@pytest.mark.parametrize(("max_bytes", "items"), [(1, 1), (10, 1), (11, 2), (20, 2), (21, 3), (1_000, 9)])
async def test_a_page_ends_with_the_row_that_fills_it_counting_bytes(
    host: Host, teller: Teller, max_bytes: int, items: int
) -> None:
    await host.open()
    await host.store.commit(teller.create())
    await host.store.commit(teller.tell(FIRST, *(user("é" * 5) for _ in range(9))))
    page = PageSize(9, max_bytes)
    assert len(await host.store.read_entries(FIRST, 0, page)) == items
    assert len(await host.store.newest_entries(FIRST, 9, page)) == items
    size = len(encode_payload(user("é" * 5)))
    by_payload = PageSize(9, max_bytes * size // 10)
    assert len(await host.store.read_events(FIRST, 0, MAX_SEQUENCE, by_payload)) == items


async def test_a_moment_before_any_event_is_empty(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.commit(teller.create())
    assert await host.store.state_at(FIRST, 0) == StateAt(0, Activity(), 0)
    assert await host.store.state_at(THIRD, 5) == StateAt(0, Activity(), 0)


async def test_a_moment_in_the_middle_of_a_text_has_what_was_written_of_it(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.commit(teller.create())
    run = (user("hi"), InvokeStart("user_send"), TextDelta("Hel"), TextDelta("lo"), TextDone("Hello"))
    await host.store.commit(teller.tell(FIRST, user("before"), RunEnd("finished")))
    await host.store.commit(teller.tell(FIRST, *run))
    await host.store.commit(teller.tell(FIRST, RunEnd("finished")))

    moments = [await host.store.state_at(FIRST, sequence) for sequence in range(3, 9)]
    assert [state_at.transcript_len for state_at in moments] == [2, 2, 2, 2, 3, 3]
    assert [state_at.activity.status for state_at in moments] == ["running"] * 5 + ["idle"]
    texts = [state_at.activity.in_flight() for state_at in moments]
    assert texts == [None, None, InFlight((TextBlock("Hel"),)), InFlight((TextBlock("Hello"),)), None, None]


async def test_a_moment_in_the_middle_of_a_tool_call_has_its_arguments_so_far(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.commit(teller.create())
    await host.store.commit(
        teller.tell(
            FIRST,
            user("hi"),
            ThinkingStart(),
            ThinkingDelta("hm"),
            ThinkingDone("hmm"),
            ToolCallStart("t1", "ls"),
            ToolCallArgsDelta("t1", '{"a"'),
            ToolCallDone("t1", "ls", '{"a":1}'),
            ToolResult("t1", "done", is_error=False),
        )
    )
    thought = ThinkingBlock("hmm", finished=True)

    async def blocks(sequence: int) -> tuple[InFlightBlock, ...]:
        shown = (await host.store.state_at(FIRST, sequence)).activity.in_flight()
        assert shown is not None
        return shown.blocks

    assert await blocks(6) == (thought, ToolCallBlock("t1", "ls", '{"a"', "streaming_args"))
    assert await blocks(7) == (thought, ToolCallBlock("t1", "ls", '{"a":1}', "done"))
    assert await blocks(8) == (thought,)


async def test_a_moment_between_two_events_of_a_worker_is_that_behind_the_earlier(host: Host, teller: Teller) -> None:
    await host.open()
    await asyncio.gather(host.store.commit(teller.create()), host.store.commit(teller.create()))
    await host.store.commit(teller.tell(FIRST, TextDelta("mine")))
    await host.store.commit(teller.tell(SECOND, TextDelta("other"), TextDelta("s")))
    await host.store.commit(teller.tell(FIRST, TextDelta(" later")))
    for sequence in (1, 2, 3):
        activity = (await host.store.state_at(FIRST, sequence)).activity
        assert activity.in_flight() == InFlight((TextBlock("mine"),))


async def test_a_moment_behind_thousands_of_deltas_has_them_all(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.commit(teller.create())
    pieces = [f"{number} " for number in range(2_500)]
    await host.store.commit(teller.tell(FIRST, *map(TextDelta, pieces)))
    found = await host.store.state_at(FIRST, MAX_SEQUENCE)
    assert found.activity.in_flight() == InFlight((TextBlock("".join(pieces)),))


async def test_workers_come_back_as_they_last_were_by_number(host: Host, teller: Teller) -> None:
    request = CreateWorkerRequest(
        TaskIntent("do"),
        BuiltinProfile("builtin:coder"),
        BundleReference("bundle-1", "d" * 64),
        (CapabilityRequest("shell", "why"),),
        (NamedReference("w", "ref"),),
        (NamedReference("m", "ref"),),
    )
    declared = (Declaration("secret_ref", "credential", "secret:github-token"),)
    await host.open()
    for create in (teller.create(), teller.create(request, declarations=declared), teller.create(request)):
        await host.store.commit(create)
    await host.store.commit(teller.tell(SECOND, user("hi"), TextDone("ho"), RunEnd("finished")))
    result = ExecutionResult("stop", "accepted", "stopped", "bye")
    stopped = attrs.evolve(
        teller.workers[SECOND], status="stopped", execution=Execution("unconnected", "stopped", result)
    )
    await host.store.commit(Change(worker=stopped))
    state = await host.reopen()
    assert list(state.workers) == [teller.workers[FIRST], stopped, teller.workers[THIRD]]
    assert (state.head, state.worker_number, state.activities) == (3, 3, {})


async def test_the_inputs_that_wait_come_back_in_their_order(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.commit(teller.create())
    await host.store.commit(teller.tell(FIRST, user("one"), user("two"), user("three")))
    waiting = (QueuedInput(3, 3), QueuedInput(2, 2))
    for kept in (waiting, waiting[1:], ()):
        row = attrs.evolve(teller.workers[FIRST], queued=kept)
        await host.store.commit(Change(worker=row))
        assert list((await host.reopen()).workers) == [row]


async def test_what_a_worker_was_doing_comes_back(host: Host, teller: Teller) -> None:
    await host.open()
    for create in (teller.create(), teller.create(), teller.create()):
        await host.store.commit(create)
    await host.store.commit(teller.tell(FIRST, user("hi"), TextDelta("half")))
    await host.store.commit(teller.tell(SECOND, user("hi"), TextDelta("all"), TextDone("all"), RunEnd("finished")))
    await host.store.commit(teller.tell(THIRD, user("hi"), RunEnd("paused")))
    state = await host.reopen()
    assert state.activities == {FIRST: teller.activities[FIRST], THIRD: Activity("paused")}


async def test_transcripts_and_events_are_the_same_after_a_restart(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.commit(teller.create())
    system = SystemItem({"kind": "embedded_worker_system_input", "content": "s\x00\U0001f600"})
    await host.store.commit(teller.tell(FIRST, user("hi\n"), system, TextDone("\u2028")))
    before = await everything(host.store, [FIRST], teller.sequence)
    await host.reopen()
    assert await everything(host.store, [FIRST], teller.sequence) == before
    assert [entry.content for entry in before[0]] == ["hi\n", "s\x00\U0001f600", "\u2028"]


async def test_a_bundle_with_the_same_id_replaces_the_earlier(host: Host) -> None:
    await host.open()
    for given_bundle in (bundle("1"), bundle("1", "bundle-0"), bundle("2")):
        await host.store.commit(Change(bundle=given_bundle))
    assert list((await host.reopen()).bundles) == [bundle("1", "bundle-0"), bundle("2")]


async def test_tenants_have_bundles_with_the_same_id(host: Host) -> None:
    first, second, third = bundle("1"), bundle("2", tenant="a"), bundle("3", tenant="b")
    await host.open()
    for given_bundle in (first, second, third, bundle("4", tenant="a")):
        await host.store.commit(Change(bundle=given_bundle))

    held = (await host.reopen()).bundles

    assert sorted(held, key=lambda one: one.tenant or "") == [first, bundle("4", tenant="a"), third]


async def test_the_tenants_of_workers_and_of_runtime_events_come_back(host: Host, teller: Teller) -> None:
    created = [teller.create(tenant=tenant) for tenant in ("a", None, "b")]
    told = [
        RuntimeEvent(number, "worker_created", 1, worker, tenant=tenant)
        for number, (worker, tenant) in enumerate(((FIRST, "a"), (SECOND, None), (THIRD, "b"), (FIRST, "a")), 1)
    ]
    await host.open()
    for change in created:
        await host.store.commit(change)
    await host.store.commit(Change(runtime_events=told))

    for _ in range(2):
        state = await host.reopen()
        assert [worker.tenant for worker in state.workers] == ["a", None, "b"]
        assert list(await host.store.read_runtime_events(0, WIDE)) == told
        assert [event.id for event in await host.store.read_runtime_events(0, WIDE, "a")] == [1, 4]
        assert [event.id for event in await host.store.read_runtime_events(0, PageSize(1, 1), "a")] == [1]
        assert [event.id for event in await host.store.read_runtime_events(1, WIDE, "a")] == [4]
        assert list(await host.store.read_runtime_events(0, WIDE, "c")) == []
        of_two = [host.store.read_runtime_events(place, WIDE, workers={FIRST, SECOND}) for place in (0, 2)]
        assert [[event.id for event in await found] for found in of_two] == [[1, 2, 4], [4]]
        assert list(await host.store.read_runtime_events(0, WIDE, workers=())) == []
    assert (await host.store.check()).findings == ()


async def test_a_tenant_reads_on_where_events_of_others_are_gone(host: Host, teller: Teller) -> None:
    await host.open()
    for tenant in ("a", "b", None):
        await host.store.commit(teller.create(tenant=tenant))
    for _ in range(3):
        for worker in (FIRST, SECOND, THIRD):
            await host.store.commit(teller.tell(worker, TextDelta("x")))

    await trimmed(host, teller, SECOND, 2)
    await trimmed(host, teller, THIRD, 3)

    assert await of_tenant(host, "a", 0) == ([1, 4, 7], 9)
    for tenant, after in (("b", 4), ("b", 0)):
        with pytest.raises(StoreCorrupt, match="is missing"):
            await of_tenant(host, tenant, after)
    with pytest.raises(StoreCorrupt, match="is missing"):
        await host.store.read_all_events(8, 9, WIDE)
    assert await of_tenant(host, "b", 5) == ([8], 9)
    await trimmed(host, teller, FIRST, 1)
    with pytest.raises(StoreCorrupt, match="is missing"):
        await of_tenant(host, "a", 0)


async def of_tenant(
    host: Host, tenant: str, after: int, page: PageSize = WIDE, upto: int = 9
) -> tuple[list[int], int]:
    """The sequences in a page of a tenant's events, and up to where it is complete."""
    found = await host.store.read_tenant_events(tenant, after, upto, page)
    assert {event.worker_id for event in found.events} <= {FIRST if tenant == "a" else SECOND}
    return [event.sequence for event in found.events], found.upto


async def test_a_page_of_a_tenant_ends_at_its_limit_and_counts_no_events_of_others(
    host: Host, teller: Teller
) -> None:
    await host.open()
    for tenant in ("a", "b"):
        await host.store.commit(teller.create(tenant=tenant))
    for worker in (FIRST, SECOND, SECOND, SECOND, FIRST, FIRST, SECOND, SECOND, SECOND):
        await host.store.commit(teller.tell(worker, TextDelta("x")))

    assert await of_tenant(host, "a", 0, PageSize(2, 10_000)) == ([1, 5], 5)
    assert await of_tenant(host, "a", 5, PageSize(2, 10_000)) == ([6], 9)
    assert await of_tenant(host, "a", 0, PageSize(9, sizes(TextDelta("x")) + 1)) == ([1, 5], 5)
    assert await of_tenant(host, "a", 1, upto=5) == ([5], 5)
    assert await of_tenant(host, "a", 6) == ([], 9)
    assert (await host.store.read_tenant_events("c", 0, 9, WIDE)) == EventPage([], 9)
    await host.store.commit(teller.delete(FIRST))
    assert await of_tenant(host, "a", 0) == ([], 9)


async def test_a_tenant_finds_its_events_behind_many_of_others(host: Host, teller: Teller) -> None:
    await host.open()
    for tenant in ("a", "b"):
        await host.store.commit(teller.create(tenant=tenant))
    await host.store.commit(teller.tell(FIRST, TextDelta("x")))
    await host.store.commit(teller.tell(SECOND, *[TextDelta("x")] * 2 * LOOK_AHEAD))
    await host.store.commit(teller.tell(FIRST, TextDelta("x")))
    head = 2 + 2 * LOOK_AHEAD

    places, found = [0], list[int]()
    while places[-1] < head:
        page, upto = await of_tenant(host, "a", places[-1], upto=head)
        found += page
        places.append(upto)

    assert found == [1, head]
    assert places[1:] == [LOOK_AHEAD, 2 * LOOK_AHEAD, head]


async def test_the_oldest_events_of_a_tenant_are_found_among_those_of_others(host: Host, teller: Teller) -> None:
    await host.open()
    for tenant in ("a", "b", "a"):
        await host.store.commit(teller.create(tenant=tenant))
    for worker in (SECOND, FIRST, THIRD, THIRD, SECOND, FIRST, *[SECOND] * 20, *[FIRST] * 20, THIRD):
        await host.store.commit(teller.tell(worker, TextDelta("x")))
    oldest, size = host.store.oldest_events, sizes(TextDelta("x"))

    found = [await oldest(None, MAX_SEQUENCE, count, tenant="a") for count in (1, 3, 4, 99)]

    assert [list(ranges) for ranges in found] == [
        [TrimRange(FIRST, 2, 1)],
        [TrimRange(FIRST, 2, 1), TrimRange(THIRD, 4, 2)],
        [TrimRange(THIRD, 4, 2), TrimRange(FIRST, 6, 2)],
        [TrimRange(FIRST, 46, 22), TrimRange(THIRD, 47, 3)],
    ]
    assert [one.size_bytes for one in found[-1]] == [22 * size, 3 * size]
    assert list(await oldest(None, 4, 99, tenant="a")) == [TrimRange(FIRST, 2, 1), TrimRange(THIRD, 4, 2)]
    assert list(await oldest(None, MAX_SEQUENCE, 1, {FIRST}, "a")) == [TrimRange(THIRD, 3, 1)]
    assert list(await oldest(None, MAX_SEQUENCE, 9, tenant="c")) == []
    assert [one.size_bytes for one in await oldest(FIRST, MAX_SEQUENCE, 2)] == [2 * size]
    assert [one.size_bytes for one in await oldest(None, MAX_SEQUENCE, 1)] == [size]


async def test_the_events_of_a_worker_are_measured_up_to_a_sequence(host: Host, teller: Teller) -> None:
    await host.open()
    for tenant in ("a", "b"):
        await host.store.commit(teller.create(tenant=tenant))
    await host.store.commit(teller.tell(FIRST, TextDelta("1"), TextDelta("22")))
    await host.store.commit(teller.tell(SECOND, TextDelta("333")))
    await host.store.commit(teller.tell(FIRST, TextDelta("4444")))

    found = [await host.store.measure_events(FIRST, upto) for upto in (0, 1, 3, MAX_SEQUENCE)]

    parts = [sizes(TextDelta(text)) for text in ("1", "22", "4444")]
    assert found == [0, parts[0], sum(parts[:2]), sum(parts)]
    await trimmed(host, teller, FIRST, 1)
    assert await host.store.measure_events(FIRST, MAX_SEQUENCE) == sum(parts[1:])
    assert await host.store.measure_events(THIRD, MAX_SEQUENCE) == 0


async def test_remarks_come_back_in_the_order_they_were_made(host: Host) -> None:
    made = [remark(number, FIRST if number % 2 else None) for number in range(1, 6)]
    await host.open()
    await host.store.commit(Change(diagnostics=made[:2]))
    await host.store.commit(Change(diagnostics=made[2:]))
    state = await host.reopen()
    assert list(state.diagnostics) == made
    assert state.diagnostic_number == 5


async def test_a_check_reads_everything_and_changes_nothing(host: Host, teller: Teller) -> None:
    await host.open()
    await asyncio.gather(*(host.store.commit(teller.create()) for _ in range(3)))
    await host.store.commit(teller.tell(FIRST, user("a"), TextDelta("b"), TextDone("b")))
    await host.store.commit(teller.tell(SECOND, user("c")))
    before = await everything(host.store, [FIRST, SECOND, THIRD], teller.sequence)
    assert await host.store.check() == StoreCheck(workers=3, entries=3, events=4, findings=())
    assert await everything(host.store, [FIRST, SECOND, THIRD], teller.sequence) == before
    await host.store.commit(teller.tell(SECOND, user("d")))


async def test_the_head_is_the_highest_sequence_even_behind_a_gap(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.commit(teller.create())
    await host.store.commit(Change(events=[Event(41, FIRST, 1, RunEnd("finished"), 0, 0, "idle")]))
    assert (await host.reopen()).head == 41
    await host.store.commit(Change(bundle=bundle("1")))
    assert (await host.reopen()).head == 41


@pytest.mark.parametrize(
    "broken",
    [
        Change(events=[Event(9, FIRST, 1, TextDelta("\ud800"), 0, 0, "idle")]),
        Change(events=[Event(9, FIRST, 1, SystemItem({"kind": "x", "n": 2**70}), 0, 0, "idle")]),
        Change(entries=[Entry(FIRST, 1, "user", "\ud800", 9, 1)]),
        Change(diagnostics=[NumberedDiagnostic(1, Diagnostic("code", "info", "\ud800"))]),
        Change(
            trim=Trim(TrimRange(FIRST, 1, 1), StateAt(0, Activity("running", (Prose("text", Pieces("\ud800")),)), 1))
        ),
        Change(bundle=bundle("\ud800")),
    ],
    ids=["event", "number", "entry", "remark", "floor", "bundle"],
)
async def test_what_cannot_be_encoded_is_refused_and_nothing_of_it_is_stored(
    host: Host, teller: Teller, broken: Change
) -> None:
    await host.open()
    created = teller.create()
    with pytest.raises(SerializeFailed):
        host.store.commit(attrs.evolve(broken, worker=created.worker))
    await host.store.commit(Change(bundle=bundle("after")))
    state = await host.reopen()
    assert (state.head, state.worker_number, list(state.workers), list(state.diagnostics)) == (0, 0, [], [])
    assert list(state.bundles) == [bundle("after")]


async def test_what_a_backend_said_is_refused_where_it_cannot_be_encoded(host: Host, teller: Teller) -> None:
    await host.open()
    created = teller.create()
    await host.store.commit(created)
    said = ExecutionResult("input", "busy", "idle", "\ud800")
    assert created.worker is not None
    worker = attrs.evolve(created.worker, execution=Execution("connected", "idle", said))
    with pytest.raises(SerializeFailed):
        host.store.commit(Change(worker=worker))
    assert list((await host.reopen()).workers) == [created.worker]


def sizes(*payloads: Payload) -> int:
    return sum(len(encode_payload(payload)) for payload in payloads)


async def sequences(events: Awaitable[Sequence[EncodedEvent]]) -> list[int]:
    return [event.sequence for event in await events]


async def trimmed(host: Host, teller: Teller, worker: WorkerId, count: int) -> TrimRange:
    """Take out the oldest events of a Worker, as retention does."""
    [trim_range] = await host.store.oldest_events(worker, MAX_SEQUENCE, count)
    await host.store.commit(teller.trim(worker, trim_range, await host.store.state_at(worker, trim_range.upto)))
    return trim_range


async def test_events_of_all_workers_are_read_by_sequence(host: Host, teller: Teller) -> None:
    await host.open()
    await asyncio.gather(host.store.commit(teller.create()), host.store.commit(teller.create()))
    for _ in range(3):
        await host.store.commit(teller.tell(FIRST, TextDelta("a")))
        await host.store.commit(teller.tell(SECOND, TextDelta("b"), TextDelta("c")))
    found = await host.store.read_all_events(0, MAX_SEQUENCE, WIDE)
    assert [(event.sequence, event.worker_id) for event in found] == [
        (number, FIRST if number % 3 == 1 else SECOND) for number in range(1, 10)
    ]
    assert await sequences(host.store.read_all_events(3, 7, WIDE)) == [4, 5, 6, 7]
    assert await sequences(host.store.read_all_events(3, 7, PageSize(2, 10_000))) == [4, 5]
    assert await sequences(host.store.read_all_events(3, 7, PageSize(9, sizes(TextDelta("a")) + 1))) == [4, 5]
    assert await sequences(host.store.read_all_events(9, 9, WIDE)) == []


async def test_reads_end_in_front_of_an_event_that_is_missing_and_name_it_where_it_is_next(host: Host) -> None:
    await host.open()
    for sequence, previous in ((1, 0), (4, 1), (7, 6), (8, 7)):
        event = Event(sequence, FIRST, 1, TextDelta("x"), 0, 0, "idle", previous)
        await host.store.commit(Change(events=[event]))
        await host.store.commit(
            Change(events=[Event(sequence + 1, SECOND, 1, TextDelta("y"), 0, 0, "idle", 0)][: sequence == 1])
        )
    missing = r"^the event wo_0000000000000006 of worker-00000001 is missing$"
    assert await sequences(host.store.read_events(FIRST, 0, MAX_SEQUENCE, WIDE)) == [1, 4]
    assert await sequences(host.store.read_all_events(0, MAX_SEQUENCE, WIDE)) == [1, 2, 4]
    assert await sequences(host.store.read_all_events(1, MAX_SEQUENCE, WIDE)) == [2, 4]
    for after in (4, 5):
        with pytest.raises(StoreCorrupt, match=missing):
            await host.store.read_events(FIRST, after, MAX_SEQUENCE, WIDE)
        with pytest.raises(StoreCorrupt, match=missing):
            await host.store.read_all_events(after, MAX_SEQUENCE, WIDE)
    assert await sequences(host.store.read_events(FIRST, 0, 6, WIDE)) == [1, 4]
    assert await sequences(host.store.read_all_events(0, 6, WIDE)) == [1, 2, 4]
    assert await sequences(host.store.read_events(FIRST, 6, 9, WIDE)) == [7, 8]
    assert await sequences(host.store.read_all_events(6, 9, WIDE)) == [7, 8]


async def test_what_lies_between_two_events_and_is_gone_costs_nothing(host: Host, teller: Teller) -> None:
    await host.open()
    for worker in (FIRST, SECOND):
        await host.store.commit(teller.create())
        await host.store.commit(teller.tell(worker, TextDelta("1")))
        teller.sequence += 10**15
    newest = 10**15 + 2
    assert list(await host.store.oldest_events(None, MAX_SEQUENCE, 2)) == [
        TrimRange(FIRST, 1, 1),
        TrimRange(SECOND, newest, 1),
    ]
    assert [event.sequence for event in await host.store.read_all_events(0, MAX_SEQUENCE, WIDE)] == [1, newest]


async def test_the_oldest_events_are_told_as_spans(host: Host, teller: Teller) -> None:
    await host.open()
    await asyncio.gather(host.store.commit(teller.create()), host.store.commit(teller.create()))
    await host.store.commit(teller.tell(FIRST, TextDelta("1"), TextDelta("2")))
    await host.store.commit(teller.tell(SECOND, TextDelta("3")))
    await host.store.commit(teller.tell(FIRST, TextDelta("4")))
    oldest = host.store.oldest_events
    assert list(await oldest(FIRST, MAX_SEQUENCE, 2)) == [TrimRange(FIRST, 2, 2)]
    assert list(await oldest(FIRST, MAX_SEQUENCE, 9)) == [TrimRange(FIRST, 4, 3)]
    assert list(await oldest(FIRST, 1, 9)) == [TrimRange(FIRST, 1, 1)]
    assert list(await oldest(None, MAX_SEQUENCE, 9)) == [TrimRange(SECOND, 3, 1), TrimRange(FIRST, 4, 3)]
    assert list(await oldest(None, MAX_SEQUENCE, 3)) == [TrimRange(FIRST, 2, 2), TrimRange(SECOND, 3, 1)]
    assert list(await oldest(None, 0, 3)) == list(await oldest(THIRD, 9, 9)) == []


async def test_events_that_were_trimmed_are_gone_and_the_others_are_not(host: Host, teller: Teller) -> None:
    await host.open()
    await asyncio.gather(host.store.commit(teller.create()), host.store.commit(teller.create()))
    await host.store.commit(teller.tell(FIRST, user("1"), TextDelta("2"), TextDelta("3")))
    await host.store.commit(teller.tell(SECOND, TextDelta("4")))
    await host.store.commit(teller.tell(FIRST, TextDelta("5")))
    before = host.store.event_bytes
    assert await trimmed(host, teller, FIRST, 2) == TrimRange(FIRST, 2, 2)
    for _ in range(2):
        assert before - host.store.event_bytes == sizes(user("1"), TextDelta("2"))
        assert await sequences(host.store.read_events(FIRST, 2, MAX_SEQUENCE, WIDE)) == [3, 5]
        assert await sequences(host.store.read_all_events(2, MAX_SEQUENCE, WIDE)) == [3, 4, 5]
        assert await sequences(host.store.read_events(SECOND, 0, MAX_SEQUENCE, WIDE)) == [4]
        assert list(await host.store.oldest_events(None, MAX_SEQUENCE, 1)) == [TrimRange(FIRST, 3, 1)]
        assert len(await host.store.read_entries(FIRST, 0, WIDE)) == 1
        state = await host.reopen()
        assert list(state.workers) == list(teller.workers.values())
        assert [(worker.retained_after, worker.retained) for worker in state.workers] == [(2, 2), (0, 1)]
        assert state.activities == teller.activities


@pytest.mark.parametrize("count", [2, 3], ids=["some", "all"])
async def test_reading_where_events_were_trimmed_says_that_they_are_missing(
    host: Host, teller: Teller, count: int
) -> None:
    await host.open()
    await host.store.commit(teller.create())
    await host.store.commit(teller.tell(FIRST, TextDelta("1"), TextDelta("2"), TextDelta("3")))
    await trimmed(host, teller, FIRST, count)
    for after in range(count):
        with pytest.raises(StoreCorrupt, match=f"the event wo_000000000000000{count} of worker-00000001 is missing"):
            await host.store.read_events(FIRST, after, MAX_SEQUENCE, WIDE)
        with pytest.raises(StoreCorrupt, match="is missing"):
            await host.store.read_all_events(after, MAX_SEQUENCE, WIDE)
        with pytest.raises(StoreCorrupt, match="no longer retained"):
            await host.store.state_at(FIRST, after)
    assert len(await host.store.read_events(FIRST, count, MAX_SEQUENCE, WIDE)) == 3 - count


async def test_the_title_of_a_worker_is_kept_and_its_commands_are_not(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.commit(teller.create())
    (name, worker), *_ = teller.workers.items()
    titled = attrs.evolve(worker, title="Mend the roof", execution=Execution("connected", "idle"))
    await host.store.commit(Change(worker=titled))
    await host.store.commit(teller.create())

    state = await host.reopen()

    found = {worker.worker_id: worker for worker in state.workers}
    assert found[name] == titled
    assert [worker.title for worker in found.values()] == ["Mend the roof", None]


PERMISSION = Permission(
    "1", "write a file", None, (PermissionOption("yes", "Allow", "allow_once"),), "2026-06-26T00:00:00Z"
)


async def test_a_moment_is_the_same_whatever_was_trimmed_before_it(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.commit(teller.create())
    run = (
        user("hi"),
        ThinkingDelta("h"),
        TextDelta("He"),
        ToolCallStart("t1", "ls"),
        TextDelta("llo"),
        ToolCallArgsDelta("t1", "{}"),
        render(PermissionRequested(PERMISSION)),
        ThinkingDone("hm"),
        TextDone("Hello"),
        SystemItem({"kind": PERMISSION_RESOLVED, "request_id": "1", "outcome": "cancelled", "by": "runtime"}),
        RunEnd("finished"),
        render(PermissionRequested(PERMISSION)),
        TextDelta("next"),
    )
    await host.store.commit(teller.tell(FIRST, *run))
    count = len(run)
    before = [await host.store.state_at(FIRST, sequence) for sequence in range(count + 2)]
    assert [len(state_at.activity.permissions) for state_at in before[6:]] == [0, 1, 1, 1, 0, 0, 1, 1, 1]
    for floor in range(1, count + 1):
        await trimmed(host, teller, FIRST, 1)
        after = [await host.store.state_at(FIRST, sequence) for sequence in range(floor, count + 2)]
        assert after == before[floor:]
    state = await host.reopen()
    assert state.activities == teller.activities
    assert await host.store.state_at(FIRST, count) == before[count]


async def test_a_worker_goes_on_after_all_its_events_were_trimmed(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.commit(teller.create())
    await host.store.commit(teller.tell(FIRST, user("hi"), TextDelta("a")))
    await trimmed(host, teller, FIRST, 9)
    assert host.store.event_bytes == 0
    await host.store.commit(teller.tell(FIRST, TextDelta("b")))
    await host.reopen()
    assert await sequences(host.store.read_events(FIRST, 2, MAX_SEQUENCE, WIDE)) == [3]
    state_at = await host.store.state_at(FIRST, 3)
    assert state_at.activity.in_flight() == InFlight((TextBlock("ab"),))


async def test_the_bytes_of_the_events_are_counted_through_a_restart(host: Host, teller: Teller) -> None:
    assert host.store.event_bytes == 0
    await host.open()
    payloads: list[Payload] = [user("é"), TextDelta("abc"), RunEnd("finished")]
    await host.store.commit(teller.create())
    await host.store.commit(teller.tell(FIRST, *payloads))
    assert host.store.event_bytes == sizes(*payloads)
    await host.reopen()
    assert host.store.event_bytes == sizes(*payloads)
    await host.store.commit(teller.tell(FIRST, *payloads))
    assert host.store.event_bytes == 2 * sizes(*payloads)


async def test_a_deleted_worker_cannot_be_read_any_more_and_others_can(host: Host, teller: Teller) -> None:
    await host.open()
    for create in (teller.create(), teller.create(), teller.create()):
        await host.store.commit(create)
    await host.store.commit(teller.tell(FIRST, user("1"), TextDelta("2")))
    await host.store.commit(teller.tell(SECOND, user("3"), TextDelta("4")))
    await trimmed(host, teller, FIRST, 1)
    await host.store.commit(Change(diagnostics=[remark(1, FIRST), remark(2, SECOND), remark(3)]))
    await host.store.commit(teller.delete(FIRST))
    for _ in range(2):
        assert not await host.store.read_entries(FIRST, 0, WIDE)
        assert not await host.store.newest_entries(FIRST, 9, WIDE)
        assert not await host.store.read_events(FIRST, 0, MAX_SEQUENCE, WIDE)
        assert not await host.store.oldest_events(FIRST, MAX_SEQUENCE, 9)
        assert await host.store.state_at(FIRST, 9) == StateAt(0, Activity(), 0)
        assert await sequences(host.store.read_all_events(0, MAX_SEQUENCE, WIDE)) == [3, 4]
        assert list(await host.store.oldest_events(None, MAX_SEQUENCE, 9)) == [TrimRange(SECOND, 4, 2)]
        assert len(await host.store.read_entries(SECOND, 0, WIDE)) == 1
        state = await host.reopen()
        assert [worker.worker_id for worker in state.workers] == [SECOND, THIRD]
        assert list(state.diagnostics) == [remark(2, SECOND), remark(3)]
        assert list(state.deleted) == [FIRST]
        assert (state.worker_number, state.head, state.diagnostic_number) == (3, 4, 3)


async def test_a_deleted_worker_is_purged_little_by_little_until_nothing_is_left(host: Host, teller: Teller) -> None:
    await host.open()
    await asyncio.gather(host.store.commit(teller.create()), host.store.commit(teller.create()))
    await host.store.commit(teller.tell(SECOND, user("stays")))
    for _ in range(3):
        await host.store.commit(teller.tell(FIRST, *(user("x") for _ in range(900))))
    await host.store.commit(teller.delete(FIRST))
    rounds = 1
    while not await host.store.purge(FIRST):
        rounds += 1
        assert list((await host.reopen()).deleted) == [FIRST]
    assert rounds > 3
    assert host.store.event_bytes == sizes(user("stays"))
    assert list((await host.reopen()).deleted) == []
    assert len(await host.store.read_entries(SECOND, 0, WIDE)) == 1
    assert await sequences(host.store.read_events(SECOND, 0, MAX_SEQUENCE, WIDE)) == [1]
    assert await host.store.purge(FIRST)


async def test_purging_a_worker_that_is_not_deleted_touches_nothing(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.commit(teller.create())
    await host.store.commit(teller.tell(FIRST, user("hi")))
    assert await host.store.purge(FIRST)
    assert await host.store.purge(THIRD)
    assert len(await host.store.read_entries(FIRST, 0, WIDE)) == 1
    assert len(await host.store.read_events(FIRST, 0, MAX_SEQUENCE, WIDE)) == 1


async def test_runtime_events_are_read_by_id_and_come_back(host: Host) -> None:
    made = [
        RuntimeEvent(1, "runtime_started", 1_700_000_000_000),
        RuntimeEvent(2, "worker_created", 1_700_000_000_001, FIRST),
        RuntimeEvent(3, "worker_input_accepted", 0, FIRST, 7, cursor_of(7), by="token:ci"),
        RuntimeEvent(4, "worker_stopped", -1, SECOND, 0, cursor_of(0)),
    ]
    await host.open()
    await host.store.commit(Change(runtime_events=made[:3]))
    await host.store.commit(Change(runtime_events=made[3:]))
    for _ in range(2):
        assert list(await host.store.read_runtime_events(0, WIDE)) == made
        assert list(await host.store.read_runtime_events(1, PageSize(2, 1_000))) == made[1:3]
        assert list(await host.store.read_runtime_events(4, WIDE)) == []
        assert (await host.reopen()).runtime_event_id == 4


async def test_marks_come_back_in_order(host: Host) -> None:
    await host.open()
    for mark in (Mark(5, 1_000), Mark(9, 2_000), Mark(9, 3_000)):
        await host.store.commit(Change(mark=mark))
    assert list((await host.reopen()).marks) == [Mark(5, 1_000), Mark(9, 3_000)]


async def test_what_is_forgotten_is_gone_but_its_numbers_never_come_again(host: Host) -> None:
    await host.open()
    started = [RuntimeEvent(number, "runtime_started", number) for number in (1, 2, 3)]
    await host.store.commit(Change(diagnostics=[remark(1), remark(2), remark(3)], runtime_events=started))
    for sequence in (5, 6, 7):
        await host.store.commit(Change(mark=Mark(sequence, sequence)))
    await host.store.commit(Change(forgotten=Forgotten(diagnostics=2, runtime_events_left=2, marks=6)))
    state = await host.reopen()
    assert list(state.diagnostics) == [remark(3)]
    assert list(state.marks) == [Mark(7, 7)]
    assert list(await host.store.read_runtime_events(0, WIDE)) == started[1:]
    await host.store.commit(Change(forgotten=Forgotten(runtime_events_left=2)))
    assert list(await host.store.read_runtime_events(0, WIDE)) == started[1:]
    await host.store.commit(Change(forgotten=Forgotten(diagnostics=9, runtime_events_left=0, marks=9)))
    state = await host.reopen()
    assert not [*state.diagnostics, *state.marks, *await host.store.read_runtime_events(0, WIDE)]
    assert (state.diagnostic_number, state.runtime_event_id) == (3, 3)


def record(number: int, **changes: Any) -> IdempotencyRecord:
    """The record of an input to the first Worker; its number decides the rest."""
    digest = bytes([number]) * 32
    return attrs.evolve(
        IdempotencyRecord(number, digest, digest[::-1], FIRST, 1_000 + number, number, 10 + number), **changes
    )


async def test_idempotency_keys_come_back_oldest_first_until_they_are_forgotten(host: Host, teller: Teller) -> None:
    made = [record(1, entry=0, event=0), record(2), record(3, queued=True, worker_id=SECOND)]
    await host.open()
    await host.store.commit(attrs.evolve(teller.create(), idempotency=made[:1]))
    await host.store.commit(Change(idempotency=made[1:]))
    assert list((await host.reopen()).idempotency) == made

    await host.store.commit(Change(deleted=FIRST))
    assert list((await host.reopen()).idempotency) == made
    await host.store.commit(Change(forgotten=Forgotten(idempotency=2)))
    assert list((await host.reopen()).idempotency) == made[2:]


def token_record(name: str, **fields: Any) -> TokenRecord:
    return TokenRecord(Token(name, "operator", BORN_MS, **fields), name.encode() * 4)


async def test_tokens_come_back_by_name_until_they_are_revoked(host: Host) -> None:
    b, a = token_record("b"), token_record("a", tenant="acme", labels={"k": "v"}, expires_at_ms=BORN_MS + 1)
    replaced = TokenRecord(Token("b", "observer", BORN_MS), b"other")
    await host.open()
    for token in (b, a):
        await host.store.commit(Change(token=token))
    assert list((await host.reopen()).tokens) == [a, b]

    await host.store.commit(Change(token=replaced, revoked="a"))
    assert list((await host.reopen()).tokens) == [replaced]
    await host.store.commit(Change(revoked="nobody"))
    await host.store.commit(Change(revoked="b"))
    assert list((await host.reopen()).tokens) == []


IMAGE = Attachment("image", "image/png", data="aGVsbG8=")
LINK = Attachment("resource", "text/plain", uri="https://example.org/a")


async def test_attachments_are_read_by_the_event_of_their_input_and_go_with_their_worker(
    host: Host, teller: Teller
) -> None:
    await host.open()
    for name in (FIRST, SECOND):
        await host.store.commit(teller.create())
        given = teller.tell(name, user("look"))
        attached = InputAttachments(name, given.events[0].sequence, (IMAGE, LINK))
        await host.store.commit(attrs.evolve(given, attachments=[attached]))
    await host.reopen()
    assert await host.store.read_attachments(FIRST, 1) == (IMAGE, LINK)
    assert await host.store.read_attachments(FIRST, 2) == ()
    assert await host.store.read_attachments(SECOND, 1) == ()

    await host.store.commit(teller.delete(FIRST))
    while not await host.store.purge(FIRST):
        pass
    await host.reopen()
    assert await host.store.read_attachments(FIRST, 1) == ()
    assert await host.store.read_attachments(SECOND, 2) == (IMAGE, LINK)


async def test_many_attachments_are_purged_little_by_little(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.commit(teller.create())
    given = teller.tell(FIRST, *(user("look") for _ in range(10)))
    attached = [InputAttachments(FIRST, event.sequence, (IMAGE,)) for event in given.events]
    await host.store.commit(attrs.evolve(given, attachments=attached))
    await host.store.commit(teller.delete(FIRST))

    while not await host.store.purge(FIRST):
        assert list((await host.reopen()).deleted) == [FIRST]

    assert [await host.store.read_attachments(FIRST, event.sequence) for event in given.events] == [()] * 10
    assert list((await host.reopen()).deleted) == []


async def test_close_finishes_what_was_handed_in(host: Host, teller: Teller) -> None:
    await host.open()
    futures = [host.store.commit(teller.create())]
    futures += [host.store.commit(teller.tell(FIRST, user(str(number)))) for number in range(50)]
    await host.store.close()
    assert all(future.done() and future.exception() is None for future in futures)
    await host.reopen()
    assert len(await host.store.read_entries(FIRST, 0, WIDE)) == 50


async def test_close_is_harmless_when_repeated_or_never_opened(host: Host) -> None:
    await host.store.close()
    await host.open()
    await asyncio.gather(host.store.close(), host.store.close())
    await host.store.close()


async def test_an_open_that_was_given_up_leaves_nothing_behind_once_closed(host: Host, teller: Teller) -> None:
    opening = asyncio.create_task(host.open())
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    await host.store.close()
    with pytest.raises(RuntimeStopped):
        await host.store.commit(teller.create())
    await host.reopen()
    await host.store.commit(teller.tell(FIRST, user("hi")))


async def test_a_closed_store_takes_nothing_and_gives_nothing(host: Host, teller: Teller) -> None:
    await host.open()
    await host.store.close()
    with pytest.raises(RuntimeStopped):
        await host.store.commit(teller.create())
    reads = [
        host.store.read_entries(FIRST, 0, WIDE),
        host.store.newest_entries(FIRST, 9, WIDE),
        host.store.read_events(FIRST, 0, 9, WIDE),
        host.store.state_at(FIRST, 0),
        host.store.read_all_events(0, 9, WIDE),
        host.store.oldest_events(None, 9, 9),
        host.store.read_runtime_events(0, WIDE),
        host.store.purge(FIRST),
    ]
    for read in reads:
        with pytest.raises(RuntimeStopped):
            await read


async def everything(store: Store, workers: Sequence[WorkerId], head: int) -> list[Any]:
    """All that can be read of these Workers, in small pages and in large, and what is said where nothing can."""
    small = PageSize(2, 20)
    found: list[Any] = []
    for worker in workers:
        found.append(list(await store.read_entries(worker, 0, WIDE)))
        found.append(await told_by(store.oldest_events(worker, MAX_SEQUENCE, 3)))
        for place in range(0, head + 1, 3):
            found.append(list(await store.read_entries(worker, place, small)))
            found.append(list(await store.newest_entries(worker, place, small)))
            found.append(await told_by(store.read_events(worker, place, place + 5, small)))
            found.append(await told_by(store.read_events(worker, place, MAX_SEQUENCE, WIDE)))
            found.append(await told_by(store.state_at(worker, place)))
    for place in range(head + 1):
        found.append(await told_by(store.read_all_events(place, MAX_SEQUENCE, WIDE)))
        found.append(await told_by(store.read_all_events(place, place + 3, small)))
        found.append(await told_by(store.oldest_events(None, place, 4)))
    return found


async def told_by(read: Awaitable[Any]) -> Any:
    """What a read answers, or that it says that something is missing."""
    try:
        answer = await read
    except StoreCorrupt:
        return StoreCorrupt
    return list(answer) if isinstance(answer, Sequence) else answer


TEXT = st.text(max_size=5)
CALL = st.sampled_from(["t1", "t2"])
PAYLOADS = st.one_of(
    st.builds(user, TEXT),
    st.builds(lambda text: SystemItem({"kind": "embedded_worker_system_input", "content": text}), TEXT),
    st.builds(TextDelta, TEXT),
    st.builds(TextDone, TEXT),
    st.builds(ThinkingStart),
    st.builds(ThinkingDelta, TEXT),
    st.builds(ThinkingDone, TEXT),
    st.builds(ToolCallStart, CALL, TEXT),
    st.builds(ToolCallArgsDelta, CALL, TEXT),
    st.builds(ToolCallDone, CALL, TEXT, TEXT),
    st.builds(ToolResult, CALL, TEXT, st.booleans(), TEXT | st.none(), st.integers(0, 255) | st.none()),
    st.builds(StatusChanged, st.sampled_from(["idle", "running", "paused"])),
    st.builds(Usage, st.integers(0, 9) | st.none(), st.none()),
    st.builds(Alert, st.just("warn"), st.just("engine"), TEXT, st.integers(0, 2**53)),
    st.builds(RunEnd, st.sampled_from(["finished", "paused", "limit_reached"])),
)
STEPS = st.one_of(
    st.lists(PAYLOADS, max_size=4),
    st.lists(PAYLOADS, max_size=4),
    st.integers(1, 5),
    st.just("delete"),
    st.just("purge"),
)
STORIES = st.lists(st.tuples(st.integers(0, 2), STEPS), max_size=12)


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
)
@given(story=STORIES)
def test_both_stores_tell_the_same_story(new_teller: Callable[[], Teller], story: list[tuple[int, Any]]) -> None:
    async def told(store: Store, again: Store) -> list[Any]:
        teller = new_teller()
        await store.open(None)
        for _ in range(3):
            await store.commit(teller.create())
        workers = list(teller.workers)
        for index, step in story:
            await take(store, teller, workers[index], step)
        found = await everything(store, workers, teller.sequence)
        counted = store.event_bytes
        await store.close()
        state = await again.open(None)
        assert list(state.workers) == list(teller.workers.values())
        assert again.event_bytes == counted
        found += [counted, list(state.workers), state.activities, state.head, state.worker_number, state.deleted]
        await again.close()
        return found

    memory = MemoryStore()
    with tempfile.TemporaryDirectory() as folder:
        sqlite = asyncio.run(told(SqliteStore(Path(folder)), SqliteStore(Path(folder))))
    assert sqlite == asyncio.run(told(memory, memory))


async def take(store: Store, teller: Teller, worker: WorkerId, step: Any) -> None:
    """One step of a story: events are told, the oldest trimmed, or the Worker deleted or purged."""
    if step == "purge":
        await store.purge(worker)
    elif worker not in teller.workers:
        return
    elif step == "delete":
        await store.commit(teller.delete(worker))
    elif isinstance(step, int):
        for trim_range in await store.oldest_events(worker, MAX_SEQUENCE, step):
            await store.commit(teller.trim(worker, trim_range, await store.state_at(worker, trim_range.upto)))
    else:
        await store.commit(teller.tell(worker, *step))
