"""The cases: one module a family of rows, each with `measure(plan)`; the first line of its docstring says what."""

from collections.abc import Callable, Sequence

from benchmarks.cases import durable_input, fan_out, reads, replay
from benchmarks.rows import Plan, Row

CASES: dict[str, Callable[[Plan], Sequence[Row]]] = {
    module.__name__.rpartition(".")[2]: module.measure for module in (durable_input, reads, fan_out, replay)
}
