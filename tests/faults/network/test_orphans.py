"""Target 16: without namespaces and control groups, no process of a Worker is left behind."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Require
from tests.faults.network.conftest import Launch, Until

CONTAINER = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
"""Makes the daemon process 1."""

MACHINE = ("unshare", "--mount")

# Takes unshare(1) and the control groups away, so that neither can be used for Workers.
POOR = f"""
mount --bind /bin/false {shutil.which("unshare")}
for m in $(awk '$3 ~ /cgroup/ {{print $2}}' /proc/mounts); do mount -o remount,ro,bind $m; done 2>/dev/null
exec "$@"
"""

ORPHANS = 'for i in 1 2 3 4 5; do (setsid sh -c "exit 3" &); done; sleep 0.2; sh -c "exit 7"; echo status $?'
JOBS = {
    "in the background": "sleep {number} &",
    "in a session of its own": "(setsid sleep {number} &)",
    "deaf to SIGHUP": "nohup sleep {number} >/dev/null 2>&1 &",
    "starting others for ever": "(while :; do timeout 0.2 sleep {number}; done) &",
}


def _zombies(parent: int) -> int:
    found = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, above = path.read_text().rpartition(")")[2].split()[:2]
            found += state == "Z" and int(above) == parent
    return found


class Sleepers:
    """Return the processes that sleep for a number that only this test uses."""

    def __init__(self) -> None:
        self.number = f"4{secrets.randbelow(10**12):012}"

    def pids(self) -> list[int]:
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if self._is_one(path)]

    def _is_one(self, path: Path) -> bool:
        with contextlib.suppress(OSError):
            return path.read_bytes().split(b"\0")[1:2] == [self.number.encode()]
        return False


@pytest.fixture
def sleepers() -> Iterator[Sleepers]:
    made = Sleepers()
    yield made
    for pid in made.pids():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(os.getpgid(pid), signal.SIGKILL)


@pytest.fixture
def poor(launch: Launch, require: Require) -> Launch:
    """Start a daemon that has neither namespaces nor control groups."""
    require("unshare", "awk", "mount", root=True)
    if subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespace can be made here")

    def start(box: tuple[str, ...], **given: Any) -> Any:
        return launch(wrapper=(*box, "sh", "-c", POOR, "sh"), **given)

    return start


@pytest.fixture
def check_reaped(poor: Launch, until: Until) -> Callable[..., None]:
    """Check that process 1 has no zombie, and loses no exit status of its own programs."""

    def check(**given: Any) -> None:
        daemon = poor(CONTAINER, **given)
        (first,) = daemon.agents()
        worker = daemon.create("shell")
        for _ in range(3):
            daemon.run(worker, ORPHANS)
            until(lambda: not _zombies(first), "the end of all zombies", 5)
        daemon.run(worker, "exit 9")
        said = [item["content"] for item in daemon.call("GET", f"/v1/workers/{worker}/transcript")["items"]]
        assert [text for text in said if text.startswith("status")] == ["status 7\n"] * 3
        until(lambda: not _zombies(first), "the end of the shell", 5)
        os.kill(first, signal.SIGTERM)
        assert daemon.process.wait(30) == 0

    return check


def test_process_1_reaps_the_orphans_of_its_workers(check_reaped: Callable[..., None]) -> None:
    check_reaped()


def test_process_1_reaps_orphans_on_the_event_loop_of_the_standard_library_too(
    check_reaped: Callable[..., None],
) -> None:
    check_reaped(without="uvloop")


def test_the_check_sees_a_daemon_that_does_not_reap(check_reaped: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match="the end of all zombies"):
        check_reaped(without="reaping")


@pytest.fixture
def check_swept(poor: Launch, sleepers: Sleepers, until: Until) -> Callable[..., None]:
    """Check that a start kills the processes of Workers of a daemon that was killed."""

    def check(job: str, **given: Any) -> None:
        daemon = poor(MACHINE)
        daemon.run(daemon.create("shell"), JOBS[job].format(number=sleepers.number))
        until(sleepers.pids, "the start of the job")
        daemon.kill()
        until(sleepers.pids, "a job that outlives the daemon")
        again = poor(MACHINE, **given)
        assert not sleepers.pids(), "a process is left"
        again.run(again.create("shell"), "true")

    return check


@pytest.mark.parametrize("job", JOBS)
def test_the_start_after_a_kill_ends_the_processes_of_earlier_workers(
    check_swept: Callable[..., None], job: str
) -> None:
    check_swept(job)


def test_the_check_sees_a_start_that_leaves_stale_processes(check_swept: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match="a process is left"):
        check_swept("in the background", without="sweeping")


def test_the_start_of_a_copy_of_the_store_lets_the_workers_of_the_living_daemon_be(
    poor: Launch, sleepers: Sleepers, until: Until, tmp_path: Path
) -> None:
    daemon = poor(MACHINE)
    daemon.run(daemon.create("shell"), f"sleep {sleepers.number} &")
    until(sleepers.pids, "the start of the job")
    runtime_id = daemon.call("GET", "/v1/runtime")["runtime_id"]
    before = sleepers.pids()

    other = tmp_path / "other"
    other.mkdir()
    command = [part.replace(f"{daemon.home}/store", f"{other}/store") for part in daemon.command]
    environment = daemon.environment | {"RUNTIMED_RUNTIME_ID": runtime_id}
    with subprocess.Popen(command, env=environment, cwd=other, stdout=subprocess.PIPE) as second:
        assert second.stdout is not None
        assert runtime_id.encode() in second.stdout.readline()
        second.kill()

    assert sleepers.pids() == before
