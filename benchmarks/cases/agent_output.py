"""The time from an input to the last frame of 1,000,000 short lines that a Worker prints, against a bare pipe.

A `process` Worker prints a file by `cat`. The run must end, and its text must be that of the file. The baseline is
`cat` of the same file through an asyncio pipe reader, which reads chunks as the daemon does.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.agents import configure, printer, request
from benchmarks.listener import listening
from benchmarks.processes import Program, python
from benchmarks.rows import Plan, Row, at_most
from benchmarks.servers import Daemon, installed, remove

LINES = 1_000_000


def measure(plan: Plan) -> Sequence[Row]:
    """Measure the time through the daemon and through the pipe."""
    folder, lines = plan.folder / "agent_output", plan.size(LINES, 50_000)
    text, events = folder / "lines", folder / "events"
    configure(folder, {"lines": printer(text), "events": printer(events)})
    try:
        said = [f"line {number} of the output\n" for number in range(lines)]
        text.write_text("".join(said))
        events.write_text("".join(f"{_delta(line)}\n" for line in said))
        with Daemon(installed(), folder, store=f"fs:{folder / 'store'}") as daemon:
            ours, baseline, by_line, by_event = plan.interleave(
                lambda: _worker_s(daemon, "lines", text),
                lambda: _pipe_s(text, "chunks"),
                lambda: _pipe_s(text, "lines"),
                lambda: _worker_s(daemon, "events", text),
            )
    finally:
        remove(folder)
    note = (
        f"read line by line, the pipe takes {median(by_line):.2f} s; "
        f"with each line a text_delta in JSON, the Worker takes {median(by_event):.2f} s"
    )
    return [Row(f"{lines:,} lines of output", "s", ours, baseline, at_most(12.0), note)]


def _delta(text: str) -> str:
    return json.dumps({"event": "text_delta", "data": {"text": text}})


def _worker_s(daemon: Daemon, program: str, text: Path) -> float:
    path = f"/v1/workers/{daemon.create_worker(**request(program))}"
    with listening(daemon, f"{path}/events/ws", text, text.parent / "listener.log") as listener:
        began = time.monotonic()
        daemon.post(f"{path}/input", {"kind": "user", "content": "print"})
        seconds = listener.ended() - began
    daemon.post(f"{path}/stop", {})
    return seconds


def _pipe_s(file: Path, way: str) -> float:
    with Program(python("benchmarks.baselines.piping", str(file), way), file.parent / "piping.log") as program:
        return float(program.read_line())
