"""Agents that exceed limits, ignore signals or leave processes behind: only their own Worker is affected."""

import contextlib
import http.client
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from runtimed.execution.processes import cgroup, orphans
from tests.faults.conftest import Rounds
from tests.faults.network.conftest import UNCONFINED, Call, Daemon, Launch, Until

AGENT = Path(__file__).parent / "programs" / "agent.py"
ACP_AGENT = Path(__file__).parents[2] / "execution" / "acp" / "agent.py"
GRACE_S = 1.0
LOST_S = 10.0
"""The deadline for ending an agent that exceeds a limit. It is checked twice a second."""

CONFIG = f"""{UNCONFINED}
[profiles."builtin:agent"]
backend = "process"
command = [{json.dumps(sys.executable)}, {json.dumps(str(AGENT))}]
env = {{ MARK = "%s" }}
capabilities = ["shell"]
stop_grace_s = {GRACE_S}
max_memory_bytes = {100 << 20}
max_processes = 50

[profiles."builtin:acp"]
backend = "acp"
command = [{json.dumps(sys.executable)}, {json.dumps(str(ACP_AGENT))}, "%s"]
env = {{ MARK = "%s" }}
stop_grace_s = {GRACE_S}
"""

Host = Callable[..., Any]


class Marked:
    """Return the processes that have a mark in their environment."""

    def __init__(self) -> None:
        self.mark = f"mark-{secrets.token_hex(8)}"

    def pids(self) -> list[int]:
        return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal() and self._in(path)]

    def _in(self, process: Path) -> bool:
        with contextlib.suppress(OSError):
            return self.mark.encode() in (process / "environ").read_bytes()
        return False

    def kill(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def marked() -> Iterator[Marked]:
    """The processes of the test's agents. Those that an unprotected daemon leaves are killed at the end."""
    made = Marked()
    yield made
    made.kill()


@pytest.fixture
def host(launch: Launch, tmp_path: Path, marked: Marked) -> Host:
    """Start a daemon with a profile of unruly agents."""

    def start(**given: Any) -> Daemon:
        config = tmp_path / "config.toml"
        script = tmp_path / "script.json"
        script.write_text("{}")
        config.write_text(CONFIG % (marked.mark, script, marked.mark))
        return launch("--config", str(config), **given)

    return start


def _events(daemon: Daemon, worker: str) -> list[dict[str, Any]]:
    """Return the payloads of a Worker's events."""
    connection = http.client.HTTPConnection(daemon.host, daemon.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", f"/v1/workers/{worker}/events", headers={"Authorization": f"Bearer {daemon.token}"})
        return [event["payload"] for event in json.loads(connection.getresponse().read())["events"]]


def _lost(daemon: Daemon, worker: str) -> bool:
    return bool(daemon.worker(worker)["execution"]["run_state"] == "errored")


@pytest.fixture
def check_loss(host: Host, until: Until, marked: Marked) -> Host:
    """Check that an agent's deed loses its Worker for a reason, and affects nobody else."""

    def check(deed: str, reason: str, **given: Any) -> None:
        daemon = host(**given)
        good, bad = daemon.create("agent"), daemon.create("agent")
        daemon.run(good, "behave")
        agents = len(marked.pids())
        daemon.start(bad, deed)
        until(lambda: _lost(daemon, bad), "the loss of the agent", LOST_S)
        said = _events(daemon, bad)
        assert [event["event"] for event in said[-3:]] == ["error", "alert", "run_end"]
        assert [event["data"].get("reason") for event in said if event["event"] == "error"] == [reason]
        assert [event["event"] for event in said].count("run_end") == 1
        until(lambda: len(marked.pids()) < agents, "the end of all its processes", LOST_S)
        daemon.run(good, "behave")
        assert [event["event"] for event in _events(daemon, good)].count("run_end") == 2
        daemon.call("POST", f"/v1/workers/{good}/stop", {})
        assert marked.pids() == [], "a process is left"

    return check


def test_an_agent_that_takes_too_much_memory_is_lost_alone(check_loss: Host) -> None:
    check_loss("take_memory", "oom")


def test_an_agent_that_forks_without_end_is_lost_alone(check_loss: Host) -> None:
    check_loss("fork", "processes")


def test_an_agent_that_leaves_a_grandchild_with_the_pipes_is_lost_with_it(check_loss: Host) -> None:
    check_loss("leave_a_grandchild", "exit")


@pytest.mark.parametrize("deed", ["take_memory", "fork"])
def test_without_control_groups_an_agent_that_takes_too_much_is_lost_as_well(check_loss: Host, deed: str) -> None:
    check_loss(deed, {"take_memory": "oom", "fork": "processes"}[deed], without="control_groups")


@pytest.mark.parametrize("deed", ["take_memory", "fork"])
def test_the_check_sees_an_agent_that_is_not_limited(check_loss: Host, deed: str) -> None:
    with pytest.raises(AssertionError, match="the loss of the agent did not come about"):
        check_loss(deed, "", without="limits")


def test_the_check_sees_a_grandchild_that_outlives_its_agent(check_loss: Host) -> None:
    with pytest.raises(AssertionError, match="the end of all its processes did not come about"):
        check_loss("leave_a_grandchild", "exit", without="containment")


@pytest.fixture
def check_stop(host: Host, until: Until, marked: Marked) -> Host:
    """Check that a stop of an agent that ignores signals ends after the grace, and leaves no process."""

    def check(**given: Any) -> None:
        daemon = host(**given)
        deaf = daemon.create("agent")
        daemon.start(deaf, "ignore_signals")
        until(lambda: "deaf" in str(_events(daemon, deaf)), "a deaf agent")
        with daemon.client(timeout_s=GRACE_S + 10) as call:
            try:
                call("POST", f"/v1/workers/{deaf}/stop", {})
            except TimeoutError:
                raise AssertionError("the stop was not answered by its deadline") from None
        assert marked.pids() == [], "a process is left"
        names = [event["event"] for event in _events(daemon, deaf)]
        assert names[-3:] == ["alert", "run_end", "shutdown"]

    return check


def test_a_stop_of_an_agent_that_ignores_sigterm_answers_by_its_deadline(check_stop: Host) -> None:
    check_stop()


def test_the_check_sees_a_stop_that_waits_for_the_agent(check_stop: Host) -> None:
    with pytest.raises(AssertionError, match="the stop was not answered"):
        check_stop(without="force")


@pytest.fixture
def check_end(host: Host, until: Until, marked: Marked) -> Host:
    """Check that no process of an agent outlives the daemon, and no control group the next start."""

    def check(way: str, **given: Any) -> None:
        daemon = host(**given)
        workers = [daemon.create("agent") for _ in range(3)]
        for worker, deed in zip(workers, ("behave", "ignore_signals", "fork"), strict=True):
            daemon.start(worker, deed)
        daemon.idle(workers[0])
        until(lambda: "deaf" in str(_events(daemon, workers[1])), "a deaf agent")
        owner = orphans.Owner(orphans.namespace(), str(daemon.pid), orphans.start_of(str(daemon.pid)) or "")
        assert owner.start
        getattr(daemon, way)()
        until(lambda: not marked.pids(), "the end of all processes", 5)
        again = host()
        again.create("agent")
        groups = [name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names]
        assert not [name for name in groups if fnmatch(name, f"{cgroup.PREFIX}-{owner}-*")], "a group is left"

    return check


@pytest.mark.parametrize("way", ["terminate", "kill"])
def test_no_process_outlives_its_daemon(check_end: Host, way: str) -> None:
    check_end(way)


def test_the_check_sees_processes_that_outlive_a_killed_daemon(check_end: Host) -> None:
    with pytest.raises(AssertionError, match="the end of all processes did not come about"):
        check_end("kill", without="containment")


@pytest.fixture
def check_rounds(host: Host, marked: Marked, rounds: Rounds) -> Host:
    """Check that starting and stopping agents repeatedly leaves no process and no descriptor."""

    def check(profile: str, **given: Any) -> None:
        daemon = host(**given)

        def turn(call: Call) -> None:
            request = {
                "profile": {"kind": "builtin", "value": f"builtin:{profile}"},
                "requested_capabilities": [{"name": "shell"}],
            }
            worker = call("POST", "/v1/workers", request)["worker_id"]
            daemon.run(worker, "behave", call)
            call("POST", f"/v1/workers/{worker}/stop", {})

        with daemon.client() as call:
            for _ in range(5):  # the daemon may start its last thread in any of the first turns
                turn(call)
            held = daemon.descriptors(), _threads(daemon.pid)
            for _ in range(rounds(20, 200)):
                turn(call)
            assert (daemon.descriptors(), _threads(daemon.pid)) <= held, "a descriptor or a thread is left"
        assert marked.pids() == [], "a process is left"
        assert daemon.agents() == set(), "a zombie is left"

    return check


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


@pytest.mark.parametrize("profile", ["agent", "acp"])
def test_many_rounds_leave_no_process_and_no_descriptor(check_rounds: Host, profile: str) -> None:
    check_rounds(profile)


def test_the_check_sees_descriptors_that_are_left(check_rounds: Host) -> None:
    with pytest.raises(AssertionError, match="a descriptor or a thread is left"):
        check_rounds("agent", without="closing")


@pytest.fixture
def check_output(host: Host) -> Host:
    """Check that an agent's output is in the transcript, and that the daemon's memory has not grown with it."""

    def check(deed: str, text: str, **given: Any) -> None:
        daemon = host(**given)
        worker, other = daemon.create("agent"), daemon.create("agent")
        daemon.run(worker, "behave")
        before = _peak(daemon.pid)
        daemon.start(worker, deed)
        daemon.run(other, "behave")
        ends = time.monotonic() + 120
        while daemon.worker(worker)["execution"]["run_state"] == "busy":
            assert time.monotonic() < ends, "the run did not end"
            time.sleep(0.1)
        assert not _lost(daemon, worker), "the agent was lost"
        assert _peak(daemon.pid) - before < 64 << 20, "the daemon kept what was written"
        assert _said(daemon, worker) == text
        daemon.run(worker, "behave")

    return check


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024


def _said(daemon: Daemon, worker: str) -> str:
    """Return the text of the Worker's second run."""
    found: list[str] = []
    start: int | None = 3
    while start is not None:
        page = daemon.call("GET", f"/v1/workers/{worker}/transcript?start={start}&limit=8")
        found += [item["content"] for item in page["items"]]
        start = page["next_start"]
    return "".join(found)


def test_a_line_of_a_hundred_megabytes_costs_no_memory(check_output: Host) -> None:
    check_output("write_one_long_line", "x" * 100_000_000 + "\n")


def test_the_check_sees_a_line_that_is_kept_until_its_end(check_output: Host) -> None:
    with pytest.raises(AssertionError, match="the daemon kept what was written"):
        check_output("write_one_long_line", "x" * 100_000_000 + "\n", without="bounded_lines")


def test_bytes_that_are_no_text_and_escape_sequences_harm_nobody(check_output: Host) -> None:
    check_output("write_rubbish", "a\ufffdb\0c\x1b]0;title\x07\x1b[2Jé\ufffd\n")


def test_the_check_sees_output_that_must_be_text(check_output: Host) -> None:
    with pytest.raises(AssertionError, match="the agent was lost"):
        check_output("write_rubbish", "", without="replacement")
