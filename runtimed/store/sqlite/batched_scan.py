"""Reading of whole tables in short steps, so that none delays the write-ahead log or other readers."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import apsw

from runtimed.store.tables import Row, Table

PAGE_ROWS = 500
PAGE_BYTES = 1024 * 1024
"""The most bytes that one step reads, unless a single row is larger."""

Step = Callable[[apsw.Connection], None]
Visit = Callable[[apsw.Connection, Row], int]
"""Checks a row and returns the size that it counts for in a step, in bytes."""


class BatchedScan:
    """Step through the rows of a table by key. Each step reads one snapshot.

    Args:
        query: Selects rows of the table, the key first.
        table: Names the key.
        see: Called with each row.
        broken: Called with a problem if SQLite cannot continue reading. No more steps follow.
    """

    def __init__(self, query: str, table: Table[Any, Any], see: Visit, broken: Callable[[str], None]) -> None:
        key = table.key
        self._query = f"{query} {'AND' if 'WHERE' in query else 'WHERE'} {key} > :after ORDER BY {key} LIMIT :rows"
        self._name = table.name
        self._after: Any = table.lowest_key
        self._see = see
        self._broken = broken
        self._more = True

    def steps(self, bindings: Mapping[str, int]) -> Iterator[Step]:
        """Yield the steps. Finish each before you ask for the next."""
        while self._more:
            yield lambda connection: self._step(connection, bindings)

    def _step(self, connection: apsw.Connection, bindings: Mapping[str, int]) -> None:
        try:
            with connection:
                self._more = self._read(connection, {"after": self._after, "rows": PAGE_ROWS, **bindings})
        except apsw.CorruptError as error:
            self._broken(f"the table {self._name} cannot be read to its end: {error}")
            self._more = False

    def _read(self, connection: apsw.Connection, bindings: Mapping[str, Any]) -> bool:
        count, room = 0, PAGE_BYTES
        with contextlib.closing(connection.execute(self._query, bindings)) as rows:
            for row in rows:
                self._after = row[0]
                count += 1
                room -= self._see(connection, row)
                if room <= 0:
                    return True
        return count == PAGE_ROWS
