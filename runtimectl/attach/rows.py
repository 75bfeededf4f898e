"""Break text into rows of a terminal. Pure."""

from runtimectl.output.text import escape_controls, width

TAB = "    "


class RowWrapper:
    """Breaks a stream of text into rows, between words where that is possible.

    Args:
        columns: The width of the terminal.

    Attributes:
        partial: The row that is not complete yet.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.partial = ""

    def add(self, text: str) -> list[str]:
        """Add text and return the rows that it completes."""
        lines = (self.partial + escape_controls(text).replace("\t", TAB)).split("\n")
        rows: list[str] = []
        for line in lines[:-1]:
            rows += wrapped(line, self.columns)
        *complete, self.partial = wrapped(lines[-1], self.columns)
        return rows + complete

    def finish(self) -> list[str]:
        """Return the row that is not complete, if there is one. The next text begins a row of its own."""
        partial, self.partial = self.partial, ""
        return [partial] if partial else []


def wrapped(line: str, columns: int) -> list[str]:
    """Return the rows of one line: at least one, each narrower than the terminal."""
    rows: list[str] = []
    begin = size = 0
    space: int | None = None
    for index, char in enumerate(line):
        size += width(char)
        while size >= columns and begin < index:
            end = index if space is None else space + 1
            rows.append(line[begin:end].rstrip(" ") if space is not None else line[begin:end])
            begin, space = end, None
            size = width(line[begin : index + 1])
        if char == " " and index > begin:
            space = index
    return [*rows, line[begin:]]


def fitted(text: str, columns: int) -> str:
    """Return the text in one row, cut with an ellipsis if it is too wide."""
    if width(text) < columns:
        return text
    kept = ""
    for char in text:
        if width(kept) + width(char) >= columns - 1:
            break
        kept += char
    return kept + "…"
