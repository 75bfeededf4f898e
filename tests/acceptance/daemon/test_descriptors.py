"""How many descriptors the daemon may open, and how many its Workers."""

import json
import shutil
from pathlib import Path

import pytest

from tests.acceptance.daemon.conftest import Daemon, Launch

SOFT, HARD = 200, 4_000

pytestmark = pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is not installed (util-linux)")


def _limited(soft: int, hard: int) -> list[str]:
    return ["prlimit", f"--nofile={soft}:{hard}"]


def _limits(daemon: Daemon) -> list[str]:
    found = Path(f"/proc/{daemon.pid}/limits").read_text().splitlines()
    return next(line for line in found if line.startswith("Max open files")).split()[3:5]


def _said(daemon: Daemon, script: str) -> str:
    worker_id = daemon.create(
        profile={"kind": "builtin", "value": "builtin:shell"}, requested_capabilities=[{"name": "shell"}]
    )
    events = daemon.run(worker_id, script)
    return "".join(event["payload"]["data"]["text"] for event in events if event["payload"]["event"] == "text_delta")


def test_the_daemon_may_open_what_the_system_lets_it_and_its_workers_what_it_was_given(launch: Launch) -> None:
    daemon = launch(wrapper=_limited(SOFT, HARD), env={"RUNTIMED_MAX_CONNECTIONS": "1000"}).ready()
    assert _limits(daemon) == [str(HARD), str(HARD)]
    assert _said(daemon, "ulimit -Sn; ulimit -Hn").split() == [str(SOFT), str(HARD)]
    assert "descriptors" not in daemon.errors


def test_a_worker_is_run_as_before_where_nothing_was_raised(launch: Launch) -> None:
    daemon = launch(wrapper=_limited(HARD, HARD), env={"RUNTIMED_MAX_CONNECTIONS": "1000"}).ready()
    assert _limits(daemon) == [str(HARD), str(HARD)]
    assert _said(daemon, "ulimit -Sn").split() == [str(HARD)]


def test_it_says_so_when_the_system_lets_it_open_too_few(launch: Launch) -> None:
    daemon = launch(wrapper=_limited(SOFT, SOFT), env={"RUNTIMED_MAX_CONNECTIONS": str(SOFT)}).ready()
    [line] = [line for line in daemon.errors.splitlines() if "descriptors" in line]
    fields = json.loads(line)
    assert (fields["allowed"], fields["max_connections"]) == (SOFT, SOFT)
