"""The events of all Workers in memory: by Worker, and by sequence."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice

from runtimed.core.paging import PageSize
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import EncodedEvent, EventPage, StateAt, Trim, TrimRange
from runtimed.errors import StoreCorrupt
from runtimed.model.identity import WorkerId
from runtimed.store.pages import (
    LOOK_AHEAD,
    check_retained,
    fill_page,
    is_filled,
    replay,
    stored_size,
    trim_ranges,
    up_to_gap,
)
from runtimed.store.records import StoredEvent, TrimPoint

GONE = 1_000
"""How many removed events the order of sequences may still list, in addition to one for each SLACK that are kept."""

SLACK = 16


class History:
    """The retained events of all Workers.

    Attributes:
        bytes: The size of all payloads.
        hidden: Deleted Workers. Their events cannot be read, and stay until they are removed.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.hidden: set[WorkerId] = set()
        self._events: dict[WorkerId, list[StoredEvent]] = defaultdict(list)
        self._floors: dict[WorkerId, TrimPoint] = {}
        self._by_sequence: dict[int, StoredEvent] = {}
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self._by_sequence)

    def add(self, stored: StoredEvent) -> None:
        """Keep an event, the newest of all."""
        sequence = stored.event.sequence
        self._events[stored.event.worker_id].append(stored)
        self._by_sequence[sequence] = stored
        self._order.append(sequence)
        self.bytes += len(stored.event.payload)

    def trim(self, trim: Trim) -> None:
        """Remove a Worker's oldest events, and keep its state after them."""
        worker_id, upto = trim.trim_range.worker_id, trim.trim_range.upto
        self._floors[worker_id] = TrimPoint(worker_id, upto, trim.state_at)
        self.remove(worker_id, _end(self._events[worker_id], upto))

    def hide(self, worker_id: WorkerId) -> None:
        """Hide a Worker's events from readers."""
        self.hidden.add(worker_id)
        self._floors.pop(worker_id, None)

    def remove(self, worker_id: WorkerId, count: int) -> int:
        """Remove at most this many of a Worker's oldest events. Returns the number removed."""
        events = self._events[worker_id]
        gone = events[:count]
        for stored in gone:
            del self._by_sequence[stored.event.sequence]
            self.bytes -= len(stored.event.payload)
        del events[:count]
        if not events:
            del self._events[worker_id]
        left = len(self._by_sequence)
        if len(self._order) - left > GONE + left // SLACK:
            self._order = list(self._by_sequence)
        return len(gone)

    def between(self, worker_id: WorkerId, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        """Return a page of a Worker's events with `after` < sequence <= `upto`.

        Raises:
            StoreCorrupt: The first of them is not retained.
        """
        events = self._visible(worker_id)
        first, end = _end(events, after), _end(events, upto)
        found = fill_page(events[first : min(end, first + page.items)], page, stored_size)
        if not found:
            check_retained(self.floor(worker_id), after)
        return [stored.event for stored in up_to_gap(found, after)]

    def all_between(self, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        """Return a page of all Workers' events with `after` < sequence <= `upto`, without those of deleted Workers.

        Raises:
            StoreCorrupt: Some of them are not retained.
        """
        for floor in self._floors.values():
            check_retained(floor, after)
        found = fill_page(self._range(after, upto), page, stored_size)
        return [stored.event for stored in up_to_gap(found, after)]

    def some_between(self, workers: Collection[WorkerId], after: int, upto: int, page: PageSize) -> EventPage:
        """Return a page of the events of some Workers with `after` < sequence <= `upto`.

        Raises:
            StoreCorrupt: Some of them are not retained.
        """
        for worker_id in workers:
            check_retained(self.floor(worker_id), after)
        first = next(self._range(after, upto), None)
        end = upto if first is None else min(upto, first.event.sequence + LOOK_AHEAD - 1)
        own = (stored for stored in self._range(after, end) if stored.event.worker_id in workers)
        found = fill_page(own, page, stored_size)
        events = [stored.event for stored in up_to_gap(found, after)]
        is_whole = len(events) == len(found) and not is_filled(events, page)
        return EventPage(events, end if is_whole else events[-1].sequence)

    def oldest(self, upto: int, count: int, spared: Collection[WorkerId]) -> Sequence[TrimRange]:
        """The `count` oldest events up to `upto` of all Workers but `spared`, as a span of each."""
        found = (stored for stored in self._range(0, upto) if stored.event.worker_id not in spared)
        return trim_ranges(map(_sized, islice(found, count)))

    def oldest_of(self, workers: Iterable[WorkerId], upto: int, count: int) -> Sequence[TrimRange]:
        """The `count` oldest events up to `upto` of these Workers, as a span of each."""
        events = map(self._visible, workers)
        found = merge(*(islice(each, _end(each, upto)) for each in events), key=_sequence)
        return trim_ranges(map(_sized, islice(found, count)))

    def measure(self, worker_id: WorkerId, upto: int) -> int:
        """Return the bytes of the payloads of a Worker's events with a sequence of at most `upto`."""
        events = self._visible(worker_id)
        return sum(len(stored.event.payload) for stored in events[: _end(events, upto)])

    def floor(self, worker_id: WorkerId) -> TrimPoint:
        """Return the sequence after which a Worker's events are retained."""
        return self._floors.get(worker_id) or TrimPoint(worker_id, 0, StateAt(0, Activity(), 0))

    def state_at(self, worker_id: WorkerId, sequence: int) -> StateAt:
        """Return the state of a Worker right after its newest event up to `sequence`.

        Raises:
            StoreCorrupt: That event is not retained.
        """
        floor, events = self.floor(worker_id), self._visible(worker_id)
        if sequence < floor.sequence:
            raise StoreCorrupt(f"the state of {worker_id} at this event is no longer retained")
        end = _end(events, sequence)
        if not end:
            return floor.state_at
        stood = events[end - 1]
        if not stood.since:
            return StateAt(stood.transcript_len, Activity(stood.activity), stood.event.timestamp_ms)
        begin = floor.state_at.activity if stood.since <= floor.sequence else Activity()
        first = bisect_left(events, stood.since, key=_sequence)
        activity = replay(begin, (stored.event for stored in events[first:end]))
        shown = Activity(stood.activity, activity.blocks, activity.permissions)
        return StateAt(stood.transcript_len, shown, stood.event.timestamp_ms)

    def _visible(self, worker_id: WorkerId) -> list[StoredEvent]:
        return [] if worker_id in self.hidden else self._events.get(worker_id, [])

    def _range(self, after: int, upto: int) -> Iterator[StoredEvent]:
        for place in range(bisect_right(self._order, after), bisect_right(self._order, upto)):
            stored = self._by_sequence.get(self._order[place])
            if stored is not None and stored.event.worker_id not in self.hidden:
                yield stored


def _sequence(stored: StoredEvent) -> int:
    return stored.event.sequence


def _sized(stored: StoredEvent) -> tuple[int, WorkerId, int]:
    return stored.event.sequence, stored.event.worker_id, stored_size(stored)


def _end(events: Sequence[StoredEvent], upto: int) -> int:
    return bisect_right(events, upto, key=_sequence)
