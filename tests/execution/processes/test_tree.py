"""Nothing that a Worker started outlives it, whatever it does to get away."""

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.processes import containment
from tests.execution.conftest import Harness, NewHarness, Traces

# Each is a script for a Worker's shell, and how many processes it leaves there at least besides the shell.
# The number to sleep for is the mark by which the test finds processes that have no environment.
ESCAPES = {
    "in the background, holding the output": ("sleep {mark} &", 1),
    "in a session of its own": ("setsid sleep {mark} &", 1),
    "forked twice": ("(setsid sh -c 'sleep {mark} & exec sleep {mark}' &)", 2),
    "forked twice with all streams closed": ("(setsid sh -c 'sleep {mark} & exit' <&- >&- 2>&- &)", 1),
    "deaf to signals": ("(trap '' TERM HUP INT; sleep {mark}; sleep {mark}) &", 2),
    "deaf in a session of its own": ("(trap '' TERM HUP INT; setsid sleep {mark}) &", 1),
    "stopped": ("sleep {mark} & kill -STOP $!", 1),
    "without an environment": ("env -i setsid sleep {mark} &", 1),
    "many": ("for i in $(seq 50); do sleep {mark} & done", 50),
}


async def _escape(harness: Harness, kind: str) -> None:
    script, count = ESCAPES[kind]
    await harness.spawn()
    shells = len(await harness.traces.pids())
    await harness.run(script.format(mark=harness.traces.mark))
    await harness.traces.until(lambda pids: len(pids) >= shells + count)


@pytest.mark.parametrize("kind", ESCAPES)
@pytest.mark.parametrize("way", ["stop", "cancel", "close"])
async def test_nothing_is_left_of_a_worker_that_was_ended(new_harness: NewHarness, way: str, kind: str) -> None:
    harness = new_harness(grace=0.2)
    await _escape(harness, kind)
    if way == "close":
        await harness.backend.close()
    else:
        answer = await getattr(harness.backend, way)(harness.worker_id, "enough")
        assert answer == BackendAnswer("accepted")
    assert await harness.traces.pids() == []


@pytest.mark.parametrize("kind", ESCAPES.keys() - {"without an environment"})
async def test_nothing_is_left_of_a_shell_that_ended_by_itself(new_harness: NewHarness, kind: str) -> None:
    harness = new_harness()
    await _escape(harness, kind)
    assert (await harness.run("exit 7")).status == 7
    assert await harness.traces.pids() == []


@pytest.mark.parametrize(
    "script",
    ["sleep 1000", "trap '' TERM; while :; do sleep 0.01; done", "kill -STOP $$", "while :; do :; done", "yes"],
)
@pytest.mark.parametrize("way", ["stop", "cancel"])
async def test_a_run_that_does_not_end_is_cut_and_nothing_more_is_said(
    new_harness: NewHarness, way: str, script: str
) -> None:
    harness = new_harness(grace=0.2)
    await harness.spawn()
    await harness.begin(f"echo begun; {script}")
    await harness.sink.until(lambda events: any(event.event == "text_delta" for event in events))
    await getattr(harness.backend, way)(harness.worker_id, None)
    said = len(harness.sink.events)
    assert await harness.traces.pids() == []
    await asyncio.sleep(0)
    assert len(harness.sink.events) == said
    assert "run_end" not in [event.event for event in harness.sink.events]


async def test_stop_lets_a_program_clean_up(new_harness: NewHarness) -> None:
    harness = new_harness(grace=20)
    await harness.spawn()
    await harness.begin(
        "trap 'head -c 300000 /dev/zero; echo done >cleaned; exit' TERM; echo up; while :; do sleep 0.01; done"
    )
    await harness.sink.until(lambda events: any(event.event == "text_delta" for event in events))
    await harness.backend.stop(harness.worker_id, None)
    assert await asyncio.to_thread((harness.folder / "home" / "cleaned").read_text) == "done\n"


async def test_a_cancel_does_not_wait_for_the_grace_of_a_stop(new_harness: NewHarness) -> None:
    harness = new_harness(grace=1000)
    await harness.spawn()
    await harness.begin("trap '' TERM; echo up; while :; do sleep 0.01; done")
    await harness.sink.until(lambda events: any(event.event == "text_delta" for event in events))
    stopping = asyncio.create_task(harness.backend.stop(harness.worker_id, None))
    await asyncio.sleep(0.05)
    assert not stopping.done()
    assert await harness.backend.cancel(harness.worker_id, None) == BackendAnswer("accepted")
    assert await stopping == BackendAnswer("accepted")


async def test_a_stop_during_the_spawn_leaves_nothing(new_harness: NewHarness) -> None:
    for turns in range(0, 60, 3):
        harness = new_harness()
        spawning = asyncio.create_task(harness.spawn())
        for _ in range(turns):
            await asyncio.sleep(0)
        await harness.backend.stop(harness.worker_id, None)
        assert (await spawning).outcome in {"accepted", "errored"}
        await harness.backend.stop(harness.worker_id, None)
        assert await harness.traces.pids() == []


async def test_many_rounds_leave_no_descriptor_no_task_and_no_process(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "runtimed.execution.processes.resource_monitor.INTERVAL_S", 1_000.0
    )  # a canceled look still has a file open
    harness = new_harness()
    held = []
    before = await asyncio.to_thread(children)
    for _ in range(10):
        await harness.spawn()
        await harness.run("echo hello; sleep 1000 &")
        await harness.backend.stop(harness.worker_id, None)
        gc.collect()
        held.append((await asyncio.to_thread(os.listdir, "/proc/self/fd"), len(asyncio.all_tasks())))
    assert len(held[-1][0]) == len(held[0][0])
    assert held[-1][1] == held[0][1]
    assert await harness.traces.pids() == []
    assert await asyncio.to_thread(children) == before


def children() -> set[str]:
    """The children of this process, zombies included; other tests may have daemons that are to live on."""
    found = set()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found |= set((thread / "children").read_text().split())
    return found


DAEMON = """
import asyncio, os, sys
from pathlib import Path
from runtimed.execution.processes import containment
from runtimed.execution.processes.environment import environment
from runtimed.execution.processes.supervisor import Program, Supervisor

async def main():
    null = [os.open(os.devnull, os.O_RDWR) for _ in range(3)]
    program = Program(["bash", "-c", sys.argv[1]], Path("/"), environment({"TRACE": sys.argv[2]}), *null)
    supervisor = Supervisor(containment.namespace)
    await supervisor.start(program)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_nothing_is_left_when_the_daemon_is_killed(traces: Traces) -> None:
    if await asyncio.to_thread(containment.namespace) is None:
        pytest.skip("no PID namespace can be made here")
    escapes = "\n".join(script for script, _ in ESCAPES.values()).format(mark=traces.mark)
    argv = [sys.executable, "-c", DAEMON, f"{escapes}\nsleep {traces.mark}", "no trace here"]
    daemon = await asyncio.to_thread(subprocess.Popen, argv)
    await traces.until(lambda pids: len(pids) > 60)
    daemon.kill()
    await asyncio.to_thread(daemon.wait)
    await traces.until(lambda pids: not pids)
