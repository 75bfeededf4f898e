"""`runtimectl acp` with unmodified clients of others: the TypeScript SDK and acpx, installed by npm."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtimectl.acp.test_stdio import OPTIONS
from tests.runtimectl.conftest import Daemon

PACKAGES = ("@agentclientprotocol/sdk@2.4.0", "zod@4", "acpx@0.19.1")
NODE = "node@22"
"""A Node for acpx, which needs this version: another one may be installed."""

INSTALL_TIMEOUT_S = 300
RUN_TIMEOUT_S = 90
FACE = [sys.executable, "-m", "runtimectl", "acp", "--profile", "builtin:agent"]
SCRIPT: dict[str, Any] = {
    "session/prompt": [
        [["text", "answer"], ["ask", {"toolCallId": "call-1", "title": "write a file"}, OPTIONS], ["end"]],
        [["error", -32000, "the model is down"]],
    ]
}

pytestmark = [
    pytest.mark.xdist_group("acp_clients"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm"),
    pytest.mark.timeout(INSTALL_TIMEOUT_S + RUN_TIMEOUT_S),
]


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the clients and a Node for them."""
    folder = tmp_path_factory.mktemp("npm")
    command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", NODE, *PACKAGES]
    subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S)
    return folder


@pytest.fixture
def run_node(packages: Path, env: dict[str, str], project: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program of these packages with its Node."""
    programs = packages / "node_modules" / ".bin"

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(programs / argv[0]), *argv[1:]],
            env={**env, "PATH": f"{programs}{os.pathsep}{env['PATH']}"},
            cwd=project,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return run


def test_the_typescript_sdk_drives_sessions_permissions_loads_and_failures(
    packages: Path,
    run_node: Callable[..., subprocess.CompletedProcess[str]],
    serve_agent: Callable[..., Daemon],
) -> None:
    serve_agent(SCRIPT)
    program = packages / "sdk_client.mjs"
    shutil.copy(Path(__file__).with_name("sdk_client.mjs"), program)

    ended = run_node("node", str(program), *FACE)

    assert (ended.returncode, ended.stderr) == (0, "")
    seen = json.loads(ended.stdout)
    assert seen["initialized"]["agentCapabilities"]["loadSession"] is True
    assert seen["first"]["stopReason"] == "end_turn"
    assert seen["asked"] == ["write a file"]
    assert "the model is down" in seen["failed"]
    assert seen["exit"] == 0
    for name in ("live", "loaded"):
        texts = [each["content"]["text"] for each in seen[name] if each["sessionUpdate"] == "agent_message_chunk"]
        assert texts[0] == "answer", name
        assert json.loads("".join(texts[1:])) == {"outcome": "selected", "optionId": "yes"}, name


def test_acpx_runs_one_prompt_and_goes_on_with_a_session(
    run_node: Callable[..., subprocess.CompletedProcess[str]], env: dict[str, str], daemon: Daemon
) -> None:
    face = shlex.join([*FACE[:-1], "builtin:shell"])
    acpx = ("acpx", "--agent", face, "--approve-all", "--format", "quiet", "--ttl", "1")

    once = run_node(*acpx, "exec", "echo once")
    created = run_node(*acpx, "sessions", "new")
    first = run_node(*acpx, "x=kept; echo first")
    second = run_node(*acpx, "echo second $x")
    while "Queue owner is shutting down" in second.stderr:  # its process for the session is just ending
        second = run_node(*acpx, "echo second $x")

    assert (once.returncode, once.stdout.strip()) == (0, "once"), once.stderr
    assert created.returncode == 0, created.stderr
    assert (first.returncode, first.stdout.strip()) == (0, "first"), first.stderr
    assert (second.returncode, second.stdout.strip()) == (0, "second kept"), second.stderr
