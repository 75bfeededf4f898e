"""What goes to stdout: the object the daemon gave in the format asked for, or a table of it."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

from runtimectl.text import json_safe, one_line, shortened, width

Format = Literal["table", "json", "jsonl", "yaml", "name"]
FORMATS = get_args(Format)
MAX_CELL = 160
GAP = "   "

_STYLES = {
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
    "running": "green",
    "accepted": "green",
    "busy": "yellow",
    "cancelled": "dim",
    "errored": "red",
    "rejected": "red",
    "stopped": "dim",
    "unconnected": "yellow",
}

Object = dict[str, Any]


class Column(NamedTuple):
    """A column of a table; `value` gives what a cell shows of an object, which is cut behind `room` characters."""

    title: str
    value: Callable[[Object], object]
    room: int = MAX_CELL


class View(NamedTuple):
    """How to show what stands in one member of an answer; `upright` puts each column on a line of its own."""

    member: str
    name: Callable[[Object], str]
    columns: tuple[Column, ...]
    upright: bool = False


def at(path: str) -> Callable[[Object], Any]:
    """What stands in an object at a path such as `execution.run_state`, or None."""
    steps = path.split(".")

    def value(item: Any) -> Any:
        for step in steps:
            item = item.get(step) if isinstance(item, dict) else None
        return item

    return value


class Printer:
    """Writes data to stdout and nothing else."""

    def __init__(self, output: Format, *, colour: bool) -> None:
        self.output = output
        self._colour = colour

    def show(self, view: View, *bodies: Object) -> None:
        """Whole answers of the daemon, as they are or as the rows of one table."""
        if self.whole:
            for body in bodies:
                self.body(body)
        else:
            self._rows(view, [item for body in bodies for item in _items(body[view.member])])
        sys.stdout.flush()

    @property
    def whole(self) -> bool:
        """Whether the format shows answers as they are."""
        return self.output in {"json", "yaml"}

    def body(self, body: Object) -> None:
        """One answer as it is."""
        if self.output == "yaml":
            _yaml(body)
        else:
            _line(_json(body, pretty=sys.stdout.isatty()))

    def record(self, item: Object, text: Callable[[Object], str], name: str) -> None:
        """One of many objects that come one by one; `text` makes the lines that stand for it where people read."""
        if self.output == "yaml":
            _yaml(item)
        elif self.output == "name":
            _line(name)
        else:
            _line(text(item) if self.output == "table" else _json(item))
        sys.stdout.flush()

    def _rows(self, view: View, items: Iterable[Object]) -> None:
        if self.output == "table":
            self._table(view, items)
            return
        for item in items:
            _line(_json(item) if self.output == "jsonl" else one_line(view.name(item)))

    def _table(self, view: View, items: Iterable[Object]) -> None:
        if view.upright:
            rows = [[column.title.capitalize(), _cell(column, item)] for item in items for column in view.columns]
        else:
            rows = [[column.title for column in view.columns]]
            rows += [[shortened(_cell(column, item), column.room) for column in view.columns] for item in items]
        if self._colour:
            _draw(rows, heading=not view.upright)
        else:
            for line in _aligned(rows):
                _line(line)


def _items(member: Any) -> list[Object]:
    return member if isinstance(member, list) else [member]


def _cell(column: Column, item: Object) -> str:
    value = column.value(item)
    return "-" if value is None else one_line(str(value))


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(width(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell + " " * (room - width(cell)) for cell, room in zip(row, widths, strict=True))
        yield GAP.join(padded).rstrip()


def _draw(rows: Sequence[Sequence[str]], *, heading: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    room = sum(max(width(cell) for cell in column) + len(GAP) for column in zip(*rows, strict=True))
    table = Table(box=None, pad_edge=False, padding=(0, len(GAP), 0, 0), show_header=heading)
    for title in rows[0]:
        table.add_column(Text(title) if heading else "", no_wrap=True)
    for row in rows[1:] if heading else rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console(file=sys.stdout, width=room, highlight=False, markup=False, emoji=False).print(table)


def _json(value: object, *, pretty: bool = False) -> str:
    encoded = json.dumps(value, ensure_ascii=False, indent=2 if pretty else None)
    return "\n".join(map(json_safe, encoded.split("\n")))


def _yaml(document: Object) -> None:
    import yaml

    yaml.safe_dump(document, sys.stdout, explicit_start=True, allow_unicode=True, sort_keys=False)


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
