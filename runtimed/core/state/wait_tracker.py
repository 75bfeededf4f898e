"""Judge where a condition on a Worker has held first, from its events and its present state. Pure."""

from bisect import bisect_left
from collections.abc import Collection

from runtimed.core.state.activity import Activity
from runtimed.core.state.change import Worker
from runtimed.core.state.runtime_items import InputStarted, parse
from runtimed.model.event import (
    ErrorRaised,
    EventEnvelope,
    InvokeStart,
    RunEnd,
    Shutdown,
    StatusChanged,
    SystemItem,
    UserMessage,
)
from runtimed.model.identity import cursor_sequence
from runtimed.model.waiting import WaitCondition

PRECEDENCE: tuple[WaitCondition, ...] = ("error", "permission", "stopped", "idle", "busy")
"""Which condition is told if several hold first at the same event."""

FOLLOWED = (ErrorRaised, InvokeStart, RunEnd, Shutdown, StatusChanged, SystemItem, UserMessage)
EVENT_NAMES = frozenset(kind.event for kind in FOLLOWED)
"""The events that a tracker needs; others decide nothing."""

Match = tuple[WaitCondition, int]
"""A condition, and the sequence of the event right after which it held first."""


class WaitTracker:
    """Follows the events of a Worker after a cursor.

    - `busy`: a run is going on.
    - `idle`: no run is going on, and no input is queued.
    - `permission`: a permission request is pending.
    - `stopped`: the Worker is stopped or cancelled.
    - `error`: an `error` event has followed, or the Worker is errored or rejected.

    The state at the cursor counts. An idle time that has ended counts if a run has followed it; one that lasts counts
    if the Worker takes inputs at present.
    """

    def __init__(self, wanted: Collection[WaitCondition], sequence: int, activity: Activity) -> None:
        """Start at a cursor.

        Args:
            wanted: The conditions that are waited for.
            sequence: The sequence of the cursor.
            activity: What the Worker was doing there.
        """
        self._wanted = frozenset(wanted)
        self._newest = sequence
        self._activity = Activity(activity.status, (), activity.permissions)
        self._met: dict[WaitCondition, int] = {}
        self._idle_from: list[int] = []
        self._idle_from_ms = 0
        self._is_idle = False
        self._follow(sequence, 0)

    def observe(self, envelope: EventEnvelope) -> None:
        """Take the next event of the Worker; those that are not in EVENT_NAMES may be left out."""
        sequence, payload = cursor_sequence(envelope.cursor) or 0, envelope.payload
        if isinstance(payload, ErrorRaised):
            self._meet("error", sequence)
        if isinstance(payload, SystemItem) and isinstance(item := parse(payload), InputStarted):
            self._was_queued_since(cursor_sequence(item.cursor) or 0)
        self._activity = self._activity.after(payload)
        self._follow(sequence, envelope.timestamp_ms)
        if isinstance(payload, Shutdown):
            self._meet("stopped", sequence)
            self._end(envelope.timestamp_ms)

    def judge(self, worker: Worker, *, is_starting: bool) -> Match | None:
        """Return the wanted condition that has held first, or None.

        Args:
            worker: The Worker right after the newest event that was observed.
            is_starting: Whether it is being spawned.
        """
        run_state = worker.execution.run_state
        met = {**self._met, **self._idle_now(worker, is_starting=is_starting)}
        if worker.status != "running":
            met.setdefault("stopped", self._newest)
        if run_state in {"errored", "rejected"}:
            met.setdefault("error", self._newest)
        found = [(met[condition], condition) for condition in PRECEDENCE if condition in met.keys() & self._wanted]
        if not found:
            return None
        sequence, condition = min(found, key=lambda match: match[0])
        return condition, sequence

    def why_impossible(self, worker: Worker, *, is_starting: bool) -> str | None:
        """Return why none of the wanted conditions can come any more, or None. To be asked if `judge` found none."""
        if worker.status != "running":
            return f"the Worker is {worker.status}"
        if worker.execution.run_state == "rejected" and not is_starting and "stopped" not in self._wanted:
            return "nothing runs the Worker: its spawn was rejected"
        return None

    def _follow(self, sequence: int, unix_ms: int) -> None:
        self._newest = sequence
        is_running = self._activity.status == "running"
        if is_running:
            self._meet("busy", sequence)
        elif not self._is_idle:
            self._idle_from.append(sequence)
            self._idle_from_ms = unix_ms
        self._is_idle = not is_running
        if self._activity.permissions:
            self._meet("permission", sequence)

    def _meet(self, condition: WaitCondition, sequence: int) -> None:
        self._met.setdefault(condition, sequence)

    def _was_queued_since(self, sequence: int) -> None:
        """Drop the idle times in which this input was queued."""
        del self._idle_from[bisect_left(self._idle_from, sequence) :]

    def _end(self, unix_ms: int) -> None:
        """Close the last idle time. It was none if the end of the Worker has cut its run."""
        if self._idle_from and self._idle_from_ms == unix_ms:
            self._idle_from.pop()
        self._is_idle = False

    def _idle_now(self, worker: Worker, *, is_starting: bool) -> dict[WaitCondition, int]:
        begun = self._idle_from
        for queued in worker.queued:
            begun = begun[: bisect_left(begun, queued.event)]
        run_state = worker.execution.run_state
        takes_input = run_state == "idle" or (run_state == "unconnected" and not is_starting)
        if self._is_idle and not takes_input and begun == self._idle_from:
            begun = begun[:-1]
        return {"idle": begun[0]} if begun else {}
