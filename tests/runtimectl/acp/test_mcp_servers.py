"""The MCP servers of an editor reach the agent behind `runtimectl acp`, where its profile takes them."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtimectl import Client
from runtimectl.acp.errors import InvalidParams
from runtimectl.acp.mcp_servers import read_mcp_servers
from tests.runtimectl.acp.conftest import Editor
from tests.runtimectl.conftest import Ctl, Daemon, wait_until

StartEditor = Callable[..., Editor]
ServeAgent = Callable[..., Daemon]
AGENT = ("--profile", "builtin:agent")
ABLE = {"capabilities": {"loadSession": True, "mcpCapabilities": {"http": True, "sse": True}}, "session": "s"}
SERVERS = [
    {
        "name": "issues",
        "command": sys.executable,
        "args": ["-m", "issues"],
        "env": [{"name": "KEY", "value": "s3cret-one"}],
    },
    {
        "type": "http",
        "name": "docs",
        "url": "https://docs.example.com/mcp",
        "headers": [{"name": "Authorization", "value": "Bearer s3cret-two"}],
    },
]
TAKES = "mcp_from_clients = true\n"


def test_servers_of_the_editor_reach_the_agent_again_after_a_restart_and_are_never_shown(
    start_editor: StartEditor, serve_agent: ServeAgent, ctl: Ctl, project: Path, tmp_path: Path, shared: Path
) -> None:
    store = ("--store", f"fs:{tmp_path}/store")
    daemon = serve_agent(ABLE, *store, profile=TAKES)
    editor = start_editor(*AGENT)

    session = editor.call("session/new", cwd=str(project), mcpServers=SERVERS)["sessionId"]
    editor.prompt(session, "one")()
    daemon.end(signal.SIGKILL)
    serve_agent(ABLE, *store, profile=TAKES)
    editor.prompt(session, "two")()

    assert _heard(shared, "session/new") == [SERVERS]
    assert _heard(shared, "session/load") == [SERVERS]
    assert not [text for text in editor.texts() if "not handed on" in text]
    shown = [
        ctl("workers", "get", session, "-o", "json"),
        ctl("events", "export", session),
        ctl("transcript", session),
    ]
    assert all(found.returncode == 0 for found in shown), shown
    assert "s3cret" not in "".join(found.stdout + found.stderr for found in shown)


def test_servers_that_the_profile_does_not_take_are_named_in_the_session_and_not_handed_on(
    start_editor: StartEditor, serve_agent: ServeAgent, project: Path, shared: Path
) -> None:
    serve_agent(ABLE)
    editor = start_editor(*AGENT)

    editor.call("session/new", cwd=str(project), mcpServers=SERVERS)

    wait_until(lambda: any("not handed on to this agent: issues, docs" in text for text in editor.texts()), "it")
    assert _heard(shared, "session/new") == [[]]


def test_a_server_that_the_agent_cannot_use_refuses_the_session_by_its_name_and_leaves_no_worker(
    start_editor: StartEditor, serve_agent: ServeAgent, project: Path
) -> None:
    serve_agent({}, profile=TAKES)
    editor = start_editor(*AGENT)

    refused = editor.begin("session/new", cwd=str(project), mcpServers=SERVERS)()

    assert "mcp_servers: 'docs': the agent takes no MCP servers of type http" in refused["error"]["message"]
    assert Client.from_env().workers() == ()


@pytest.mark.parametrize(
    ("server", "named"),
    [
        ("s3cret", "mcpServers[0]: expected an object"),
        ({"command": "x"}, "mcpServers[0].name: "),
        ({"name": "a", "command": ["s3cret"]}, "mcpServers[0].command: "),
        ({"name": "a", "command": "x", "args": "s3cret"}, "mcpServers[0].args: "),
        ({"name": "a", "command": "x", "args": [1]}, "mcpServers[0].args[0]: "),
        ({"name": "a", "command": "x", "env": {"A": "s3cret"}}, "mcpServers[0].env: "),
        ({"name": "a", "command": "x", "env": ["s3cret"]}, "mcpServers[0].env[0]: "),
        ({"name": "a", "command": "x", "env": [{"name": "A", "value": 1}]}, "mcpServers[0].env[0].value: "),
        ({"name": "a", "type": "http"}, "mcpServers[0].url: "),
        ({"name": "a", "type": "sse", "url": "http://x", "headers": [{"value": "s3cret"}]}, "headers[0].name: "),
        ({"name": "a", "type": "acp", "serverId": "s3cret"}, "mcpServers[0].type: expected http, sse or none"),
    ],
)
def test_a_server_of_a_wrong_shape_is_refused_by_its_field_and_without_its_values(server: Any, named: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        read_mcp_servers([server])

    assert named in str(refused.value)
    assert "s3cret" not in str(refused.value)


def _heard(folder: Path, method: str) -> list[Any]:
    """The MCP servers that the agent was told by this method, each time."""
    messages = map(json.loads, (folder / "heard.jsonl").read_text().splitlines())
    return [message["params"]["mcpServers"] for message in messages if message.get("method") == method]
