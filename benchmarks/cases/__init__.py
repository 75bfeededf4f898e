"""The cases: each module has `measure(plan)`, and the first line of its docstring says what it measures."""

from collections.abc import Callable, Sequence

from benchmarks.cases import (
    agent_output,
    agent_talk,
    command_line,
    confined_spawn,
    durable_input,
    fan_out,
    gateway,
    interactive,
    latency,
    memory,
    model_pace,
    one_run,
    reads,
    replay,
    scaling,
    start,
    warm_create,
)
from benchmarks.rows import Finding, Plan

MODULES = (
    durable_input,
    reads,
    fan_out,
    replay,
    latency,
    start,
    memory,
    command_line,
    one_run,
    agent_output,
    agent_talk,
    model_pace,
    interactive,
    warm_create,
    confined_spawn,
    gateway,
    scaling,
)
CASES: dict[str, Callable[[Plan], Sequence[Finding]]] = {
    module.__name__.rpartition(".")[2]: module.measure for module in MODULES
}
