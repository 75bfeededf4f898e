"""A terminal's screen: what a person sees of the bytes that a program wrote."""

import re

from runtimectl.output.text import width

SEQUENCE = re.compile(r"\x1b\[(\d*)([ACJ])")


class ScreenModel:
    """Understands printable text, carriage returns, line feeds, and the three sequences that `attach` writes.

    A character in the last column wraps the row, so a row that is too wide shows.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0

    @property
    def rows(self) -> list[str]:
        """The rows from the first to the last one with text, without blanks at their ends."""
        found = ["".join(row).rstrip() for row in self._rows]
        while found and not found[-1]:
            found.pop()
        return found

    @property
    def cursor(self) -> tuple[int, int]:
        return self._row, self._column

    def write(self, text: str) -> None:
        at = 0
        while at < len(text):
            found = SEQUENCE.match(text, at)
            if found is not None:
                self._control(found[2], int(found[1] or 1))
                at = found.end()
                continue
            assert text[at] != "\x1b", f"an unknown sequence: {text[at : at + 10]!r}"
            self._put(text[at])
            at += 1

    def _control(self, name: str, count: int) -> None:
        if name == "A":
            self._row = max(self._row - count, 0)
        elif name == "C":
            self._column = min(self._column + count, self._columns - 1)
        else:
            del self._rows[self._row][self._column :]
            del self._rows[self._row + 1 :]

    def _put(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\n":
            self._next_row()
        else:
            row = self._rows[self._row]
            row += [" "] * (self._column - len(row))
            cells = [char, *[""] * (width(char) - 1)]
            row[self._column : self._column + len(cells)] = cells
            self._column += len(cells)
            if self._column >= self._columns:
                self._column = 0
                self._next_row()

    def _next_row(self) -> None:
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append([])
