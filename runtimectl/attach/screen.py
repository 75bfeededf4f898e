"""The terminal: rows that stay, and below them a few rows that change in place."""

from collections.abc import Callable, Sequence

CLEAR_BELOW = "\x1b[J"


class Screen:
    """Writes rows that stay, and rows below them that are drawn anew with each change.

    Every row is narrower than the terminal, so it takes one line.

    Args:
        write: Writes to the terminal.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._rows_above_cursor = 0

    def draw(self, stay: Sequence[str], below: Sequence[str], cursor: int) -> None:
        """Write rows that stay, and draw the others below them.

        Args:
            stay: The new rows that stay.
            below: The rows that change, the last one with the cursor.
            cursor: The column of the cursor in the last row.
        """
        up = f"\x1b[{self._rows_above_cursor}A" if self._rows_above_cursor else ""
        rows = "".join(f"{row}\r\n" for row in stay)
        place = f"\r\x1b[{cursor}C" if cursor else "\r"
        self._write(f"\r{up}{CLEAR_BELOW}{rows}" + "\r\n".join(below) + place)
        self._rows_above_cursor = max(len(below) - 1, 0)
