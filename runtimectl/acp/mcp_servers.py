"""Read the MCP servers of an editor. Pure. No error shows a value: it may be a secret."""

from typing import Any

from runtimectl.acp.errors import InvalidParams
from runtimed.model.mcp_server import McpServer, McpTransport

FIELD = "mcpServers"


def read_mcp_servers(servers: list[Any]) -> tuple[McpServer, ...]:
    """Return MCP servers as a request to create a Worker has them.

    Args:
        servers: The servers as the protocol has them.

    Raises:
        InvalidParams: One of them is invalid; the message names the field.
    """
    return tuple(_server(server, f"{FIELD}[{index}]") for index, server in enumerate(servers))


def _server(server: Any, place: str) -> McpServer:
    if not isinstance(server, dict):
        raise InvalidParams(f"{place}: expected an object")
    name, kind = _text(server.get("name"), f"{place}.name"), server.get("type")
    if kind in ("http", "sse"):
        transport: McpTransport = "http" if kind == "http" else "sse"
        url = _text(server.get("url"), f"{place}.url")
        return McpServer(name, url=url, type=transport, headers=_pairs(server.get("headers"), f"{place}.headers"))
    if kind not in (None, "stdio"):
        raise InvalidParams(f"{place}.type: expected http, sse or none")
    arguments = (
        _text(argument, f"{place}.args[{index}]")
        for index, argument in enumerate(_list(server.get("args"), f"{place}.args"))
    )
    command = (_text(server.get("command"), f"{place}.command"), *arguments)
    return McpServer(name, command, _pairs(server.get("env"), f"{place}.env"))


def _pairs(pairs: Any, place: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for index, pair in enumerate(_list(pairs, place)):
        if not isinstance(pair, dict):
            raise InvalidParams(f"{place}[{index}]: expected an object with name and value")
        name = _text(pair.get("name"), f"{place}[{index}].name")
        found[name] = _text(pair.get("value"), f"{place}[{index}].value")
    return found


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list | None):
        raise InvalidParams(f"{place}: expected a list")
    return value or []


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise InvalidParams(f"{place}: expected a text")
    return value
