"""Both stores side by side: after the same Changes, restarts and crashes, every read gives the same answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from runtimed.core.paging import PageSize
from runtimed.core.ports import Store
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import (
    Change,
    Entry,
    Forgotten,
    IdempotencyRecord,
    InputAttachments,
    Mark,
    NumberedDiagnostic,
    StateAt,
    TrimRange,
)
from runtimed.errors import StoreCorrupt
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import Payload, TextSegment, UserMessage
from runtimed.model.identity import WorkerId, cursor_of
from runtimed.model.interaction import Attachment
from runtimed.model.runtime import RuntimeEvent
from runtimed.store import records
from runtimed.store.tables import Table
from runtimed.wire.converter import encode_payload
from tests.contracts.conftest import Teller
from tests.properties.fakes import CrashableFolder, CrashableMemory
from tests.properties.model import SAYINGS

WIDE = PageSize(100_000, 2**30)
ANY = st.integers(0, 9)
KINDS = st.lists(st.sampled_from(["input", *sorted(SAYINGS)]), min_size=1, max_size=5)
ATTACHED = (Attachment("image", "image/png", data="aGVsbG8="),)


@attrs.define
class Kept:
    """What was stored of a Worker: each event with the state after it, and the sequence it was trimmed up to."""

    events: list[tuple[int, Payload, StateAt]] = attrs.field(factory=list)
    entries: list[Entry] = attrs.field(factory=list)
    floor: int = 0

    @property
    def retained(self) -> list[int]:
        return [sequence for sequence, _, _ in self.events if sequence > self.floor]

    def state_at(self, sequence: int) -> StateAt:
        before = [state_at for at, _, state_at in self.events if at <= sequence]
        return before[-1] if before else StateAt(0, Activity(), 0)


class StoreMachine(RuleBasedStateMachine):
    """Commits the same Changes to two stores, and keeps in lists what they must answer."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.storages: list[CrashableMemory | CrashableFolder] = [CrashableMemory(), CrashableFolder()]
        self.stores: list[Store] = []
        self.teller = Teller()
        self.kept: dict[WorkerId, Kept] = {}
        self.created: list[WorkerId] = []
        self.unpurged: set[WorkerId] = set()
        self.remarks: list[NumberedDiagnostic] = []
        self.marks: list[Mark] = []
        self.runtime_events: list[RuntimeEvent] = []
        self.keys: list[IdempotencyRecord] = []
        self.attached: list[InputAttachments] = []
        self.numbers = {"remark": 0, "runtime_event": 0, "text": 0, "key": 0}

    def number(self, kind: str) -> int:
        self.numbers[kind] += 1
        return self.numbers[kind]

    @initialize()
    def begin(self) -> None:
        self.runner.run(self.open())
        self.create()
        self.create()

    async def open(self) -> None:
        self.stores = [storage.store() for storage in self.storages]
        for store in self.stores:
            state = await store.open(None)
            assert list(state.workers) == list(self.teller.workers.values())
            assert state.activities == {
                name: activity
                for name, activity in self.teller.activities.items()
                if not self.teller.workers[name].quiet
            }
            assert (state.head, state.worker_number) == (self.teller.sequence, len(self.created))
            assert (state.diagnostic_number, state.runtime_event_id) == (
                self.numbers["remark"],
                self.numbers["runtime_event"],
            )
            assert (list(state.diagnostics), list(state.marks)) == (self.remarks, self.marks)
            assert list(state.idempotency) == self.keys
            assert set(state.deleted) == self.unpurged

    def commit(self, change: Change) -> None:
        async def both() -> None:
            events = [(e.sequence, e.worker_id, encode_payload(e.payload)) for e in change.events]
            for store in self.stores:
                stored = await store.commit(change)
                assert [(event.sequence, event.worker_id, event.payload) for event in stored] == events

        self.runner.run(both())

    def worker(self, who: int) -> WorkerId | None:
        names = list(self.teller.workers)
        return names[who % len(names)] if names else None

    # Changes

    @rule()
    def create(self) -> None:
        if len(self.created) < 5:
            change = self.teller.create(number=len(self.created) + 1)  # the number of a deleted one never comes again
            assert change.worker is not None
            self.created.append(change.worker.worker_id)
            self.kept[change.worker.worker_id] = Kept()
            self.commit(change)

    @rule(who=ANY, kinds=KINDS)
    def tell(self, who: int, kinds: list[str]) -> None:
        name = self.worker(who)
        if name is None:
            return
        kept = self.kept[name]
        payloads = [self._payload(kind) for kind in kinds]
        changes = [self.teller.tell(name, payload) for payload in payloads]
        activity = kept.events[-1][2].activity if kept.events else Activity()
        for change in changes:
            [event] = change.events
            activity = activity.after(event.payload)
            kept.entries += change.entries
            kept.events.append(
                (event.sequence, event.payload, StateAt(len(kept.entries), activity, event.timestamp_ms))
            )
        events = [event for change in changes for event in change.events]
        entries = [entry for change in changes for entry in change.entries]
        attached = [
            InputAttachments(name, event.sequence, ATTACHED)
            for event in events
            if isinstance(event.payload, UserMessage) and event.sequence % 2
        ]
        self.attached += attached
        self.commit(Change(worker=changes[-1].worker, events=events, entries=entries, attachments=attached))

    def _payload(self, kind: str) -> Payload:
        number = self.number("text")
        return UserMessage((TextSegment(f"{number}"),)) if kind == "input" else SAYINGS[kind](number)

    @rule(who=ANY, count=st.integers(1, 8))
    def trim(self, who: int, count: int) -> None:
        name = self.worker(who)
        retained = self.kept[name].retained[:count] if name else []
        if name and retained:
            kept = self.kept[name]
            self.commit(
                self.teller.trim(name, TrimRange(name, retained[-1], len(retained)), kept.state_at(retained[-1]))
            )
            kept.floor = retained[-1]

    @rule(who=ANY)
    def delete(self, who: int) -> None:
        name = self.worker(who)
        if name is not None:
            self.commit(self.teller.delete(name))
            self.unpurged.add(name)
            self.remarks = [remark for remark in self.remarks if remark.diagnostic.worker_id != name]

    @rule(who=ANY)
    def purge(self, who: int) -> None:
        name = self.created[who % len(self.created)]

        async def both() -> None:
            for store in self.stores:
                while not await store.purge(name):
                    pass

        self.runner.run(both())
        self.unpurged.discard(name)

    @rule(who=st.none() | ANY)
    def remark(self, who: int | None) -> None:
        about = None if who is None else self.worker(who)
        self.remarks.append(NumberedDiagnostic(self.number("remark"), Diagnostic("code", "info", "message", about)))
        self.commit(Change(diagnostics=self.remarks[-1:]))

    @rule(who=ANY)
    def happen(self, who: int) -> None:
        told_by = (who, cursor_of(who)) if who % 2 else ()
        event = RuntimeEvent(self.number("runtime_event"), "worker_created", who, self.worker(who), *told_by)
        self.runtime_events.append(event)
        self.commit(Change(runtime_events=(event,)))

    @rule(who=ANY, queued=st.booleans())
    def keep_key(self, who: int, queued: bool) -> None:
        number, name = self.number("key"), self.created[who % len(self.created)]
        digest = number.to_bytes(32, "big")
        self.keys.append(IdempotencyRecord(number, digest, digest[::-1], name, who, who, number, queued))
        self.commit(Change(idempotency=self.keys[-1:]))

    @rule(unix_ms=ANY)
    def mark(self, unix_ms: int) -> None:
        mark = Mark(self.teller.sequence, unix_ms)
        self.marks = [*(old for old in self.marks if old.sequence != mark.sequence), mark]
        self.commit(Change(mark=mark))

    @rule(remarks=ANY, left=st.none() | ANY, which=ANY, keys=ANY)
    def forget(self, remarks: int, left: int | None, which: int, keys: int) -> None:
        marks = self.marks[which % len(self.marks)].sequence if self.marks else 0
        self.remarks = [remark for remark in self.remarks if remark.number > remarks]
        if left is not None:
            self.runtime_events = self.runtime_events[max(0, len(self.runtime_events) - left) :]
        self.marks = [mark for mark in self.marks if mark.sequence > marks]
        self.keys = [record for record in self.keys if record.number > keys]
        self.commit(Change(forgotten=Forgotten(remarks, left, marks, keys)))

    @rule(crash=st.booleans())
    def reopen(self, crash: bool) -> None:
        self.runner.run(self._reopen(crash))

    async def _reopen(self, crash: bool) -> None:
        for storage, store in zip(self.storages, self.stores, strict=True):
            if crash:
                storage.crash()
            await store.close()
        await self.open()

    # Reads

    @rule(after=st.integers(0, 60), trim_range=st.integers(0, 20), items=st.sampled_from([1, 3, 1_000]))
    def read(self, after: int, trim_range: int, items: int) -> None:
        after = after % (self.teller.sequence + 1)
        self.runner.run(self._read(after, after + trim_range, PageSize(items, 2**30)))

    async def _read(self, after: int, upto: int, page: PageSize) -> None:
        for store in self.stores:
            for name in self.created:
                kept = self.kept[name] if name in self.teller.workers else Kept()
                assert list(await store.read_entries(name, after, page)) == self._entries(kept, after)[: page.items]
                newest = [entry for entry in kept.entries if entry.sequence <= after][-page.items :]
                assert list(await store.newest_entries(name, after, page)) == newest
                await self._read_events(store, name, kept, after, upto, page)
                await self._read_oldest(store, name, kept.retained, upto, page.items)
            for one in self.attached:
                if one.worker_id not in self.unpurged:
                    expected = one.attachments if one.worker_id in self.teller.workers else ()
                    assert await store.read_attachments(one.worker_id, one.event) == expected
            await self._read_all(store, after, upto, page)
            found = await store.read_runtime_events(after, page)
            assert list(found) == [event for event in self.runtime_events if event.id > after][: page.items]
            held = [self.kept[name] for name in {*self.teller.workers, *self.unpurged}]
            sizes = [len(encode_payload(p)) for kept in held for at, p, _ in kept.events if at > kept.floor]
            assert store.event_bytes == sum(sizes)

    def _entries(self, kept: Kept, after: int) -> list[Entry]:
        return [entry for entry in kept.entries if entry.sequence > after]

    async def _read_events(
        self, store: Store, name: WorkerId, kept: Kept, after: int, upto: int, page: PageSize
    ) -> None:
        if after < kept.floor:
            if upto > kept.floor:
                await corrupt(store.read_events(name, after, upto, page))
            await corrupt(store.state_at(name, after))
            return
        found = await store.read_events(name, after, upto, page)
        expected = [(at, encode_payload(p)) for at, p, _ in kept.events if after < at <= upto][: page.items]
        assert [(event.sequence, event.payload) for event in found] == expected
        assert {event.worker_id for event in found} <= {name}
        assert await store.state_at(name, after) == kept.state_at(after)

    async def _read_oldest(self, store: Store, name: WorkerId, retained: list[int], upto: int, count: int) -> None:
        oldest = [sequence for sequence in retained if sequence <= upto][:count]
        expected = [TrimRange(name, oldest[-1], len(oldest))] if oldest else []
        assert list(await store.oldest_events(name, upto, count)) == expected

    async def _read_all(self, store: Store, after: int, upto: int, page: PageSize) -> None:
        present = {name: self.kept[name] for name in self.teller.workers}
        retained = sorted((at, name) for name, kept in present.items() for at in kept.retained)
        oldest = [place for place in retained if place[0] <= upto][: page.items]
        trim_ranges = [[at for at, name in oldest if name == wanted] for wanted in present]
        expected = {(ats[-1], len(ats)) for ats in trim_ranges if ats}
        assert {(s.upto, s.count) for s in await store.oldest_events(None, upto, page.items)} == expected
        if any(after < kept.floor for kept in present.values()):
            await corrupt(store.read_all_events(after, upto, page))
        else:
            found = await store.read_all_events(after, upto, page)
            between = [place for place in retained if after < place[0] <= upto]
            assert [(event.sequence, event.worker_id) for event in found] == between[: page.items]

    def teardown(self) -> None:
        try:
            self.runner.run(self._reopen(crash=True))
            self.runner.run(self._read(0, self.teller.sequence, WIDE))
        finally:
            for store in self.stores:
                self.runner.run(store.close())
            self.runner.close()
            for storage in self.storages:
                storage.remove()


async def corrupt(read: Awaitable[object]) -> None:
    """Check that a read of trimmed events fails."""
    try:
        await read
    except StoreCorrupt:
        return
    raise AssertionError("a gap was not reported")


MACHINE = settings(suppress_health_check=list(HealthCheck), print_blob=True, stateful_step_count=40)


def test_both_stores_answer_as_the_model_does(examples: Callable[[int, int], int]) -> None:
    run_state_machine_as_test(StoreMachine, settings=settings(MACHINE, max_examples=examples(40, 3_000)))


@pytest.mark.parametrize(
    ("table", "name", "statement"),
    [
        (records.MARKS, "delete_expired", "DELETE FROM mark WHERE sequence < ?"),
        (records.TRIM_POINTS, "insert", "INSERT OR IGNORE INTO floor VALUES (?, ?, ?, ?, ?, ?)"),
    ],
)
def test_the_machine_notices_a_wrong_sql_statement(
    monkeypatch: pytest.MonkeyPatch, table: Table[Any, Any], name: str, statement: str
) -> None:
    monkeypatch.setattr(table, name, statement)
    control = settings(MACHINE, max_examples=500, phases=[Phase.generate], database=None, report_multiple_bugs=False)
    with pytest.raises((AssertionError, StoreCorrupt)):
        run_state_machine_as_test(StoreMachine, settings=control)
