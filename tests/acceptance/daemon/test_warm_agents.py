"""Agents that the daemon starts before there are Workers for them."""

import json
import sys
from pathlib import Path

from tests.acceptance.daemon.conftest import Daemon, Launch, Until
from tests.execution.acp.conftest import Roll

AGENT = Path(__file__).parents[2] / "execution" / "acp" / "agent.py"
AGENTS = "agents"
"""The folder that agents write to."""

REQUEST = {"profile": {"kind": "builtin", "value": "builtin:coder"}}


def _configure(folder: Path, mode: str = "first", idle_s: float = 3600) -> Path:
    """Write a configuration whose agents enroll in AGENTS, and get `mode` in their environment."""
    noted = folder / AGENTS
    noted.mkdir(exist_ok=True)
    noted.chmod(0o777)
    notes = noted / "agents.jsonl"
    notes.touch()
    notes.chmod(0o666)  # each agent may be another user
    script = noted / "script.json"
    script.write_text(json.dumps({"start": [["enroll"]]}))
    command = json.dumps([sys.executable, str(AGENT), str(script)])
    profile = f'backend = "acp"\ncommand = {command}\nenv = {{ MODE = "{mode}" }}\nwarm = 1\n'
    profile += f'[profiles."builtin:coder".sandbox]\nwritable = ["{noted}"]\n'
    config = folder / "config.toml"
    config.write_text(f'warm_idle_s = {idle_s}\n[profiles."builtin:coder"]\n{profile}')
    return config


def test_a_warm_agent_waits_from_the_start_outlives_no_daemon_and_no_profile_and_is_the_first_workers(
    launch: Launch, tmp_path: Path, until: Until
) -> None:
    options, store, roll = ("--config", str(_configure(tmp_path))), tmp_path / "store", Roll(tmp_path / AGENTS)
    killed = launch(*options, store=f"fs:{store}").ready()
    until(lambda: roll.names)
    killed.kill()
    _configure(tmp_path, mode="second")

    daemon = launch(*options, store=f"fs:{store}").ready()
    until(lambda: _ready(daemon) == {"ready": 1, "wanted": 1})
    first, second = roll.names
    left = [path.name for path in (store / "workers").iterdir()]
    worker = daemon.call("POST", "/v1/workers", REQUEST).ok("worker", "WorkerDetail")
    saved = json.loads((store / "workers" / worker["worker_id"] / "session.json").read_text())
    events = daemon.run(worker["worker_id"], "hi")
    until(lambda: len(roll.names) == 3)
    daemon.stop()

    assert [name.partition("-")[0] for name in left] == ["warm"]
    assert saved["session_id"] == f"session-{second}"
    assert events[-1]["payload"]["event"] == "run_end"
    assert all(map(roll.is_gone, roll.names))
    assert first != second
    assert [note["env"]["MODE"] for note in roll.notes] == ["first", "second", "second"]
    assert [path.name for path in (store / "workers").iterdir()] == [worker["worker_id"]]


def test_a_warm_agent_that_nobody_needs_for_warm_idle_s_is_ended(
    launch: Launch, tmp_path: Path, until: Until
) -> None:
    roll = Roll(tmp_path / AGENTS)
    daemon = launch("--config", str(_configure(tmp_path, idle_s=0.2))).ready()

    until(lambda: roll.names and roll.is_gone(roll.names[0]))

    assert _ready(daemon) == {"ready": 0, "wanted": 1}


def _ready(daemon: Daemon) -> dict[str, int]:
    """How many warm agents the profile has."""
    profiles = daemon.call("GET", "/v1/profiles").ok("profiles")
    found: dict[str, int] = next(one["warm"] for one in profiles if one["selector"] == "builtin:coder")
    return found
