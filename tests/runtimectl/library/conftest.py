"""Clients of real daemons, and daemons whose agents do what a script says."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtimectl import Client
from tests.conftest import granting
from tests.runtimectl.conftest import Daemon

AGENT = Path(__file__).parents[2] / "execution" / "acp" / "agent.py"
Script = dict[str, Any]


@pytest.fixture
def agent_config(tmp_path: Path, shared: Path) -> Callable[..., Path]:
    """Writes a configuration with the profile `builtin:agent`, whose agent does what the script says.

    Further lines of the profile may follow the script. What the agent hears is in `shared`.
    """

    def write(script: Script, further: str = "") -> Path:
        (shared / "script.json").write_text(json.dumps(script))
        command = json.dumps([sys.executable, str(AGENT), str(shared / "script.json")])
        config = tmp_path / "agent.toml"
        roots = f"workspace_roots = [{json.dumps(str(tmp_path))}]\n{granting(shared)}"
        config.write_text(f'{roots}[profiles."builtin:agent"]\nbackend = "acp"\ncommand = {command}\n{further}')
        return config

    return write


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A token file for daemons and clients."""
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text("the-token-of-the-client-library")
    return path


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon], token_file: Path) -> Daemon:
    """A daemon with an empty memory store."""
    return start_daemon("--store", "memory", "--token-file", str(token_file))


@pytest.fixture
def client(daemon: Daemon, token_file: Path) -> Iterator[Client]:
    """A client of the daemon."""
    with Client(daemon.url, token_file=str(token_file)) as found:
        yield found
