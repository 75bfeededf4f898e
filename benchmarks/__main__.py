"""`python -m benchmarks`: run cases and compare each with its baseline."""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES
from benchmarks.machine import REPOSITORY, describe, file_system
from benchmarks.rows import Curve, Finding, Plan, Row
from benchmarks.table import table

BUILD = REPOSITORY / "build" / "benchmarks"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named cases, print a table and write the JSON. The exit status is 0 even if a target was missed."""
    given = _options().parse_args(arguments)
    for folder in (given.folder, given.json.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if file_system(given.folder) in {"tmpfs", "ramfs"}:
        _options().error(f"argument --folder: expected a folder on a disk, {given.folder} is in memory")
    plan = Plan(given.folder.resolve(), given.repetitions or (1 if given.quick else 5), given.quick)
    machine, started = describe(plan.folder), time.time()
    found = {name: _measured(name, plan) for name in given.only or CASES}
    print(table(one for findings in found.values() for one in findings if isinstance(one, Row)))
    result = {
        "machine": machine,
        "started": started,
        "seconds": time.time() - started,
        "quick": plan.quick,
        "repetitions": plan.repetitions,
        **_plain(found),
    }
    given.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def _measured(name: str, plan: Plan) -> Sequence[Finding]:
    began = time.monotonic()
    findings = CASES[name](plan)
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return findings


def _plain(found: Mapping[str, Sequence[Finding]]) -> dict[str, Any]:
    """Return all findings as JSON values, each with the name of its case."""
    return {
        kind: [
            {"of": name, **one.plain()} for name, findings in found.items() for one in findings if type(one) is wanted
        ]
        for kind, wanted in (("rows", Row), ("curves", Curve))
    }


def _options() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<16} {_about(name)}" for name in CASES)
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description="Measure the daemon, each case next to its own baseline in the same run.",
        epilog=f"cases:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("only", nargs="*", type=_case, metavar="CASE", help="which cases [all]")
    parser.add_argument("--quick", action="store_true", help="smaller and only once: shows that it works")
    parser.add_argument("--repetitions", type=_positive, metavar="N", help="of each figure [5; 1 with --quick]")
    parser.add_argument(
        "--folder", type=Path, default=BUILD, help="for the stores, on a disk; emptied [build/benchmarks]"
    )
    parser.add_argument("--json", type=Path, default=BUILD / "result.json", help="[build/benchmarks/result.json]")
    return parser


def _about(name: str) -> str:
    return (sys.modules[CASES[name].__module__].__doc__ or "").partition("\n")[0]


def _case(name: str) -> str:
    if name not in CASES:
        raise argparse.ArgumentTypeError(f"there is no case {name!r}, expected one of {', '.join(CASES)}")
    return name


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("expected a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
