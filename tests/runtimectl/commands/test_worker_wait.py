"""`workers wait` prints for each Worker what it met, and ends when all of them, or one, met something."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtimectl.conftest import DEADLINE_S, Ctl, NewWorker, StartCtl

SHELL = ("--profile", "builtin:shell", "--capability", "shell")


def gated(gate: Path) -> str:
    return f"while [ ! -e {gate} ]; do sleep 0.05; done"


def test_all_workers_are_waited_for_unless_one_is_enough(
    ctl: Ctl, new_worker: NewWorker, start_ctl: StartCtl, shared: Path
) -> None:
    idle, busy = new_worker(), new_worker(*SHELL, "--name", "builder")
    ctl("workers", "input", busy, gated(shared / "gate"))

    one = ctl("workers", "wait", idle, "builder", "--any")
    assert (one.returncode, one.stdout, one.stderr) == (0, f"{idle}  idle\n", "")

    waiting = start_ctl("workers", "wait", "@last", idle)
    waiting.wait_for(f"{idle}  idle")
    assert waiting.process.poll() is None
    (shared / "gate").touch()
    assert waiting.finished() == 0
    assert sorted(waiting.out) == [f"{idle}  idle\n", f"{busy}  idle\n"]


def test_more_workers_than_are_waited_for_at_a_time_take_turns(
    ctl: Ctl, env: dict[str, str], new_worker: NewWorker, shared: Path
) -> None:
    busy, idle = new_worker(*SHELL), new_worker()
    ctl("workers", "input", busy, gated(shared / "gate"))
    program = (
        "import sys; from runtimectl.commands import worker_wait; from runtimectl.cli import main\n"
        "worker_wait.MAX_PARALLEL, worker_wait.MAX_WAIT_S = 1, 1; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, "workers", "wait", busy, idle, "--any"]
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{idle}  idle\n", "")
    (shared / "gate").touch()


@pytest.mark.parametrize(("conditions", "met"), [("busy", "busy"), ("stopped,busy", "busy")])
def test_the_first_condition_that_holds_is_printed(
    ctl: Ctl, new_worker: NewWorker, shared: Path, conditions: str, met: str
) -> None:
    worker = new_worker(*SHELL)
    ctl("workers", "input", worker, gated(shared / "gate"))
    found = ctl("workers", "wait", worker, "--for", conditions, "-o", "json")
    body = json.loads(found.stdout)
    assert (found.returncode, body["matched"], body["worker"]["worker_id"]) == (0, met, worker)
    (shared / "gate").touch()


def test_a_condition_that_cannot_come_any_more_is_exit_5(ctl: Ctl, new_worker: NewWorker) -> None:
    stopped, idle = new_worker(), new_worker()
    ctl("workers", "stop", stopped)
    found = ctl("workers", "wait", stopped, idle, "--for", "busy,idle")
    assert (found.returncode, found.stdout) == (5, f"{idle}  idle\n")
    assert found.stderr.startswith(f"runtimectl: {stopped}: wait_impossible: ")


def test_a_wait_that_takes_too_long_is_exit_8(ctl: Ctl, new_worker: NewWorker) -> None:
    found = ctl("workers", "wait", new_worker(), "--for", "busy", "--timeout", "2")
    assert (found.returncode, found.stdout) == (8, "")


@pytest.mark.parametrize("args", [("--for", "done"), ("--for", ""), ("--for", "idle,,busy")])
def test_an_unknown_condition_is_a_usage_error(ctl: Ctl, args: tuple[str, ...]) -> None:
    found = ctl("workers", "wait", "worker-00000001", *args)
    assert found.returncode == 2
    assert "expected some of idle, busy, stopped, permission, error" in found.stderr


def test_a_worker_that_is_not_there_is_exit_3(ctl: Ctl, new_worker: NewWorker) -> None:
    new_worker()
    assert ctl("workers", "wait", "worker-0000ffff").returncode == 3
