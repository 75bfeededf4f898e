"""The MCP servers of a profile and of a request, as agents are told about them."""

import logging
import sys
from typing import Any

import pytest

from runtimed.model.mcp_server import McpServer
from tests.execution.acp.conftest import NewHarness
from tests.execution.acp.test_backend import ACCEPTED

ISSUES = McpServer("issues", command=(sys.executable, "-m", "issues"), env={"KEY": "k"})
DOCS = McpServer("docs", url="https://docs.example.com/mcp", headers={"Authorization": "Bearer t"})
OLD = McpServer("old", url="http://127.0.0.1:1/sse", type="sse")
BOTH = {"mcpCapabilities": {"http": True, "sse": True}}


async def test_servers_are_handed_on_in_a_new_session_and_in_one_that_is_opened_again(
    new_harness: NewHarness,
) -> None:
    able = {**BOTH, "loadSession": True}
    harness = new_harness({"capabilities": able, "session": "s"}, mcp_servers=(ISSUES, DOCS, OLD))
    assert await harness.spawn() == ACCEPTED
    assert await harness.restart() == ACCEPTED

    (new,), (loaded,) = harness.heard("session/new"), harness.heard("session/load")

    assert new["mcpServers"] == [
        {
            "name": "issues",
            "command": sys.executable,
            "args": ["-m", "issues"],
            "env": [{"name": "KEY", "value": "k"}],
        },
        {
            "type": "http",
            "name": "docs",
            "url": "https://docs.example.com/mcp",
            "headers": [{"name": "Authorization", "value": "Bearer t"}],
        },
        {"type": "sse", "name": "old", "url": "http://127.0.0.1:1/sse", "headers": []},
    ]
    assert loaded["mcpServers"] == new["mcpServers"]


async def test_a_program_without_a_path_is_handed_on_with_the_path_that_the_agent_would_find(
    new_harness: NewHarness,
) -> None:
    harness = new_harness(mcp_servers=(McpServer("shell", command=("sh",)),))
    await harness.spawn()

    ((server,),) = (told["mcpServers"] for told in harness.heard("session/new"))

    assert server["command"].endswith("/sh")
    assert server["command"].startswith("/")


@pytest.mark.parametrize(
    ("server", "able", "problem"),
    [
        (DOCS, {}, "mcp_servers: 'docs': the agent takes no MCP servers of type http, only programs"),
        (
            OLD,
            {"mcpCapabilities": {"http": True}},
            "'old': the agent takes no MCP servers of type sse, only programs",
        ),
        (McpServer("gone", command=("no-such-server",)), BOTH, "'gone': command: 'no-such-server' does not exist"),
    ],
)
async def test_a_spawn_is_rejected_by_the_name_of_a_server_that_cannot_be_used(
    new_harness: NewHarness, server: McpServer, able: dict[str, Any], problem: str
) -> None:
    harness = new_harness({"capabilities": able}, mcp_servers=(server,))

    answer = await harness.spawn()

    assert answer.outcome == "rejected"
    assert problem in str(answer.message)


async def test_servers_of_a_request_follow_those_of_the_profile_which_keep_their_names(
    new_harness: NewHarness,
) -> None:
    harness = new_harness(mcp_servers=(ISSUES,))
    mine = McpServer("mine", command=("sh", "-c", "exit"), env={"MINE": "1"})

    assert await harness.spawn(mcp_servers=(McpServer("issues", command=("sh",)), mine)) == ACCEPTED

    ((issues, own),) = (told["mcpServers"] for told in harness.heard("session/new"))
    assert (issues["name"], issues["command"]) == ("issues", sys.executable)
    assert (own["name"], own["args"], own["env"]) == ("mine", ["-c", "exit"], [{"name": "MINE", "value": "1"}])


@pytest.mark.parametrize(
    "step",
    [
        ["error", -32602, "Invalid params", {"env": "s3cret-value", "headers": ["Bearer s3cret"]}],
        ["leave", 1, "cannot connect with s3cret-value and Bearer s3cret"],
    ],
)
async def test_an_agent_that_repeats_the_values_of_servers_in_its_refusal_does_not_show_them(
    new_harness: NewHarness, step: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logged = ["raw", "DEBUG: received s3cret-value"]
    harness = new_harness({"capabilities": BOTH, "session/new": [logged, step]})
    servers = (
        McpServer("a", command=("sh",), env={"KEY": "s3cret-value"}),
        McpServer("b", url="http://127.0.0.1:1/", headers={"Authorization": "Bearer s3cret"}),
    )

    answer = await harness.spawn(mcp_servers=servers)

    assert answer.outcome == "errored"
    assert "[hidden]" in str(answer.message)
    lines = [str(vars(record).get("line")) for record in caplog.records]
    assert "'DEBUG: received [hidden]\\n'" in lines
    assert "s3cret" not in f"{answer}{caplog.text}{lines}{servers}"
