"""Tables: which columns show an object, and how rows become aligned lines."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from runtimectl.output.text import one_line, shortened, width

MAX_CELL = 160
GAP = "   "

Object = dict[str, Any]
Rows = Sequence[Sequence[str]]


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: The heading.
        value: Returns what a cell shows of an object; None becomes `-`.
        max_width: The number of characters after which a cell is cut.
    """

    title: str
    value: Callable[[Object], object]
    max_width: int = MAX_CELL


class View(NamedTuple):
    """How to show the objects in an answer.

    Attributes:
        member: The field of the answer that holds the object, or a list of them.
        name: Returns what `-o name` prints of an object.
        columns: The columns of the table.
        is_upright: Show each column of an object on a line of its own.
    """

    member: str
    name: Callable[[Object], str]
    columns: tuple[Column, ...]
    is_upright: bool = False


def at(path: str) -> Callable[[Object], Any]:
    """Return a function that looks up a path such as `execution.run_state` in an object; None where it is missing."""
    steps = path.split(".")

    def value(item: Any) -> Any:
        for step in steps:
            item = item.get(step) if isinstance(item, dict) else None
        return item

    return value


def yes_or_no(field: str) -> Callable[[Object], object]:
    """Return a function that shows a boolean field of an object as `yes` or `no`; None where it is missing."""

    def value(item: Object) -> object:
        found = item.get(field)
        return None if found is None else "yes" if found else "no"

    return value


def rows(view: View, items: Sequence[Object]) -> Rows:
    """Return the cells of a table, its heading first; without a heading for an upright view."""
    if view.is_upright:
        return [[column.title.capitalize(), _cell(column, item)] for item in items for column in view.columns]
    body = [[shortened(_cell(column, item), column.max_width) for column in view.columns] for item in items]
    return [[column.title for column in view.columns], *body]


def aligned(cells: Rows) -> Iterator[str]:
    """Yield each row as a line, its cells padded to the width of their column."""
    widths = [max(width(cell) for cell in column) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (cell + " " * (room - width(cell)) for cell, room in zip(row, widths, strict=True))
        yield GAP.join(padded).rstrip()


def _cell(column: Column, item: Object) -> str:
    value = column.value(item)
    return "-" if value is None else one_line(str(value))
