"""The time from a create to a ready agent: one that was started ahead against one that is started for it.

The scripted agent takes 2 s to start, as real agents do. The measured time is that of the create, whose answer comes
when the agent has its session. The warm one is measured once another agent waits.
"""

import time
from collections.abc import Sequence
from functools import partial

from benchmarks.agents import configure, request
from benchmarks.rows import Plan, Row, at_most
from benchmarks.servers import Daemon, installed, remove
from benchmarks.tokens import agent

START_S = 2.0
READY_DEADLINE_S = 60.0
POLL_S = 0.05


def measure(plan: Plan) -> Sequence[Row]:
    """Measure creates of a profile with a warm agent, and of the same profile without."""
    folder, start_s = plan.folder / "warm_create", plan.size(START_S, 0.5)
    configure(folder, {name: agent(start_s) for name in ("warm", "cold")}, backend="acp", warm={"warm": 1})
    try:
        with Daemon(installed(), folder, store=f"fs:{folder / 'store'}") as daemon:
            daemon.create_worker(**request("cold"))  # the first one loads the library of the protocol
            warm, cold = plan.interleave(partial(_warm_s, daemon), partial(_create_s, daemon, "cold"))
    finally:
        remove(folder)
    return [Row(f"create to ready, an agent that starts in {start_s:g} s: warm", "s", warm, cold, at_most(0.33))]


def _warm_s(daemon: Daemon) -> float:
    deadline = time.monotonic() + READY_DEADLINE_S
    while not _ready(daemon):
        if time.monotonic() > deadline:
            raise TimeoutError("no warm agent became ready")
        time.sleep(POLL_S)
    return _create_s(daemon, "warm")


def _ready(daemon: Daemon) -> int:
    """Return how many warm agents wait for a Worker."""
    profiles = daemon.get("/v1/profiles")["profiles"]
    return int(next(one["warm"]["ready"] for one in profiles if one["selector"] == "builtin:warm"))


def _create_s(daemon: Daemon, name: str) -> float:
    began = time.monotonic()
    daemon.create_worker(**request(name))
    return time.monotonic() - began
