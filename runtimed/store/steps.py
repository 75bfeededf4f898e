"""Reading all of a table in steps that are short, so that none holds back the write-ahead log or other readers."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import apsw

from runtimed.store.rows import Row

PAGE_ROWS = 500
PAGE_BYTES = 1024 * 1024
"""What one step reads, or a single row more."""

Step = Callable[[apsw.Connection], None]
See = Callable[[apsw.Connection, Row], int]
"""Looks at a row, and tells the bytes that it was worth."""

LOWEST_TEXT = ""
LOWEST_NUMBER = -(2**63)


class Pages:
    """Steps through the rows of a query by a key, its first column; a step sees its rows as of one moment.

    What cannot be read any more is told to `broken`, and ends them.
    """

    def __init__(self, query: str, key: str, lowest: str | int, see: See, broken: Callable[[str], None]) -> None:
        self._query = f"{query} {'AND' if 'WHERE' in query else 'WHERE'} {key} > :after ORDER BY {key} LIMIT :rows"
        self._name = query.partition(" FROM ")[2].split()[0]
        self._after: Any = lowest
        self._see = see
        self._broken = broken
        self._more = True

    def steps(self, bindings: Mapping[str, int]) -> Iterator[Step]:
        """The steps; each must be done before the next is asked for."""
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
