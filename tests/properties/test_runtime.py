"""Anything that can be asked of a Runtime, in any order, with restarts and crashes in between.

The controls break a protection: the machine has to see it. Without them nobody would know that it can.
"""

import contextlib
import gc
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from runtimed.core import Runtime
from runtimed.core import runtime as runtimes
from runtimed.core.engine import mailbox
from runtimed.core.engine.sequencer import Sequencer
from runtimed.core.engine.worker_registry import WorkerRegistry
from runtimed.core.limits import Limits
from runtimed.core.services import deletion, queue_dispatcher, retention
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import Forgotten
from runtimed.errors import StoreCorrupt
from runtimed.feed.ring import Ring
from runtimed.store.encoding import encode_events
from runtimed.store.memory import MemoryStore
from runtimed.store.writer import Writer
from tests.properties import checks
from tests.properties.grounds import FolderGround, MemoryGround
from tests.properties.machine import RuntimeMachine
from tests.properties.model import Story
from tests.properties.watcher import Watcher
from tests.properties.world import World

MACHINE = settings(suppress_health_check=list(HealthCheck), print_blob=True)
CONTROL = settings(MACHINE, max_examples=4_000, phases=[Phase.generate], database=None, report_multiple_bugs=False)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk and a busy backend are tried again at once, and what is too old is looked for often."""
    monkeypatch.setattr(queue_dispatcher, "BUSY_RETRY_S", 0.001)
    monkeypatch.setattr(mailbox, "STORE_RETRY_S", 0)
    monkeypatch.setattr(deletion, "STORE_RETRY_S", 0)
    monkeypatch.setattr(retention, "MIN_PERIOD_S", 0.001)


class InMemory(RuntimeMachine):
    ground = MemoryGround


class InFolder(RuntimeMachine):
    ground = FolderGround


def test_a_runtime_over_the_store_in_memory_keeps_its_promises(examples: Any) -> None:
    run_state_machine_as_test(InMemory, settings=settings(MACHINE, max_examples=examples(150, 20_000)))


def test_a_runtime_over_the_durable_store_keeps_its_promises(examples: Any) -> None:
    run_state_machine_as_test(InFolder, settings=settings(MACHINE, max_examples=examples(30, 2_000)))


@contextlib.asynccontextmanager
async def inhabited(ground: Any, limits: Limits) -> AsyncIterator[tuple[World, Story]]:
    """A world with one Worker, and its story."""
    world = World(ground, limits, 2**20, Runtime)
    try:
        await world.start()
        await world.wait(world.create({}, None, "accepted"))
        world.collect()
        (story,) = world.stories
        yield world, story
        await world.close()
    finally:
        world.end_of_the_world()


class Unheard(FolderGround):
    """One whose reports of what is stored come behind a crash, once `held` is there to hold them."""

    held: list[Any] | None = None

    def crash(self) -> None:
        super().crash()
        reports, self.held = self.held or [], None
        for report in reports:
            report()


async def test_a_crash_may_leave_of_a_stop_and_a_deletion_at_once_no_more_than_a_runtime_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ground, report = Unheard(), Writer._report

    def reported(self: Writer, *given: Any) -> None:
        tell = partial(report, self, *given)
        tell() if ground.held is None else ground.held.append(tell)

    monkeypatch.setattr(Writer, "_report", reported)
    monkeypatch.setattr(mailbox, "STORE_RETRY_S", 3_600)
    async with inhabited(ground, Limits()) as (world, story):
        await world.disk("full")
        await world.wait(world.end(story, "stop"))
        await world.disk("empty")
        ground.held = []
        world.end(story, "delete")
        await checks.until(lambda: ground.held, lambda: "the deletion is not stored")
        await world.crash()
        await world.look_into_the_store(crashed=True)
        await world.start()
        assert [event.kind for event in await world.runtime.runtime_events()][2:] == [
            "worker_stopped",
            "runtime_started",
        ]
        await checks.settle(world)
        await checks.check_at_rest(world)


class Counting(MemoryStore):
    """One that remembers the newest runtime event at the time when it last forgot some."""

    forgot_at = 0

    def _forget(self, gone: Forgotten) -> None:
        super()._forget(gone)
        self.forgot_at = self._numbers["runtime_event_id"]


class Miscounting(Counting):
    """One that takes the ids of runtime events for their number."""

    def _forget(self, gone: Forgotten) -> None:
        if gone.runtime_events_left is not None:
            upto = self._numbers["runtime_event_id"] - gone.runtime_events_left
            self._runtime_events = {number: event for number, event in self._runtime_events.items() if number > upto}
        super()._forget(attrs.evolve(gone, runtime_events_left=None))


TOO_MANY = "of the runtime events that may be kept too many are gone"


@pytest.mark.parametrize(
    ("make", "outcome"),
    [(Counting, contextlib.nullcontext()), (Miscounting, pytest.raises(AssertionError, match=TOO_MANY))],
    ids=["none, counted", "some, not counted"],
)
async def test_it_is_seen_how_many_runtime_events_those_crowd_out_that_a_full_disk_refused(
    make: type[Counting], outcome: contextlib.AbstractContextManager[Any]
) -> None:
    ground = MemoryGround()
    ground._store = store = make()
    async with inhabited(ground, Limits(max_runtime_events=3, max_event_age_s=60)) as (world, story):
        await world.disk("full")
        for _ in range(3):
            await world.wait(world.send(story, "user", "accepted"))
        await world.disk("empty")
        await world.wait(world.send(story, "user", "accepted"))
        world.collect()
        newest = store._numbers["runtime_event_id"]
        await checks.until(lambda: store.forgot_at == newest, lambda: "retention does not look")
        with outcome:
            await checks.check_runtime_events(world)


async def test_an_observer_that_left_while_it_was_stuck_leaves_no_task(caplog: pytest.LogCaptureFixture) -> None:
    async with inhabited(MemoryGround(), Limits()) as (world, story):
        await world.wait(world.send(story, "user", "accepted"))
        watcher = Watcher(story.worker_id, wired=True)
        watcher.join(world.life.feed, 0)
        watcher.flowing.clear()
        await checks.until(lambda: watcher.snapshots, lambda: watcher)
        await world.pass_time(5, 0, 0)
        await watcher.leave()
        watcher.join(world.life.feed, 0)
        await watcher.leave()
    gc.collect()
    assert "destroyed" not in caplog.text


def published_before_it_is_stored(patch: pytest.MonkeyPatch) -> None:
    commit, publish = Sequencer.commit, Sequencer.publish

    def hasty(self: Sequencer, change: Any) -> Any:
        done = commit(self, change)
        if change.worker and change.events:
            publish(self, change.worker.worker_id, encode_events(change, {}))
        return done

    patch.setattr(Sequencer, "commit", hasty)
    patch.setattr(Sequencer, "publish", lambda self, worker_id, events: None)


def one_event_is_lost_at_the_seam_of_ring_and_store(patch: pytest.MonkeyPatch) -> None:
    trim = Ring._trim

    def careless(self: Ring) -> None:
        trim(self)
        if self._messages:
            self._messages.pop(0)

    patch.setattr(Ring, "_trim", careless)


def an_input_is_stored_again_when_the_disk_has_room(patch: pytest.MonkeyPatch) -> None:
    wait = mailbox.Mailbox._wait_for_room

    def stubborn(self: Any, decided: Any, error: Any) -> None:
        for command in decided:
            if command.committed is not None:  # an input
                command.report(error)
                command.keep = True
        wait(self, decided, error)

    patch.setattr(mailbox.Mailbox, "_wait_for_room", stubborn)


def events_are_trimmed_though_readers_were_not_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WorkerRegistry, "raise_retained_after", lambda self, mailbox, sequence: None)


def a_cut_run_is_left_open(patch: pytest.MonkeyPatch) -> None:
    async def idle(self: Any, state: Any) -> None:
        for worker in state.workers:
            activity = state.activities.get(worker.worker_id, Activity())
            found = runtimes._make_mailbox(self._started.sequencer, self._started.queue, worker, activity)
            self._started.registry.add(found)
            found.disconnect()

    patch.setattr(Runtime, "_adopt", idle)
    patch.setattr(checks, "PATIENCE_S", 3.0)  # it shows by nothing but what does not end


BREAKS = {
    published_before_it_is_stored: ["published before it was stored", "has not seen"],
    one_event_is_lost_at_the_seam_of_ring_and_store: ["has not seen"],
    an_input_is_stored_again_when_the_disk_has_room: [
        "refused and stored",
        "an input is stored",
        "has other events",
        "the execution backend failed",
    ],
    events_are_trimmed_though_readers_were_not_told: ["is missing", "is not retained any more"],
    a_cut_run_is_left_open: ["this does not end"],
}
"""What is broken, and the complaints by which the machine may have found it."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("broken", "complaints"), BREAKS.items(), ids=[broken.__name__ for broken in BREAKS])
def test_it_is_seen_that(broken: Any, complaints: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []

    class Control(InMemory):
        def do(self, work: Any) -> None:
            try:
                super().do(work)
            except (AssertionError, StoreCorrupt) as error:
                found.append(str(error))
                raise

    broken(monkeypatch)
    with pytest.raises((AssertionError, StoreCorrupt, Flaky)):
        run_state_machine_as_test(Control, settings=CONTROL)
    assert any(complaint in error for error in found for complaint in complaints), found
