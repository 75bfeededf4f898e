"""Agents that the daemon starts before there are Workers for them."""

import contextlib
import http.client
import json
import os
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runtimed.execution.confinement.probe import find_bubblewrap
from tests import programs
from tests.acceptance.daemon.conftest import DEADLINE_S, Daemon, Launch, Until
from tests.acceptance.daemon.test_workspaces import DELETED, delete, stop
from tests.execution.acp.conftest import Roll
from tests.execution.conftest import own_uids
from tests.programs import RUNTIMECTL

AGENT = Path(__file__).parents[2] / "execution" / "acp" / "agent.py"
AGENTS = "agents"
"""The folder that agents write to."""

COMMANDS = {"sessionUpdate": "available_commands_update", "availableCommands": [{"name": "plan", "description": "d"}]}
REQUEST = {"profile": {"kind": "builtin", "value": "builtin:coder"}}
UIDS = own_uids(2)
"""Two users: one for a Worker, and one for the next warm agent or Worker."""

WHERE_AM_I = "text(json.dumps([os.getcwd(), os.getuid(), os.listdir(Path.cwd().parent.parent)]))"


def _configure(
    folder: Path,
    mode: str = "first",
    idle_s: float = 3600,
    does: dict[str, Any] | None = None,
    options: str = "",
    sandbox: str = "",
) -> Path:
    """Write a configuration whose agents do what a script says, and get `mode` in their environment.

    They enroll, and note what they hear, in AGENTS.
    """
    noted = folder / AGENTS
    noted.mkdir(exist_ok=True)
    noted.chmod(0o777)
    for name in ("agents.jsonl", "heard.jsonl"):
        (noted / name).touch()
        (noted / name).chmod(0o666)  # each agent may be another user
    script = noted / "script.json"
    script.write_text(json.dumps({"start": [["enroll"]], **(does or {})}))
    command = json.dumps([sys.executable, str(AGENT), str(script)])
    profile = f'backend = "acp"\ncommand = {command}\nenv = {{ MODE = "{mode}" }}\nwarm = 1\n{options}\n'
    profile += f'[profiles."builtin:coder".sandbox]\nwritable = ["{noted}"]\n'
    config = folder / "config.toml"
    config.write_text(f'warm_idle_s = {idle_s}\n{sandbox}\n[profiles."builtin:coder"]\n{profile}')
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
    link, folder = sorted((store / "workers").iterdir(), key=lambda path: path.name, reverse=True)
    assert link.name == worker["worker_id"]
    assert link.resolve() == folder
    assert folder.name.startswith("warm-")


def test_the_folder_of_a_warm_agent_goes_with_its_daemon_though_no_profile_wants_one_any_more(
    launch: Launch, tmp_path: Path, until: Until
) -> None:
    options, store = ("--config", str(_configure(tmp_path))), tmp_path / "store"
    killed = launch(*options, store=f"fs:{store}").ready()
    until(lambda: _ready(killed)["ready"])
    killed.kill()
    assert [path for path in (store / "workers").iterdir() if path.name.startswith("warm-")]

    launch(store=f"fs:{store}").ready()

    until(lambda: not list((store / "workers").iterdir()))


def test_a_warm_agent_that_nobody_needs_for_warm_idle_s_is_ended(
    launch: Launch, tmp_path: Path, until: Until
) -> None:
    roll = Roll(tmp_path / AGENTS)
    daemon = launch("--config", str(_configure(tmp_path, idle_s=0.2))).ready()

    until(lambda: roll.names and roll.is_gone(roll.names[0]))

    assert _ready(daemon) == {"ready": 0, "wanted": 1}


def test_a_worker_that_was_taking_an_agent_over_when_the_daemon_was_killed_goes_on_in_its_folder_and_its_session(
    launch: Launch, tmp_path: Path, until: Until
) -> None:
    gate, store, workers = tmp_path / AGENTS / "gate", tmp_path / "store", tmp_path / "store" / "workers"
    able = {"loadSession": True, "sessionCapabilities": {"delete": {}}}
    does = {
        "capabilities": able,
        "session/new": [["call_python", "answer({'sessionId': session})"], ["update", COMMANDS]],
        "session/set_config_option": [["until_file", str(gate)], ["answer", {}]],
        "session/delete": [["answer", {}]],
    }
    options = ("--config", str(_configure(tmp_path, does=does, options='session_config = { mode = "plan" }')))
    daemon = launch(*options, store=f"fs:{store}").ready()

    heard = partial(_heard, tmp_path)
    gate.touch()
    until(lambda: _ready(daemon)["ready"])
    first = daemon.create(**REQUEST)
    assert daemon.run(first, "hi")[-1]["payload"]["event"] == "run_end"
    command = [*RUNTIMECTL, "--url", daemon.url, "workers", "get", first]
    environment = {**daemon.environment, "RUNTIMECTL_TOKEN": daemon.token}
    shown = programs.run(command, environment, timeout=DEADLINE_S).stdout
    until(lambda: _ready(daemon)["ready"])
    gate.unlink()
    cut = threading.Thread(target=_ignore_cut, args=(daemon,))
    cut.start()
    until(lambda: len(heard("session/set_config_option")) == 2)
    daemon.kill()
    cut.join()
    gate.touch()
    opened = heard("session/new")
    sessions = [told["sessionId"] for told in heard("session/set_config_option")]

    daemon = launch(*options, store=f"fs:{store}").ready()
    until(lambda: _ready(daemon)["ready"])
    second = next(worker["worker_id"] for worker in daemon.workers() if worker["worker_id"] != first)
    links = [(workers / worker_id).readlink().name for worker_id in (first, second)]
    names = {path.name for path in workers.iterdir()}
    ends = [daemon.run(worker_id, "hi")[-1]["payload"]["event"] for worker_id in (first, second)]
    for worker_id in (first, second):
        stop(daemon, worker_id)
        assert delete(daemon, worker_id).status == DELETED
    until(lambda: len(heard("session/delete")) == 2)
    until(lambda: len(list(workers.iterdir())) == 1)

    assert ["Commands", "/plan"] in [line.split() for line in shown.splitlines()]
    assert ends == ["run_end", "run_end"]
    assert names > {first, second, *links}
    assert len(names) == 5
    assert [(told["cwd"], told["sessionId"]) for told in heard("session/load")] == [
        (told["cwd"], session) for told, session in zip(opened, sessions, strict=True)
    ]
    assert [Path(told["cwd"]).parent.name for told in opened] == links
    assert {told["sessionId"] for told in heard("session/delete")} == set(sessions)
    daemon.stop()
    assert list(workers.iterdir()) == []
    assert len(heard("session/delete")) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives Workers users")
def test_a_confined_agent_keeps_its_folder_its_session_and_its_user_until_its_worker_is_deleted(
    launch: Launch, tmp_path: Path, until: Until
) -> None:
    problem, bubblewrap = find_bubblewrap(UIDS.start)
    if bubblewrap is None:
        pytest.skip(f"bubblewrap does not work here: {problem}")
    store, workers = tmp_path / "store", tmp_path / "store" / "workers"
    does = {
        "capabilities": {"loadSession": True},
        "session/load": [["call_python", "globals()['session'] = state['params']['sessionId']"], ["answer", None]],
        "session/prompt": [[["call_python", WHERE_AM_I], ["end"]]],
    }
    sandbox = f'[sandbox]\nmode = "required"\nuids = "{UIDS[0]}-{UIDS[-1]}"'
    options = ("--config", str(_configure(tmp_path, does=does, sandbox=sandbox)))
    daemon = launch(*options, store=f"fs:{store}").ready()
    until(lambda: _ready(daemon)["ready"])
    (folder,) = workers.iterdir()
    user = (folder / "home").stat().st_uid

    worker_id = daemon.create(**REQUEST)
    places = [_said(daemon, worker_id)]
    until(lambda: _ready(daemon)["ready"])
    refused = daemon.worker(daemon.create(**REQUEST))["execution"]
    daemon.stop()
    daemon = launch(*options, store=f"fs:{store}").ready()
    places.append(_said(daemon, worker_id))
    until(lambda: _ready(daemon)["ready"])
    (spare,) = {path.name for path in workers.glob("warm-*")} - {folder.name}
    stop(daemon, worker_id)
    assert delete(daemon, worker_id).status == DELETED
    until(lambda: not (workers / worker_id).is_symlink())
    left = {path.name for path in workers.iterdir()}
    until(lambda: daemon.worker(daemon.create(**REQUEST))["execution"]["run_state"] == "idle")

    assert user in UIDS
    assert places == [[str(folder / "home"), user, [folder.name]]] * 2
    assert "all 2 numbers are taken by Workers" in json.dumps(refused)
    opened, loaded = _heard(tmp_path, "session/new")[0], _heard(tmp_path, "session/load")[0]
    assert opened["cwd"] == loaded["cwd"] == str(folder / "home")
    assert spare in left
    assert not left & {worker_id, folder.name}


def _said(daemon: Daemon, worker_id: str) -> Any:
    """Return what an agent says in a run, which is JSON."""
    events = daemon.run(worker_id, "where are you?")
    (text,) = [one["payload"]["data"]["text"] for one in events if one["payload"]["event"] == "text_done"]
    return json.loads(text)


def _heard(folder: Path, method: str) -> list[dict[str, Any]]:
    """Return what agents were asked by a method."""
    told = map(json.loads, (folder / AGENTS / "heard.jsonl").read_text().splitlines())
    return [message["params"] for message in told if message.get("method") == method]


def _ignore_cut(daemon: Daemon) -> None:
    """Create a Worker, whose daemon is killed before it answers."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        daemon.call("POST", "/v1/workers", REQUEST)


def _ready(daemon: Daemon) -> dict[str, int]:
    """How many warm agents the profile has."""
    profiles = daemon.call("GET", "/v1/profiles").ok("profiles")
    found: dict[str, int] = next(one["warm"] for one in profiles if one["selector"] == "builtin:coder")
    return found
