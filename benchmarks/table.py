"""Rows as a Markdown table, for the terminal and the documentation."""

from collections.abc import Iterable, Sequence
from statistics import median

from benchmarks.rows import Row

HEAD = ("case", "ours", "baseline", "figure", "target", "met")


def table(rows: Iterable[Row]) -> str:
    """Return a table with the medians of each row, and the notes below it."""
    rows = tuple(rows)
    lines = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    notes = [f"- {row.case}: {row.note}" for row in rows if row.note]
    return "\n".join([*(_line(line, widths) for line in ruled), *([""] if notes else []), *notes])


def number(value: float) -> str:
    """Return a figure with three significant digits, or all digits of a large one."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _cells(row: Row) -> Sequence[str]:
    figure = f"{row.figure:.2f}" if row.target.of == "ratio" else f"{row.figure:+.1f}"
    return (
        row.case,
        f"{number(median(row.ours))} {row.unit}",
        f"{number(median(row.baseline))} {row.unit}",
        figure,
        str(row.target),
        "yes" if row.met else "no",
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |"
