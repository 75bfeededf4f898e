"""The MCP servers of a Worker, as its agent is told about them."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from runtimed.execution.processes.executable import located
from runtimed.execution.session.driver import SpawnRejected
from runtimed.model.mcp_server import McpServer

MIN_SECRET_CHARS = 4
"""The fewest characters of a value that is hidden; shorter ones are in every other text."""

HIDDEN = "[hidden]"


def merged(own: Collection[McpServer], requested: Iterable[McpServer]) -> tuple[McpServer, ...]:
    """Return the MCP servers of a profile, then those of a request whose names the profile does not have."""
    names = {server.name for server in own}
    return (*own, *(server for server in requested if server.name not in names))


def hide_values(text: str, servers: Iterable[Mapping[str, Any]]) -> str:
    """Return a text without the values of variables and headers.

    Args:
        text: What an agent has said.
        servers: MCP servers as the protocol has them.
    """
    pairs = (pair for server in servers for pair in (*server.get("env", ()), *server.get("headers", ())))
    for value in sorted({pair["value"] for pair in pairs}, key=len, reverse=True):
        if len(value) >= MIN_SECRET_CHARS:
            text = text.replace(value, HIDDEN)
    return text


def described(
    servers: Iterable[McpServer], transports: frozenset[str], env: Mapping[str, str], cwd: Path
) -> list[dict[str, Any]]:
    """Return MCP servers as the protocol has them. Blocks: it looks for the programs.

    Args:
        servers: The servers.
        transports: Which of `http` and `sse` the agent can use. Every agent can start a program.
        env: The environment of the agent, whose PATH is searched.
        cwd: Where a relative path starts.

    Raises:
        SpawnRejected: The agent can't use one of them; the text names it.
    """
    return [_program(server, env, cwd) if server.command else _url(server, transports) for server in servers]


def _program(server: McpServer, env: Mapping[str, str], cwd: Path) -> dict[str, Any]:
    try:
        command, *arguments = located(server.command, env, cwd)
    except OSError as error:
        raise SpawnRejected(f"mcp_servers: {server.name!r}: {error}") from None
    return {"name": server.name, "command": command, "args": arguments, "env": _pairs(server.env)}


def _url(server: McpServer, transports: frozenset[str]) -> dict[str, Any]:
    if server.type not in transports:
        able = " and ".join(["programs", *sorted(transports)])
        raise SpawnRejected(
            f"mcp_servers: {server.name!r}: the agent takes no MCP servers of type {server.type}, only {able}"
        )
    return {"type": server.type, "name": server.name, "url": server.url, "headers": _pairs(server.headers)}


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]
