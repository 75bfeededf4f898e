"""The results: what was measured, its baseline and its target."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, Self, TypeVar

import attrs

T = TypeVar("T")


@attrs.frozen
class Target:
    """A bound for the ratio of our figure to the baseline, or for their difference."""

    bound: float
    kind: Literal["at least", "at most"]
    of: Literal["ratio", "difference"] = "ratio"

    def met(self, figure: float) -> bool:
        """Return whether a ratio, or a difference, meets the target."""
        return figure >= self.bound if self.kind == "at least" else figure <= self.bound

    def __str__(self) -> str:
        sign = "≥" if self.kind == "at least" else "≤"
        return f"{sign} {self.bound:.2f}" if self.of == "ratio" else f"{sign} {self.bound:g} more"


def at_least(ratio: float) -> Target:
    """Return the target that our figure is at least this many times the baseline."""
    return Target(ratio, "at least")


def at_most(ratio: float) -> Target:
    """Return the target that our figure is at most this many times the baseline."""
    return Target(ratio, "at most")


def at_most_more(difference: float) -> Target:
    """Return the target that our figure exceeds the baseline by at most this much."""
    return Target(difference, "at most", "difference")


@attrs.frozen
class Row:
    """One comparison, by the medians of all repetitions.

    Attributes:
        case: What was measured.
        unit: The unit of the figures.
        ours: The figures of the daemon.
        baseline: The figures of the baseline.
        target: What the comparison should reach.
        note: What a reader needs to know.
    """

    case: str
    unit: str
    ours: Sequence[float]
    baseline: Sequence[float]
    target: Target
    note: str = ""

    @property
    def figure(self) -> float:
        """The ratio of the medians, or their difference."""
        ours, baseline = median(self.ours), median(self.baseline)
        return ours / baseline if self.target.of == "ratio" else ours - baseline

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.target.met(self.figure)

    def plain(self) -> dict[str, Any]:
        """Return the row as a JSON value."""
        return {
            "case": self.case,
            "unit": self.unit,
            "ours": {"median": median(self.ours), "all": list(self.ours)},
            "baseline": {"median": median(self.baseline), "all": list(self.baseline)},
            self.target.of: self.figure,
            "target": attrs.asdict(self.target),
            "met": self.met,
            "note": self.note,
        }

    @classmethod
    def restore(cls, plain: Mapping[str, Any]) -> Self:
        """Return the row from its JSON value."""
        ours, baseline, target = plain["ours"]["all"], plain["baseline"]["all"], Target(**plain["target"])
        return cls(plain["case"], plain["unit"], ours, baseline, target, plain["note"])


@attrs.frozen
class Curve:
    """A figure by the number of clients or observers.

    Attributes:
        plot: The title of the plot, with the unit of the figure.
        among: The label of the horizontal axis.
        name: The name of the line.
        points: Pairs of a number and a figure.
    """

    plot: str
    among: str
    name: str
    points: Sequence[tuple[float, float]]

    def plain(self) -> dict[str, Any]:
        """Return the curve as a JSON value."""
        return attrs.asdict(self)


Finding = Row | Curve


@attrs.frozen
class Plan:
    """The size of a run.

    Attributes:
        folder: Where stores are created, on a real disk.
        repetitions: How often each figure is measured.
        quick: Use small sizes, to show only that the cases work.
    """

    folder: Path
    repetitions: int
    quick: bool

    def size(self, full: T, quick: T) -> T:
        """Return the value for the size of the run."""
        return quick if self.quick else full

    def interleave(self, *measures: Callable[[], T]) -> list[list[T]]:
        """Run the measures in turns, so that other load affects all alike. Returns the results of each."""
        rounds = [[measure() for measure in measures] for _ in range(self.repetitions)]
        return [list(answers) for answers in zip(*rounds, strict=True)]
