"""The figures of the documentation: `python -m benchmarks.page [RESULT]`, or `make bench PAGE=1`.

It writes a table for each case and the machine between the markers of the page, and the plot next to the page. It
accepts only a full run of all cases.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES
from benchmarks.machine import REPOSITORY
from benchmarks.plot import draw
from benchmarks.rows import Curve, Row
from benchmarks.table import table

PAGE = REPOSITORY / "docs" / "explanation" / "performance.md"
RESULT = REPOSITORY / "build" / "benchmarks" / "result.json"
MARKED = re.compile(r"(<!-- figures of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    """Write the page. Returns 1 if the result is not of a full run."""
    result = json.loads((Path(sys.argv[1]) if len(sys.argv) > 1 else RESULT).read_text())
    if result["quick"] or {one["of"] for one in (*result["rows"], *result["curves"])} != set(CASES):
        print("expected the result of a full run of all cases: make bench PAGE=1", file=sys.stderr)
        return 1
    PAGE.write_text(insert(PAGE.read_text(), result))
    PAGE.with_suffix(".svg").write_text(draw([Curve(**_without_case(curve)) for curve in result["curves"]]))
    return 0


def insert(page: str, result: Mapping[str, Any]) -> str:
    """Return the page with the figures of a result. Raises KeyError for a marker without figures."""
    figures = {"machine": _machine(result)}
    for name in CASES:
        rows = [Row.restore(row) for row in result["rows"] if row["of"] == name]
        if rows:
            figures[name] = table(rows)
    return MARKED.sub(lambda found: f"{found[1]}\n{figures[found[2]]}\n\n{found[3]}", page)


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    load, minutes = machine["load_average"][0], result["seconds"] / 60
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory']} of memory",
        f"Linux {machine['kernel']}, stores on {machine['store_file_system']}",
        f"Python {machine['python']}, event loop {machine['event_loop']}, {packages}",
        f"revision {machine['revision']}{' with changes' if machine['uncommitted_changes'] else ''}",
        f"repetitions: {result['repetitions']}, in {minutes:.0f} minutes; load average before: {load:.1f}",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _without_case(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in plain.items() if name != "of"}


if __name__ == "__main__":
    sys.exit(main())
