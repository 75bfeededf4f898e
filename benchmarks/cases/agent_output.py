"""The time for 1,000,000 short lines that a Worker prints, to the last frame at an observer, against a bare pipe.

A shell Worker prints a file by `cat`, from the input on; the run must end and its text be that of the file. The
baseline is `cat` of the same file through an asyncio pipe reader. It takes chunks as they come, as the daemon does.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.listener import listening
from benchmarks.processes import Program, python
from benchmarks.rows import Plan, Row, at_most
from benchmarks.servers import Daemon, installed, remove

LINES = 1_000_000
SHELL = {
    "profile": {"kind": "builtin", "value": "builtin:shell"},
    "requested_capabilities": [{"name": "shell"}],
}


def measure(plan: Plan) -> Sequence[Row]:
    """The time through the daemon against that through the pipe."""
    folder, lines = plan.folder / "agent_output", plan.size(LINES, 50_000)
    try:
        with Daemon(installed(), folder, store=f"fs:{folder / 'store'}") as daemon:
            file = folder / "lines"
            file.write_text("".join(f"line {number} of the output\n" for number in range(lines)))
            ours, baseline, by_line = plan.interleave(
                lambda: _worker_s(daemon, file), lambda: _pipe_s(file, "chunks"), lambda: _pipe_s(file, "lines")
            )
    finally:
        remove(folder)
    note = f"read line by line, the pipe takes {median(by_line):.2f} s"
    return [Row(f"{lines:,} lines of output", "s", ours, baseline, at_most(12.0), note)]


def _worker_s(daemon: Daemon, file: Path) -> float:
    path = f"/v1/workers/{daemon.create_worker(**SHELL)}"
    with listening(daemon, f"{path}/events/ws", file, file.parent / "listener.log") as listener:
        began = time.monotonic()
        daemon.post(f"{path}/input", {"kind": "user", "content": f"cat '{file}'"})
        seconds = listener.ended() - began
    daemon.post(f"{path}/stop", {})
    return seconds


def _pipe_s(file: Path, way: str) -> float:
    with Program(python("benchmarks.baselines.piping", str(file), way), file.parent / "piping.log") as program:
        return float(program.read_line())
