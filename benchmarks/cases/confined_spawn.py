"""The time of a confined program, from its start to its end, against one in a PID namespace alone.

The program is `true`. Confined by bubblewrap it also has a file system, a user, a filter of system calls and a
network namespace of its own, in which the daemon listens for it. The baseline is a Worker with `mode = "off"`.
"""

import asyncio
import os
import time
from collections.abc import Sequence
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
NUMBERS = range(FIRST_UID, LAST_UID + 1)
MODES: tuple[SandboxMode, ...] = ("required", "off")


def measure(plan: Plan) -> Sequence[Row]:
    """Measure both. Without bubblewrap there is nothing to measure."""
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
    return [Row("confined spawn, to its end", "ms", confined, plain, at_most(1.5))]


def _run(mechanisms: Mechanisms, policy: SandboxPolicy, folder: Path, spawns: int) -> float:
    """Return the median time in milliseconds."""
    users = Users(NUMBERS, folder) if os.geteuid() == 0 else None
    return asyncio.run(_time(HostConfiner(mechanisms, HostPaths(), users), policy, folder, spawns))


async def _time(confiner: HostConfiner, policy: SandboxPolicy, folder: Path, spawns: int) -> float:
    supervisor = Supervisor(confiner=confiner)
    try:
        await _spawn_s(supervisor, policy, folder, worker_id(1))  # finds out how processes are kept together
        times = [await _spawn_s(supervisor, policy, folder, worker_id(number)) for number in range(2, spawns + 2)]
    finally:
        await supervisor.close()
    return median(times) * 1_000


async def _spawn_s(supervisor: Supervisor, policy: SandboxPolicy, workers: Path, name: WorkerId) -> float:
    """Decide what confines a new Worker, and run a program for it to its end. Its folder exists before."""
    folder = workers / name
    folder.mkdir(exist_ok=True)
    began = time.monotonic()
    await supervisor.confiner.enclose(name, SandboxRequest(policy, COMMAND, dict(os.environ), {}), folder)
    stdin, stdout, stderr = (os.open(os.devnull, os.O_RDWR) for _ in range(3))
    program = Program(COMMAND, folder, dict(os.environ), stdin, stdout, stderr, worker_id=name)
    tree = await supervisor.start(program)
    status = await tree.exit
    taken_s = time.monotonic() - began
    await supervisor.confiner.release(name)
    if status:
        raise RuntimeError(f"the program ended with {status}")
    return taken_s
