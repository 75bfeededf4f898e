"""Curves as an SVG with its own background, readable in light and dark themes."""

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

import attrs

from benchmarks.rows import Curve

PLOT_WIDTH, PLOT_HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 80, 28, 56, 44
WIDTH, HEIGHT = LEFT + PLOT_WIDTH + RIGHT, TOP + PLOT_HEIGHT + BOTTOM
COLUMNS = 2
LEGEND_STEP = 112

STYLE = """
.ground { fill: #ffffff } .grid { stroke: #d8dee4 } text { fill: #1f2328; font: 12px sans-serif }
.title { font-weight: 600 } .line { stroke-width: 2 } .line.c2 { stroke-dasharray: 6 4 }
.c0 { stroke: #0969da; fill: #0969da } .c1 { stroke: #1a7f37; fill: #1a7f37 } .c2 { stroke: #bc4c00; fill: #bc4c00 }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117 } .grid { stroke: #30363d } text { fill: #e6edf3 }
.c0 { stroke: #58a6ff; fill: #58a6ff } .c1 { stroke: #3fb950; fill: #3fb950 } .c2 { stroke: #f0883e; fill: #f0883e }
}
.line { fill: none }
""".strip()


@attrs.frozen
class Scale:
    """A logarithmic axis.

    Attributes:
        low: The exponent of ten at the low end.
        high: The exponent of ten at the high end.
        pixels: Its length.
    """

    low: int
    high: int
    pixels: int

    @classmethod
    def around(cls, figures: Iterable[float], pixels: int) -> "Scale":
        """Return the smallest scale that contains all figures."""
        tens = [math.log10(figure) for figure in figures]
        low = math.floor(min(tens))
        return cls(low, max(low + 1, math.ceil(max(tens))), pixels)

    def place(self, figure: float) -> float:
        """Return the distance of a figure from the low end, in pixels."""
        return (math.log10(figure) - self.low) / (self.high - self.low) * self.pixels

    def marks(self) -> list[float]:
        """Return the powers of ten on the axis."""
        return [10.0**power for power in range(self.low, self.high + 1)]


@attrs.frozen
class LinearScale(Scale):
    """An axis from 0 to `high` steps of a round size.

    Attributes:
        step: The size of a step.
    """

    step: float = 1.0

    @classmethod
    def around(cls, figures: Iterable[float], pixels: int) -> "LinearScale":
        """Return a scale of two to five steps that contains all figures, which are at least 0."""
        most = max(figures) or 1.0
        ten = 10.0 ** math.floor(math.log10(most))
        step = next(step for step in (ten / 2, ten, ten * 2) if most <= 5 * step)
        return cls(0, max(1, math.ceil(most / step)), pixels, step)

    def place(self, figure: float) -> float:
        """Return the distance of a figure from the low end, in pixels."""
        return figure / (self.high * self.step) * self.pixels

    def marks(self) -> list[float]:
        """Return the ends of the steps."""
        return [number * self.step for number in range(self.high + 1)]


def draw(curves: Sequence[Curve], scale: type[Scale] = Scale) -> str:
    """Return an SVG with one plot for each group of curves with the same `plot`, and this scale for both axes."""
    plots = list(dict.fromkeys(curve.plot for curve in curves))
    rows = -(-len(plots) // COLUMNS)
    size = f"{COLUMNS * WIDTH} {rows * HEIGHT}"
    body = "\n".join(
        f'<g transform="translate({number % COLUMNS * WIDTH} {number // COLUMNS * HEIGHT})">\n'
        + "\n".join(_plot([curve for curve in curves if curve.plot == name], scale))
        + "\n</g>"
        for number, name in enumerate(plots)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img">\n<style>\n{STYLE}\n</style>\n'
        f'<rect class="ground" width="100%" height="100%"/>\n{body}\n</svg>\n'
    )


def _plot(curves: Sequence[Curve], scale: type[Scale]) -> Iterator[str]:
    across = scale.around((x for curve in curves for x, _ in curve.points), PLOT_WIDTH)
    up = scale.around((y for curve in curves for _, y in curve.points), PLOT_HEIGHT)
    yield f'<text class="title" x="{LEFT}" y="20">{escape(curves[0].plot)}</text>'
    yield from _grid(across, up)
    yield _text(LEFT + PLOT_WIDTH / 2, HEIGHT - 8, curves[0].among, "middle")
    for number, curve in enumerate(curves):
        points = [(LEFT + across.place(x), TOP + PLOT_HEIGHT - up.place(y)) for x, y in curve.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline class="line c{number}" points="{path}"/>'
        for x, y in points:
            yield f'<circle class="c{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
        legend = LEFT + number * LEGEND_STEP
        yield f'<circle class="c{number}" cx="{legend + 5}" cy="36" r="4"/>'
        yield _text(legend + 14, 40, curve.name, "start")


def _grid(across: Scale, up: Scale) -> Iterator[str]:
    bottom = TOP + PLOT_HEIGHT
    for mark in across.marks():
        x = LEFT + across.place(mark)
        yield f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>'
        yield _text(x, bottom + 18, _number(mark), "middle")
    for mark in up.marks():
        y = bottom - up.place(mark)
        yield f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + PLOT_WIDTH}" y2="{y:.1f}"/>'
        yield _text(LEFT - 8, y + 4, _number(mark), "end")


def _number(mark: float) -> str:
    return f"{mark:,.0f}" if mark >= 1 or not mark else f"{mark:g}"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
