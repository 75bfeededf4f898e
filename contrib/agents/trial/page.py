"""The table of the agents in the documentation: each trial replaces the rows of the agents that it tried."""

import re
from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "agents.md"
TABLE = re.compile(r"(?<=<!-- table of agents -->\n\n)(\|.*?\n)(?=\n<!-- end -->)", re.DOTALL)


def row(cells: Sequence[str]) -> str:
    """Return a row of Markdown."""
    return f"| {' | '.join(cells)} |"


def insert(page: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the page with these rows in its table, by the names of the agents; the others stay.

    Raises:
        ValueError: The page has no place for the table.
    """
    if (found := TABLE.search(page)) is None:
        raise ValueError("the page has no table of agents")
    old = found[1].splitlines()
    kept = {line.split("|")[1].strip(): line for line in old[2:]} if old[0] == row(columns) else {}
    lines = {**kept, **{cells[0]: row(cells) for cells in rows}}
    table = [row(columns), row(["---"] * len(columns)), *(lines[name] for name in sorted(lines))]
    return page[: found.start()] + "\n".join(table) + "\n" + page[found.end() :]
