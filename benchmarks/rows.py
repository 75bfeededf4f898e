"""A line of the result: what was measured, next to its baseline, and what was aimed at."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, Self, TypeVar

import attrs

T = TypeVar("T")


@attrs.frozen
class Target:
    """A bound for the ratio of ours to the baseline, or for the difference of the two."""

    bound: float
    kind: Literal["at least", "at most"]
    of: Literal["ratio", "difference"] = "ratio"

    def met(self, figure: float) -> bool:
        """Whether a ratio, or a difference, is what was aimed at."""
        return figure >= self.bound if self.kind == "at least" else figure <= self.bound

    def __str__(self) -> str:
        sign = "≥" if self.kind == "at least" else "≤"
        return f"{sign} {self.bound:.2f}" if self.of == "ratio" else f"{sign} {self.bound:g} more"


def at_least(ratio: float) -> Target:
    """Ours is at least this many times the baseline."""
    return Target(ratio, "at least")


def at_most(ratio: float) -> Target:
    """Ours is at most this many times the baseline."""
    return Target(ratio, "at most")


def at_most_more(difference: float) -> Target:
    """Ours is the baseline and at most this much more."""
    return Target(difference, "at most", "difference")


@attrs.frozen
class Row:
    """One comparison. `ours` and `baseline` are the figures of all repetitions, in `unit`; their medians count.

    `note` is what one must know to read them.
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
        """Whether the target is."""
        return self.target.met(self.figure)

    def plain(self) -> dict[str, Any]:
        """The row as JSON."""
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
        """The same row from its JSON."""
        ours, baseline, target = plain["ours"]["all"], plain["baseline"]["all"], Target(**plain["target"])
        return cls(plain["case"], plain["unit"], ours, baseline, target, plain["note"])


@attrs.frozen
class Curve:
    """How a figure goes with the number of those who ask for it: a line called `name` in the plot called `plot`.

    `points` are that number and the figure, whose unit the plot's name has.
    """

    plot: str
    among: str
    name: str
    points: Sequence[tuple[int, float]]

    def plain(self) -> dict[str, Any]:
        """The curve as JSON."""
        return attrs.asdict(self)


Finding = Row | Curve


@attrs.frozen
class Plan:
    """How much is done: a full run, or a quick one that shows only that it works. `folder` is on a real disk."""

    folder: Path
    repetitions: int
    quick: bool

    def size(self, full: T, quick: T) -> T:
        """One of the two."""
        return quick if self.quick else full

    def interleave(self, *measures: Callable[[], T]) -> list[list[T]]:
        """The answers of each, taken in turns, so that whatever disturbs the machine disturbs all of them alike."""
        rounds = [[measure() for measure in measures] for _ in range(self.repetitions)]
        return [list(answers) for answers in zip(*rounds, strict=True)]
