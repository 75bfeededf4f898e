"""A check of everything that the tables of a store hold, in words for an operator."""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial

import apsw

from runtimed.core.state.change import Worker
from runtimed.errors import StoreCorrupt
from runtimed.model.identity import WorkerId, cursor_of, worker_id
from runtimed.model.runtime import MAX_FINDINGS, Finding, StoreCheck
from runtimed.store.catalog import BUNDLES, DELETED, FLOORS, MARKS, META, REMARKS, RUNTIME_EVENTS, WORKERS
from runtimed.store.census import MAX_NUMBER, STRAYS, fault, held_of
from runtimed.store.rows import (
    Row,
    bundle_of,
    deleted_of,
    entry_of,
    event_of,
    floor_of,
    mark_of,
    meta_of,
    remark_of,
    runtime_event_of,
    worker_reader,
)
from runtimed.store.steps import LOWEST_NUMBER, LOWEST_TEXT, Pages, See, Step

MAX_PIN_S = 2.0
"""How long a step may look at the structure of a table in a store that is in use: the log grows meanwhile."""

COUNTED_ROW_BYTES = 16
"""What a row that is only counted is worth in a step."""

_SMALL = (
    (META, "key", LOWEST_TEXT, meta_of),
    (BUNDLES, "id", LOWEST_TEXT, bundle_of),
    (REMARKS, "number", LOWEST_NUMBER, remark_of),
    (RUNTIME_EVENTS, "id", LOWEST_NUMBER, runtime_event_of),
    (MARKS, "sequence", LOWEST_NUMBER, mark_of),
    (DELETED, "worker", LOWEST_NUMBER, deleted_of),
)
_ENTRIES = "SELECT event, worker, sequence, role, content, checksum, timestamp_ms FROM entry WHERE event <= :upto"
_EVENTS = """
    SELECT sequence, worker, previous, since, transcript_len, activity, payload, checksum, timestamp_ms FROM event
    WHERE sequence <= :upto
"""
_FLOOR = f"{FLOORS} WHERE worker = ?"
_OWNER = "SELECT 1 FROM worker WHERE number = :number UNION SELECT 1 FROM deleted WHERE worker = :number"
_DELETED = "SELECT 1 FROM deleted WHERE worker = ?"
_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table'"

_log = logging.getLogger(__name__)


class Check:
    """Reads a store in steps, each of them short, and keeps what it found.

    The store may be written meanwhile: what is newer than the first step is not looked at. `hit` has the first
    problem of each Worker that has one, `findings` at most MAX_FINDINGS of all. With `max_pin_s` the look at a
    table's structure ends after that time.
    """

    def __init__(self, max_pin_s: float | None = None) -> None:
        self.workers = self.entries = self.events = 0
        self.findings: list[Finding] = []
        self.hit: dict[WorkerId, str] = {}
        self._max_pin_s = max_pin_s
        self._upto = 0
        self._tables: list[str] = []
        self._newest: dict[int, int] = {}
        self._owned: set[int] = set()
        self._worker_of = worker_reader()

    def result(self) -> StoreCheck:
        """What was read and found so far."""
        return StoreCheck(self.workers, self.entries, self.events, tuple(self.findings))

    def structure(self) -> Iterator[Step]:
        """The steps that look at each table as SQLite's own structure, whatever its rows mean."""
        yield self._list_tables
        for table in self._tables:
            yield partial(self._see_structure, table)

    def rows(self) -> Iterator[Step]:
        """The steps that look at each row. Each must be done before the next is asked for."""
        yield self._begin
        for query, key, lowest, value_of in _SMALL:
            yield from self._pages(query, key, lowest, partial(self._see_row, value_of))
        yield from self._pages(WORKERS, "number", LOWEST_NUMBER, self._see_worker)
        yield self._see_strays
        yield from self._pages(_ENTRIES, "event", LOWEST_NUMBER, self._see_entry, upto=self._upto)
        yield from self._pages(_EVENTS, "sequence", LOWEST_NUMBER, self._see_event, upto=self._upto)

    def found(self, problem: str, number: object = None) -> None:
        """Keep a problem, of the Worker with this number where it is one."""
        name = worker_id(number) if isinstance(number, int) and 0 < number <= MAX_NUMBER else None
        if name is not None:
            self.hit.setdefault(name, problem)
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(problem, name))

    def _pages(self, query: str, key: str, lowest: str | int, see: See, **bindings: int) -> Iterator[Step]:
        return Pages(query, key, lowest, see, self.found).steps(bindings)

    def _begin(self, connection: apsw.Connection) -> None:
        self._upto = connection.execute("SELECT max(sequence) FROM event").get or 0

    def _list_tables(self, connection: apsw.Connection) -> None:
        self._tables = [name for (name,) in connection.execute(_TABLES)]

    def _see_structure(self, table: str, connection: apsw.Connection) -> None:
        if self._max_pin_s is not None:
            end = time.monotonic() + self._max_pin_s
            connection.set_progress_handler(lambda: time.monotonic() > end, 10_000)
        try:
            for (problem,) in connection.execute(f'PRAGMA quick_check("{table}")'):
                if problem != "ok":
                    self.found(f"the table {table} is damaged: {' '.join(problem.split())}")
        except apsw.InterruptError:
            _log.warning("the table %s is too large to see its structure while in use: runtimed --check-store", table)
        except apsw.CorruptError as error:
            self.found(f"the table {table} is damaged: {error}")
        finally:
            connection.set_progress_handler(None)

    def _see_row(self, value_of: Callable[[Row], object], _: apsw.Connection, row: Row) -> int:
        self._sound(value_of, row)
        return sum(len(value) for value in row if isinstance(value, bytes))

    def _sound(self, value_of: Callable[[Row], object], row: Row, number: object = None) -> bool:
        try:
            value_of(row)
        except StoreCorrupt as error:
            name = f" of {worker_id(number)}" if isinstance(number, int) else ""
            said = error.message.replace(name, "")
            self.found(f"{said}: its content is not what was stored" if said.endswith("damaged") else said, number)
            return False
        return True

    def _see_worker(self, connection: apsw.Connection, row: Row) -> int:
        number = row[0]
        self.workers += 1
        self._owned.add(number)
        held = held_of(connection, number)
        floors: list[Row] = connection.execute(_FLOOR, (number,)).fetchall()
        floor = floors[0][1] if floors else 0

        def worker_of(row: Row) -> Worker:
            return self._worker_of(row, floor)

        if all(self._sound(floor_of, floor, number) for floor in floors) and self._sound(worker_of, row, number):
            problem = fault(connection, number, worker_of(row), held)
            if problem:
                self.found(problem, number)
        return len(row[1]) + COUNTED_ROW_BYTES * (held.entries + held.events)

    def _see_strays(self, connection: apsw.Connection) -> None:
        for (number,) in connection.execute(STRAYS).fetchall():
            self.found("its row is missing", number)

    def _see_entry(self, connection: apsw.Connection, row: Row) -> int:
        self.entries += 1
        if self._sound(entry_of, row, row[1]):
            self._see_owner(connection, row[1], f"the entry {row[2]}")
        return len(row[4])

    def _see_event(self, connection: apsw.Connection, row: Row) -> int:
        self.events += 1
        sequence, number, previous = row[:3]
        if self._sound(event_of, row, number):
            self._see_owner(connection, number, f"the event {cursor_of(sequence)}")
            if previous != self._newest.get(number, 0) and not self._gone(connection, number, previous):
                self.found(f"the event {cursor_of(previous)} is missing", number)
        self._newest[number] = sequence
        return len(row[6])

    def _see_owner(self, connection: apsw.Connection, number: int, name: str) -> None:
        if number in self._owned:
            return
        self._owned.add(number)
        if connection.execute(_OWNER, {"number": number}).get is None:
            self.found(f"{name} belongs to no Worker: its row is missing", number)

    def _gone(self, connection: apsw.Connection, number: int, sequence: int) -> bool:
        """Whether an event that is not there any more is one that was trimmed, or of a Worker that was deleted."""
        floors: list[Row] = connection.execute(_FLOOR, (number,)).fetchall()
        return any(sequence <= floor[1] for floor in floors) or bool(connection.execute(_DELETED, (number,)).get)
