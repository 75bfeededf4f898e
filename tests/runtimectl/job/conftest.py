"""One daemon for all tests of a module, with a profile for each way in which a run ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.conftest import COVERAGE_VARIABLES, granting, make_shared
from tests.programs import RUNTIMECTL
from tests.runtimectl.conftest import DEADLINE_S, ROOT, Daemon

AGENT = ROOT / "tests" / "execution" / "acp" / "agent.py"
OPTIONS = [
    {"optionId": "yes", "name": "Allow", "kind": "allow_once"},
    {"optionId": "no", "name": "Reject", "kind": "reject_once"},
]
ASK = ["ask", {"toolCallId": "t1", "title": "edit notes.txt", "kind": "edit"}, OPTIONS]
CALL = {"toolCallId": "t1", "title": "Read notes.txt", "kind": "read", "rawInput": {"path": "notes.txt"}}
AGENTS: dict[str, list[list[Any]]] = {
    "answering": [
        ["update", {"sessionUpdate": "tool_call", **CALL}],
        ["update", {"sessionUpdate": "tool_call_update", "toolCallId": "t1", "status": "completed"}],
        ["text", "done"],
        ["end"],
    ],
    "silent": [["end"]],
    "stuck": [["until_interrupt"], ["finish"]],
    "dying": [["text", "so far"], ["leave", 3]],
    "limited": [["text", "so far"], ["end", "max_tokens"]],
    "failing": [["error", -32000, "no credit"]],
    "asking": [ASK, ["text", " asked"], ["end"]],
    "spending": [
        ["text", "hi"],
        ["end_with", {"stopReason": "end_turn", "usage": {"inputTokens": 3, "outputTokens": 4}}],
    ],
}
SETTINGS = {"denying": 'permissions = "deny"', "hasty": "permission_timeout_s = 0.2"}


class Jobs:
    """A daemon, and `runtimectl` to run jobs in it.

    Attributes:
        shared: A folder in which confined Workers can make files too.
    """

    def __init__(self, folder: Path, store: str = "memory") -> None:
        self.folder = folder
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "LANG": "C.UTF-8",
            **COVERAGE_VARIABLES,
        }
        for name in ("run", "config"):
            (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.shared = make_shared(folder)
        self.repository = _repository(folder / "repository")
        self.config = folder / "daemon.toml"
        self.config.write_text("\n".join(_profiles(folder)))
        self.daemon = self.serve(store)

    def serve(self, store: str) -> Daemon:
        daemon = Daemon(self.env, "--config", str(self.config), "--store", store)
        daemon.await_ready()
        return daemon

    def start(self, *args: str, **how: Any) -> "subprocess.Popen[str]":
        """Start `runtimectl run` with these arguments."""
        piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return programs.start([*RUNTIMECTL, "run", *args], **{"env": self.env, **piped, **how}, text=True)

    def run(self, *args: str, **how: Any) -> "subprocess.CompletedProcess[str]":
        """Run `runtimectl run` to its end."""
        return self._complete("run", *args, **how)

    def ctl(self, *args: str) -> "subprocess.CompletedProcess[str]":
        """Run any other command."""
        return self._complete(*args)

    def worker(self, worker_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ctl("workers", "get", worker_id, "-o", "json").stdout)["worker"]
        return found

    def _complete(self, *args: str, **how: Any) -> "subprocess.CompletedProcess[str]":
        given = {"text": None} if "stdin" in how else {"text": how.pop("input", "")}
        return programs.run([*RUNTIMECTL, *args], **{"env": self.env, "timeout": DEADLINE_S, **given, **how})


def _profiles(folder: Path) -> Iterator[str]:
    yield granting(folder / "shared")
    for name, steps in AGENTS.items():
        script = folder / f"{name}.json"
        script.write_text(json.dumps({"session/prompt": [steps]}))
        yield _profile(name, script)
    for name, setting in SETTINGS.items():
        yield _profile(name, folder / "asking.json", setting)
    yield f'[workspaces."ci:repo"]\npath = "{folder}/repository"\nmode = "worktree"'
    yield '[profiles."builtin:missing"]\nbackend = "acp"\ncommand = ["/nonexistent/agent"]'
    yield '[profiles."builtin:short"]\nbackend = "shell"\nmax_run_s = 0.5'
    yield '[profiles."builtin:narrow"]\nbackend = "shell"\nmax_output_bytes = 1000'
    yield '[profiles."builtin:needy"]\nbackend = "shell"\ncapabilities = ["shell", "network"]'


def _repository(folder: Path) -> Path:
    """Make a git repository with one commit."""
    folder.mkdir()
    (folder / "file").write_text("one\n")
    commit = ("-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-qm", "first")
    for command in (("init", "-q"), ("add", "."), commit):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def _profile(name: str, script: Path, setting: str = "") -> str:
    command = json.dumps([sys.executable, str(AGENT), str(script)])
    return f'[profiles."builtin:{name}"]\nbackend = "acp"\ncommand = {command}\n{setting}'


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """A daemon with the profiles of AGENTS."""
    made = Jobs(tmp_path_factory.mktemp("jobs"))
    yield made
    made.daemon.end()


@pytest.fixture
def started(jobs: Jobs) -> "Iterator[Callable[..., subprocess.Popen[str]]]":
    """Starts jobs in the background. Those that still run at the end of the test are killed."""
    processes: list[subprocess.Popen[str]] = []

    def start(*args: str, **how: Any) -> "subprocess.Popen[str]":
        processes.append(jobs.start(*args, **how))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


def programs_with(argument: str) -> list[int]:
    """Return the processes that have this argument."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if argument in (process / "cmdline").read_text().split("\0"):
                found.append(int(process.name))
    return found


def wait_for(path: Path) -> None:
    """Wait until there is a file."""
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} is not there"
        time.sleep(0.01)
