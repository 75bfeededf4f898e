"""`python -m benchmarks.soak`: use a daemon for minutes or hours, and fail if it grows."""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import attrs

from benchmarks.__main__ import BUILD
from benchmarks.servers import remove
from benchmarks.soak import report
from benchmarks.soak.churn import Churn
from benchmarks.soak.daemon import Place, SoakedDaemon
from benchmarks.soak.samples import BOUNDS, Sample, Sampler
from benchmarks.soak.trend import judge

LIVES = (1 / 6, 1 / 6, 2 / 3)
"""The parts of the time between restarts. The last life is judged."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak. Returns 1 if a figure grows, or an action failed."""
    given = _options().parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    outcome = Outcome()
    try:
        _run(given.minutes * 60, given.folder.resolve(), outcome)
    finally:
        report.write(outcome.samples, given.folder)
    for failure in outcome.failures:
        print(f"an action failed: {failure!r}", file=sys.stderr)
    if outcome.failures:
        return 1
    judged = [sample for sample in outcome.samples if sample.life == len(LIVES)]
    trends = {
        name: judge([(one.seconds, one.figures[name]) for one in judged], bound) for name, bound in BOUNDS.items()
    }
    print(", ".join(f"{name}: {count:,}" for name, count in sorted(outcome.counts.items())))
    print(report.table(trends))
    return 0 if all(trend.is_flat for trend in trends.values()) else 1


@attrs.define
class Outcome:
    """What a soak has found so far.

    Attributes:
        samples: All samples.
        counts: How often each action was done.
        failures: What failed.
    """

    samples: list[Sample] = attrs.field(factory=list)
    counts: Counter[str] = attrs.field(factory=Counter)
    failures: list[Exception] = attrs.field(factory=list)


def _run(seconds: float, folder: Path, outcome: Outcome) -> None:
    work = folder / "soak"
    remove(work)
    began = time.monotonic()
    left: list[str] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as sockets:
        place = Place(work, Path(sockets))
        for life, share in enumerate(LIVES, 1):
            with SoakedDaemon(place) as daemon:
                churn = Churn(daemon, outcome.counts, left)
                sampler = Sampler(daemon, life, began, churn.fail)
                sampler.start()
                try:
                    with churn:
                        churn.wait(seconds * share)
                finally:
                    sampler.stop()
                    outcome.samples += sampler.samples
                outcome.failures += churn.failures
            if outcome.failures:
                return
    remove(work)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=_positive, default=3.0, metavar="N", help="how long [3]")
    parser.add_argument(
        "--folder", type=Path, default=BUILD, help="for the store, soak.csv and soak.svg [build/benchmarks]"
    )
    return parser


def _positive(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 100_000:
        raise argparse.ArgumentTypeError("expected a number of minutes above 0")
    return found


if __name__ == "__main__":
    sys.exit(main())
