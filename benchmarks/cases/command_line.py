"""The time of `runtimectl`: its version, a list, and `acp` until an editor has its answer.

The baseline is `python -c pass`. The list has 20 Workers. All run from a plain installation in a new environment,
with the same interpreter. An editable installation would slow down all of them and hide the difference. The output
goes to a pipe.
"""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.installation import install
from benchmarks.rows import Plan, Row, at_most
from benchmarks.servers import Daemon, installed, remove

WORKERS = 20
INITIALIZE = b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":1}}\n'
RUNS = 20
"""The runs in a repetition. Its figure is their median."""


def measure(plan: Plan) -> Sequence[Row]:
    """Measure the time of each command and of an empty program."""
    folder = plan.folder / "command_line"
    try:
        programs = install(folder)
        with Daemon(installed(), folder) as daemon:
            daemon.create_workers(WORKERS)
            environment = {**os.environ, "RUNTIMECTL_URL": daemon.url, "RUNTIMECTL_TOKEN": daemon.token}

            def timed(*arguments: str) -> Callable[[], float]:
                argv = [str(programs / arguments[0]), *arguments[1:]]
                return lambda: _median_ms(argv, environment, folder, plan.size(RUNS, 3))

            def initialized() -> float:
                argv = [str(programs / "runtimectl"), "acp"]
                return _median_ms(argv, environment, folder, plan.size(RUNS, 3), _milliseconds_to_answer)

            version, listing, agent, nothing = plan.interleave(
                timed("runtimectl", "--version"),
                timed("runtimectl", "workers", "list"),
                initialized,
                timed("python", "-c", "pass"),
            )
    finally:
        remove(folder)
    return [
        Row("runtimectl --version", "ms", version, nothing, at_most(1.3)),
        Row(f"runtimectl workers list, {WORKERS} Workers", "ms", listing, nothing, at_most(8.0)),
        Row("runtimectl acp, initialized", "ms", agent, nothing, at_most(20.0)),
    ]


def _milliseconds(argv: Sequence[str], environment: Mapping[str, str], folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run(argv, env=environment, cwd=folder, stdout=subprocess.PIPE, check=True)
    return (time.perf_counter() - began) * 1_000


def _milliseconds_to_answer(argv: Sequence[str], environment: Mapping[str, str], folder: Path) -> float:
    began = time.perf_counter()
    with subprocess.Popen(
        argv, env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(INITIALIZE)
        process.stdin.flush()
        answer = process.stdout.readline()
        passed = time.perf_counter() - began
        process.stdin.close()
    if b"protocolVersion" not in answer:
        raise RuntimeError(f"unexpected answer: {answer!r}")
    return passed * 1_000


def _median_ms(
    argv: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    runs: int,
    measure_ms: Callable[[Sequence[str], Mapping[str, str], Path], float] = _milliseconds,
) -> float:
    return median(measure_ms(argv, environment, folder) for _ in range(runs))
