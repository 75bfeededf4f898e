"""The MCP servers of a profile, as an agent is told about them. Everything here blocks."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runtimed.execution.processes.executable import located
from runtimed.execution.profile import McpServer
from runtimed.execution.session.driver import SpawnRejected


def described(
    servers: Iterable[McpServer], transports: frozenset[str], env: Mapping[str, str], cwd: Path
) -> list[dict[str, Any]]:
    """Return MCP servers as the protocol has them.

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
