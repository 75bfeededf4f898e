"""Write data to stdout, in the format of `--output`."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from runtimectl.output import tables
from runtimectl.output.tables import GAP, Object, Rows, View
from runtimectl.output.text import json_safe, one_line, width

Format = Literal["table", "json", "jsonl", "yaml", "name"]
FORMATS = get_args(Format)

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


class Printer:
    """Writes answers and single objects to stdout.

    Attributes:
        output: The format.
    """

    def __init__(self, output: Format, *, use_color: bool) -> None:
        self.output = output
        self._use_color = use_color

    @property
    def prints_bodies(self) -> bool:
        """Whether the format prints whole answers, as the daemon gave them."""
        return self.output in {"json", "yaml"}

    def show(self, view: View, *bodies: Object) -> None:
        """Print answers, each as it is or all as the rows of one table."""
        if self.prints_bodies:
            for body in bodies:
                self.body(body)
        else:
            self._items(view, [item for body in bodies for item in _listed(body[view.member])])
        sys.stdout.flush()

    def body(self, body: Object) -> None:
        """Print one answer as it is."""
        if self.output == "yaml":
            _write_yaml(body)
        else:
            _write_line(_json(body, is_pretty=sys.stdout.isatty()))

    def record(self, item: Object, text: Callable[[Object], str], name: str) -> None:
        """Print one object of a stream.

        Args:
            item: The object.
            text: Returns the object as text for people.
            name: What `-o name` prints.
        """
        if self.output == "yaml":
            _write_yaml(item)
        elif self.output == "name":
            _write_line(name)
        else:
            _write_line(text(item) if self.output == "table" else _json(item))
        sys.stdout.flush()

    def _items(self, view: View, items: Sequence[Object]) -> None:
        if self.output == "table":
            self._table(view, items)
            return
        for item in items:
            _write_line(_json(item) if self.output == "jsonl" else one_line(view.name(item)))

    def _table(self, view: View, items: Sequence[Object]) -> None:
        rows = tables.rows(view, items)
        if self._use_color:
            _write_colored(rows, has_heading=not view.is_upright)
        else:
            for line in tables.aligned(rows):
                _write_line(line)


def _listed(member: Any) -> list[Object]:
    return member if isinstance(member, list) else [member]


def _write_colored(rows: Rows, *, has_heading: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    room = sum(max(width(cell) for cell in column) + len(GAP) for column in zip(*rows, strict=True))
    table = Table(box=None, pad_edge=False, padding=(0, len(GAP), 0, 0), show_header=has_heading)
    for title in rows[0]:
        table.add_column(Text(title) if has_heading else "", no_wrap=True)
    for row in rows[1:] if has_heading else rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console(file=sys.stdout, width=room, highlight=False, markup=False, emoji=False).print(table)


def _json(value: object, *, is_pretty: bool = False) -> str:
    encoded = json.dumps(value, ensure_ascii=False, indent=2 if is_pretty else None)
    return "\n".join(map(json_safe, encoded.split("\n")))


def _write_yaml(document: Object) -> None:
    import yaml

    yaml.safe_dump(document, sys.stdout, explicit_start=True, allow_unicode=True, sort_keys=False)


def _write_line(text: str) -> None:
    sys.stdout.write(text + "\n")
