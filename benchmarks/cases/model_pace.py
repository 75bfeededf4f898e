"""The delay from an agent's token to its frame at one observer, at a model's pace, against the agent's bare pipe.

An ACP agent writes 15, 30, 50 and 120 tokens a second, each with the CLOCK_MONOTONIC time at which it was written.
The daemon syncs each to the disk before it sends it. The baseline reads the pipe of the same agent and decodes its
lines. A note has the tokens that shared an event, and the processor time of a token.
"""

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import attrs

from benchmarks.agents import configure, request
from benchmarks.processes import Program, python
from benchmarks.rows import Plan, Row, at_most_more
from benchmarks.servers import Daemon, installed, remove
from benchmarks.ticks import Series
from benchmarks.tokens import Heard, agent
from benchmarks.watching import watching

PACES = (15, 30, 50, 120)
SECONDS = 4.0

MOST_MORE_MS = {50: 2.5, 99: 11.0}
"""The delay that the daemon may add at these percentiles: as much as the pipe of a real agent takes, opencode at 50
tokens a second. So the daemon at most doubles the delay of such an agent."""


@attrs.frozen
class Spoken:
    """The tokens of a series as they arrived, and the processor time of the program that passed them on."""

    heard: Heard
    cpu_s: float

    @property
    def cpu_ms(self) -> float:
        """The processor time of a token in milliseconds."""
        return self.cpu_s * 1_000 / self.heard.series.count


def measure(plan: Plan) -> Sequence[Row]:
    """Measure the median and the 99th percentile of the delay at each pace."""
    folder = plan.folder / "model_pace"
    configure(folder, {"speaker": agent()}, backend="acp")
    try:
        with Daemon(installed(), folder, store=f"fs:{folder / 'store'}") as daemon:
            worker = daemon.create_worker(**request("speaker"))
            paces = plan.size(PACES, PACES[-1:])
            return [row for pace in paces for row in _rows(plan, daemon, worker, pace, folder)]
    finally:
        remove(folder)


def _rows(plan: Plan, daemon: Daemon, worker: str, pace: int, folder: Path) -> Sequence[Row]:
    series = Series(int(pace * plan.size(SECONDS, 0.5)), pace)
    ours, bare = plan.interleave(
        partial(through_daemon, daemon, worker, series), partial(_through_pipe, series, folder)
    )
    joined = sum(spoken.heard.series.count - spoken.heard.deltas for spoken in ours)
    tokens = sum(spoken.heard.series.count for spoken in ours)
    costs = [f"{median(spoken.cpu_ms for spoken in spoken_by):.2f} ms" for spoken_by in (ours, bare)]
    note = f"{joined} of {tokens} tokens joined with others; processor time of a token: {' against '.join(costs)}"
    return [
        Row(
            f"token to frame, {pace}/s, p{percent}",
            "ms",
            [spoken.heard.percentile_ms(percent) for spoken in ours],
            [spoken.heard.percentile_ms(percent) for spoken in bare],
            at_most_more(most),
            note if percent == 50 else "",
        )
        for percent, most in MOST_MORE_MS.items()
    ]


def through_daemon(daemon: Daemon, worker: str, series: Series) -> Spoken:
    """Let the Worker's agent write a series, and receive it as an observer."""
    path, heard = f"/v1/workers/{worker}", Heard(series)
    with watching(daemon, f"{path}/events/ws") as feed:
        feed.frame()
        before = daemon.cpu_seconds()
        daemon.post(f"{path}/input", {"kind": "user", "content": series.order()})
        while True:
            payload = json.loads(feed.frame())["envelope"]["payload"]
            if payload["event"] == "text_delta":
                heard.take(payload["data"]["text"], time.monotonic_ns())
            elif payload["event"] == "run_end":
                return Spoken(heard.checked(), daemon.cpu_seconds() - before)


def _through_pipe(series: Series, folder: Path) -> Spoken:
    argv = python("benchmarks.baselines.prompting", str(series.count), str(series.rate), *agent())
    with Program(argv, folder / "prompting.log") as program:
        delays, cpu_s = json.loads(program.read_line())
    return Spoken(Heard(series, delays), cpu_s)
