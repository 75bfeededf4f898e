"""A check of all rows of a store, with findings for an operator."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import apsw

from runtimed.core.state.change import Worker
from runtimed.errors import StoreCorrupt
from runtimed.model.identity import WorkerId, cursor_of, worker_id
from runtimed.model.runtime import MAX_FINDINGS, Finding, StoreCheck
from runtimed.store import records
from runtimed.store.records import ENTRIES, EVENTS, TRIM_POINTS, WORKERS
from runtimed.store.sqlite.batched_scan import BatchedScan, Step, Visit
from runtimed.store.sqlite.loading import WORKERS_WITH_STATES, worker_reader
from runtimed.store.sqlite.row_counts import MAX_NUMBER, count_rows, find_fault, find_orphans
from runtimed.store.tables import Row, Table

MAX_PIN_S = 2.0
"""How long a step may check the structure of a table in a store that is in use. The log grows meanwhile."""

COUNTED_ROW_BYTES = 16
"""The size that a row counts for in a step if it is only counted."""

_SEEN_APART = {records.WORKERS, records.STATES, records.EVENTS, records.TRIM_POINTS, records.ENTRIES}
"""The tables whose rows are also compared with rows of other tables."""

_TRIM_POINT = f"{TRIM_POINTS.select} WHERE worker = ?"
_OWNER = "SELECT 1 FROM worker WHERE number = :number UNION SELECT 1 FROM deleted WHERE worker = :number"
_DELETED = "SELECT 1 FROM deleted WHERE worker = ?"
_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table'"

log = logging.getLogger(__name__)


class Check:
    """Read a store in short steps and collect findings.

    The store may be written meanwhile: rows that are newer than the first step are not checked.

    Args:
        max_pin_s: The seconds after which the check of one table's structure is abandoned, or None for no limit.

    Attributes:
        counts: How many rows were read, by table.
        findings: At most MAX_FINDINGS problems.
        hit: The first problem of each damaged Worker.
    """

    def __init__(self, max_pin_s: float | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.findings: list[Finding] = []
        self.hit: dict[WorkerId, str] = {}
        self._max_pin_s = max_pin_s
        self._upto = 0
        self._tables: list[str] = []
        self._newest: dict[int, int] = {}
        self._owned: set[int] = set()
        self._worker_of = worker_reader()

    def result(self) -> StoreCheck:
        """Return what was read and found so far."""
        workers, entries, events = (self.counts[table.name] for table in (WORKERS, ENTRIES, EVENTS))
        return StoreCheck(workers, entries, events, tuple(self.findings))

    def structure(self) -> Iterator[Step]:
        """Yield the steps in which SQLite checks the structure of each table."""
        yield self._list_tables
        for table in self._tables:
            yield partial(self._see_structure, table)

    def rows(self) -> Iterator[Step]:
        """Yield the steps that check each row. Finish each before you ask for the next."""
        yield self._begin
        for table in records.TABLES:
            if table not in _SEEN_APART:
                yield from self._scan(table.select, table, partial(self._see_row, table))
        yield from self._scan(WORKERS_WITH_STATES, WORKERS, self._see_worker)
        yield self._see_strays
        for table, see in ((ENTRIES, self._see_entry), (EVENTS, self._see_event)):
            yield from self._scan(f"{table.select} WHERE {table.key} <= :upto", table, see, upto=self._upto)

    def found(self, problem: str, number: object = None) -> None:
        """Record a problem, with the Worker if `number` is the number of one."""
        name = worker_id(number) if isinstance(number, int) and 0 < number <= MAX_NUMBER else None
        if name is not None:
            self.hit.setdefault(name, problem)
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(problem, name))

    def _scan(self, query: str, table: Table[Any, Any], see: Visit, **bindings: int) -> Iterator[Step]:
        return BatchedScan(query, table, see, self.found).steps(bindings)

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
            message = "a table is too large to check its structure in a store in use: use runtimed --check-store"
            log.warning(message, extra={"table": table})
        except apsw.CorruptError as error:
            self.found(f"the table {table} is damaged: {error}")
        finally:
            connection.set_progress_handler(None)

    def _see_row(self, table: Table[Any, Any], _: apsw.Connection, row: Row) -> int:
        self.counts[table.name] += 1
        self._sound(table.read, row)
        return sum(len(value) for value in row if isinstance(value, bytes))

    def _sound(self, value_of: Callable[[Row], object], row: Row, number: object = None) -> bool:
        try:
            value_of(row)
        except StoreCorrupt as error:
            name = f" of {worker_id(number)}" if isinstance(number, int) else ""
            problem = error.message.replace(name, "")
            explanation = ": its content is not what was stored" if problem.endswith("damaged") else ""
            self.found(f"{problem}{explanation}", number)
            return False
        return True

    def _see_worker(self, connection: apsw.Connection, row: Row) -> int:
        number = row[0]
        self.counts[WORKERS.name] += 1
        self._owned.add(number)
        held = count_rows(connection, number)
        floors: list[Row] = connection.execute(_TRIM_POINT, (number,)).fetchall()
        floor = floors[0][1] if floors else 0

        def worker_of(row: Row) -> Worker:
            return self._worker_of(row, floor)

        if all(self._sound(TRIM_POINTS.read, floor, number) for floor in floors) and self._sound(
            worker_of, row, number
        ):
            problem = find_fault(connection, number, worker_of(row), held)
            if problem:
                self.found(problem, number)
        return len(row[1]) + COUNTED_ROW_BYTES * (held.entries + held.events)

    def _see_strays(self, connection: apsw.Connection) -> None:
        for number in find_orphans(connection):
            self.found("its row is missing", number)

    def _see_entry(self, connection: apsw.Connection, row: Row) -> int:
        self.counts[ENTRIES.name] += 1
        if self._sound(ENTRIES.read, row, row[1]):
            self._see_owner(connection, row[1], f"the entry {row[2]}")
        return len(row[4])

    def _see_event(self, connection: apsw.Connection, row: Row) -> int:
        self.counts[EVENTS.name] += 1
        sequence, number, previous = row[:3]
        if self._sound(EVENTS.read, row, number):
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
        """Return whether a missing event was trimmed, or belonged to a deleted Worker."""
        floors: list[Row] = connection.execute(_TRIM_POINT, (number,)).fetchall()
        return any(sequence <= floor[1] for floor in floors) or bool(connection.execute(_DELETED, (number,)).get)
