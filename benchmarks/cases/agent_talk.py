"""The time until a Worker's program starts and until it answers, against the same program on asyncio's pipes.

It measures from the request that creates a Worker to the first event of its program, and from an input to the frame
that ends its run, both at one observer. The program is a shell script. The baseline runs the same program without a
daemon: no request, no isolation, no store. So the target is for the difference.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.agents import ECHO, READY, configure, request, shell
from benchmarks.processes import Program, python
from benchmarks.rows import Plan, Row, at_most_more
from benchmarks.servers import Daemon, installed, remove
from benchmarks.watching import watching

COUNT = 50
END = b'"event":"run_end"'


def measure(plan: Plan) -> Sequence[Row]:
    """Measure both delays. Each figure is the median of many."""
    folder, count = plan.folder / "agent_talk", plan.size(COUNT, 5)
    configure(folder, {"echo": shell(ECHO)})
    try:
        with Daemon(installed(), folder, store=f"fs:{folder / 'store'}") as daemon:
            ours, bare = plan.interleave(
                lambda: (_spawn_ms(daemon, count), _answer_ms(daemon, count)), lambda: _bare_ms(folder, count)
            )
    finally:
        remove(folder)
    spawned, answered = zip(*ours, strict=True)
    starts, answers = zip(*bare, strict=True)
    return [
        Row("create a Worker, to its program's first event", "ms", spawned, starts, at_most_more(50)),
        Row("an input, to the end of its run", "ms", answered, answers, at_most_more(25)),
    ]


def _spawn_ms(daemon: Daemon, count: int) -> float:
    found = []
    with watching(daemon, "/v1/events/ws") as feed:
        for _ in range(count):
            began = time.monotonic()
            worker = daemon.create_worker(**request("echo"))
            found.append((feed.until(READY.encode()) - began) * 1_000)
            daemon.post(f"/v1/workers/{worker}/stop", {})
    return median(found)


def _answer_ms(daemon: Daemon, count: int) -> float:
    path = f"/v1/workers/{daemon.create_worker(**request('echo'))}"
    found = []
    with watching(daemon, f"{path}/events/ws") as feed:
        for _ in range(count):
            began = time.monotonic()
            daemon.post(f"{path}/input", {"kind": "user", "content": "hello"})
            found.append((feed.until(END) - began) * 1_000)
    daemon.post(f"{path}/stop", {})
    return median(found)


def _bare_ms(folder: Path, count: int) -> tuple[float, float]:
    with Program(python("benchmarks.baselines.talking", str(count), *shell(ECHO)), folder / "talking.log") as program:
        starts, answers = json.loads(program.read_line())
    return median(starts), median(answers)
