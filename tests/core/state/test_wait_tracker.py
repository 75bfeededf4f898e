"""Where a condition has held first, from events alone."""

from collections.abc import Collection
from typing import Any

import attrs
import pytest

from runtimed.core.state.activity import Activity
from runtimed.core.state.change import QueuedInput, Worker
from runtimed.core.state.runtime_items import InputStarted, render
from runtimed.core.state.wait_tracker import Match, WaitTracker
from runtimed.model.event import (
    ActivityStatus,
    ErrorRaised,
    EventEnvelope,
    InvokeStart,
    Payload,
    RunEnd,
    Shutdown,
    UserMessage,
)
from runtimed.model.execution import Execution, RunState
from runtimed.model.identity import WorkerId, cursor_of
from runtimed.model.waiting import WaitCondition
from runtimed.model.worker import CreateWorkerRequest

NAME = WorkerId("worker-00000001")
WORKER = Worker(NAME, CreateWorkerRequest(), "running", Execution("connected", "idle"))
INPUT = UserMessage(())
ALL: tuple[WaitCondition, ...] = ("idle", "busy", "stopped", "permission", "error")


def started(sequence: int) -> Payload:
    return render(InputStarted(cursor_of(sequence), 1))


def tracked(
    *payloads: Payload, wanted: Collection[WaitCondition] = ALL, status: ActivityStatus = "running"
) -> WaitTracker:
    """A tracker that began in this status at the cursor 10 and was told these events, a millisecond each."""
    tracker = WaitTracker(wanted, 10, Activity(status))
    for sequence, payload in enumerate(payloads, 11):
        tracker.observe(EventEnvelope(cursor_of(sequence), cursor_of(sequence), NAME, sequence, payload))
    return tracker


def first(tracker: WaitTracker, *, is_starting: bool = False, **changes: Any) -> Match | None:
    return tracker.judge(attrs.evolve(WORKER, **changes), is_starting=is_starting)


def execution(state: RunState) -> Execution:
    return Execution("unconnected", state)


@pytest.mark.parametrize(
    ("wanted", "payloads", "found"),
    [
        ("idle", [], None),
        ("busy", [], ("busy", 10)),
        ("idle", [RunEnd("finished")], ("idle", 11)),
        ("idle", [RunEnd("paused")], ("idle", 11)),
        ("idle", [RunEnd("finished"), INPUT], ("idle", 11)),
        ("idle", [INPUT, RunEnd("finished"), started(11)], None),
        ("idle", [INPUT, RunEnd("finished"), started(11), RunEnd("finished")], ("idle", 14)),
        ("idle", [RunEnd("finished"), InvokeStart("wakeup"), RunEnd("finished")], ("idle", 11)),
        ("error", [ErrorRaised("internal", "lost"), RunEnd("rolled_back"), INPUT], ("error", 11)),
        ("stopped", [RunEnd("rolled_back"), Shutdown()], ("stopped", 12)),
    ],
)
def test_a_condition_is_found_where_it_held_first(
    wanted: WaitCondition, payloads: list[Payload], found: Match | None
) -> None:
    assert first(tracked(*payloads, wanted=[wanted], status="running")) == found


def test_an_input_that_is_queued_now_keeps_the_worker_from_being_idle_since_it_came() -> None:
    tracker = tracked(INPUT, RunEnd("finished"), wanted=["idle"])
    assert first(tracker, queued=(QueuedInput(1, 11),)) is None
    assert first(tracker) == ("idle", 12)


def test_the_first_condition_is_told_and_at_the_same_event_the_graver_one() -> None:
    failed = (ErrorRaised("internal", "lost"), RunEnd("rolled_back"))
    assert first(tracked(*failed)) == ("busy", 10)
    assert first(tracked(*failed, wanted=("idle", "error"))) == ("error", 11)


@pytest.mark.parametrize(
    ("state", "is_starting", "found"),
    [
        ("idle", False, ("idle", 10)),
        ("unconnected", False, ("idle", 10)),
        ("unconnected", True, None),
        ("errored", False, ("error", 10)),
        ("rejected", False, ("error", 10)),
    ],
)
def test_a_worker_is_idle_only_while_it_takes_inputs(state: RunState, is_starting: bool, found: Match | None) -> None:
    tracker = tracked(wanted=("idle", "error"), status="idle")
    assert first(tracker, is_starting=is_starting, execution=execution(state)) == found


def test_a_stop_amid_a_run_leaves_no_idle_time_and_one_later_does() -> None:
    cut = WaitTracker(["idle"], 10, Activity("running"))
    for sequence, payload in ((11, RunEnd("rolled_back")), (12, Shutdown())):
        cut.observe(EventEnvelope(cursor_of(sequence), cursor_of(sequence), NAME, 5, payload))
    assert first(cut, status="stopped", execution=execution("stopped")) is None

    later = tracked(RunEnd("finished"), Shutdown(), wanted=["idle"])
    assert first(later, status="stopped", execution=execution("stopped")) == ("idle", 11)


@pytest.mark.parametrize(
    ("wanted", "changes", "possible"),
    [
        (("idle",), {"status": "stopped"}, False),
        (("idle",), {"execution": execution("rejected")}, False),
        (("idle", "stopped"), {"execution": execution("rejected")}, True),
        (("idle",), {"execution": execution("errored")}, True),
        (("busy",), {}, True),
    ],
)
def test_a_wait_is_impossible_where_none_of_its_conditions_can_come(
    wanted: Collection[WaitCondition], changes: dict[str, Any], possible: bool
) -> None:
    reason = tracked(wanted=wanted, status="idle").why_impossible(attrs.evolve(WORKER, **changes), is_starting=False)
    assert (reason is None) == possible
