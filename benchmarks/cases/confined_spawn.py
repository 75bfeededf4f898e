"""The time of confined programs, from their start to their end, against those in a PID namespace alone.

The program is `true`. Confined by bubblewrap it also has a file system, a user, a filter of system calls and a
network namespace of its own, in which the daemon listens for it. The baseline is a Worker with `mode = "off"`.

The first program of a Worker waits until it is decided what confines it, and until its sandbox is made. That of a
following one is made ahead, while the Worker has nothing to do: its time does not contain that, and the processor
time does not become less.
"""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.rows import Plan, Row, at_most
from benchmarks.servers import remove
from runtimed.execution.confinement.confiner import HostConfiner
from runtimed.execution.confinement.host_paths import HostPaths
from runtimed.execution.confinement.probe import Mechanisms, find_mechanisms
from runtimed.execution.confinement.users import Users
from runtimed.execution.policy import FIRST_UID, LAST_UID, SandboxPolicy
from runtimed.execution.processes.confinement import SandboxRequest
from runtimed.execution.processes.supervisor import Program, Supervisor
from runtimed.model.identity import WorkerId, worker_id
from runtimed.model.profile import SandboxMode

SPAWNS = 50
"""The programs of one figure, one after the other."""

COMMAND = ("true",)
FIRST, FOLLOWING = "first confined spawn", "following confined spawn"

DEADLINE_S = 30.0
POLL_S = 0.005
"""How long a sandbox may take to be prepared, and the pause between two looks."""

NUMBERS = range(FIRST_UID, LAST_UID + 1)
Times = Mapping[str, float]
MODES: tuple[SandboxMode, ...] = ("required", "off")


def measure(plan: Plan) -> Sequence[Row]:
    """Measure the first program of a Worker, and a following one. Without bubblewrap there is nothing to measure."""
    folder, spawns = plan.folder / "confined_spawn", plan.size(SPAWNS, 3)
    mechanisms = find_mechanisms(NUMBERS.start if os.geteuid() == 0 else None)
    if not any(mechanism.mechanism == "bubblewrap" for mechanism in mechanisms.working):
        return []
    folder.mkdir(parents=True)
    try:
        measures = [partial(_run, mechanisms, SandboxPolicy(mode), folder, spawns) for mode in MODES]
        confined, plain = plan.interleave(*measures)
    finally:
        remove(folder)
    return [_row(name, confined, plain) for name in (FIRST, FOLLOWING)]


def _row(name: str, confined: Sequence[Times], plain: Sequence[Times]) -> Row:
    ours, baseline = ([times[name] for times in measured] for measured in (confined, plain))
    return Row(f"{name}, to its end", "ms", ours, baseline, at_most(1.5))


def _run(mechanisms: Mechanisms, policy: SandboxPolicy, folder: Path, spawns: int) -> Times:
    """Return the median times in milliseconds."""
    users = Users(NUMBERS, folder) if os.geteuid() == 0 else None
    return asyncio.run(_time(HostConfiner(mechanisms, HostPaths(), users), policy, folder, spawns))


async def _time(confiner: HostConfiner, policy: SandboxPolicy, folder: Path, spawns: int) -> Times:
    supervisor = Supervisor(confiner=confiner)
    try:
        await _spawns_s(supervisor, policy, folder, worker_id(1))  # finds out how processes are kept together
        times = [await _spawns_s(supervisor, policy, folder, worker_id(number)) for number in range(2, spawns + 2)]
    finally:
        await supervisor.close()
    first, following = zip(*times, strict=True)
    return {FIRST: median(first) * 1_000, FOLLOWING: median(following) * 1_000}


async def _spawns_s(
    supervisor: Supervisor, policy: SandboxPolicy, workers: Path, name: WorkerId
) -> tuple[float, float]:
    """Decide what confines a new Worker, and run two programs for it to their ends. Its folder exists before."""
    folder = workers / name
    folder.mkdir(exist_ok=True)
    began = time.monotonic()
    await supervisor.confiner.enclose(name, SandboxRequest(policy, COMMAND, dict(os.environ), {}), folder)
    await _spawn(supervisor, folder, name)
    first_s = time.monotonic() - began
    async with asyncio.timeout(DEADLINE_S):
        while policy.mode != "off" and not supervisor.prepared:  # noqa: ASYNC110 nothing says so
            await asyncio.sleep(POLL_S)
    began = time.monotonic()
    await _spawn(supervisor, folder, name)
    following_s = time.monotonic() - began
    await supervisor.confiner.release(name)
    return first_s, following_s


async def _spawn(supervisor: Supervisor, folder: Path, name: WorkerId) -> None:
    (stdin, write), (read, stdout), (errors, stderr) = supervisor.pipes(name)
    try:
        tree = await supervisor.start(
            Program(COMMAND, folder, dict(os.environ), stdin, stdout, stderr, worker_id=name)
        )
        status = await tree.exit
    finally:
        for descriptor in (write, read, errors):
            os.close(descriptor)
    if status:
        raise RuntimeError(f"the program ended with {status}")
