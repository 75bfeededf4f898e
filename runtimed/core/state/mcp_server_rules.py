"""Rules for the MCP servers of profiles and of requests. Pure. No error shows a value: it may be a secret."""

import re
from collections.abc import Iterable, Mapping, Sequence

from runtimed.errors import InvalidRequest, printable
from runtimed.model.mcp_server import McpServer

MAX_MCP_SERVERS = 32
MAX_MCP_SERVERS_BYTES = 64 << 10
"""The most MCP servers of a request, and the most bytes of all their texts together, in UTF-8."""

MAX_MCP_NAME = 128
"""The most characters of the name of an MCP server."""

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def check_requested_servers(servers: Sequence[McpServer], field: str = "mcp_servers") -> None:
    """Check the MCP servers that a client names.

    Args:
        servers: The servers.
        field: The path of the field that holds them, for the error.

    Raises:
        InvalidRequest: There are too many, or one breaks a rule; the message names the field.
    """
    if len(servers) > MAX_MCP_SERVERS:
        raise InvalidRequest(f"{field}: expected at most {MAX_MCP_SERVERS}")
    if sum(map(_size, servers)) > MAX_MCP_SERVERS_BYTES:
        raise InvalidRequest(f"{field}: expected at most {MAX_MCP_SERVERS_BYTES} bytes in all")
    check_servers(servers, field)


def check_servers(servers: Sequence[McpServer], field: str) -> None:
    """Check MCP servers, however many. Raises InvalidRequest; the message names the field."""
    names: set[str] = set()
    for index, server in enumerate(servers):
        place = f"{field}[{index}]"
        if not (server.name.strip() and len(server.name) <= MAX_MCP_NAME and server.name.isprintable()):
            raise InvalidRequest(f"{place}.name: expected a name of 1 to {MAX_MCP_NAME} printable characters")
        if server.name in names:
            raise InvalidRequest(f"{place}.name: expected a name that no other server has, got {server.name!r}")
        names.add(server.name)
        _check(server, place)


def _check(server: McpServer, place: str) -> None:
    if bool(server.command) == bool(server.url) or server.command[:1] == ("",):
        raise InvalidRequest(f"{place}: expected either a command, an argv with the program first, or a url")
    if server.url:
        _check_url(server, place)
    else:
        _check_program(server, place)


def _check_url(server: McpServer, place: str) -> None:
    if not server.url.startswith(("http://", "https://")) or not server.url.isprintable():
        raise InvalidRequest(f"{place}.url: expected one of http:// or https://")
    if server.env:
        raise InvalidRequest(f"{place}.env: expected only with a command; a url takes headers")
    for name, value in server.headers.items():
        if not HEADER_NAME.fullmatch(name):
            raise InvalidRequest(f"{place}.headers: expected names of HTTP headers")
        if any(character in value for character in "\r\n\0"):
            raise InvalidRequest(f"{place}.headers.{name}: expected a string without NUL and line breaks")


def _check_program(server: McpServer, place: str) -> None:
    if server.headers:
        raise InvalidRequest(f"{place}.headers: expected only with a url; a command takes env")
    for index, word in enumerate(server.command):
        if "\0" in word:
            raise InvalidRequest(f"{place}.command[{index}]: expected a string without NUL")
    for name, value in server.env.items():
        if not name or "=" in name or "\0" in name:
            raise InvalidRequest(f"{place}.env: expected names of variables, without = and NUL")
        if "\0" in value:
            raise InvalidRequest(f"{place}.env.{printable(name)}: expected a string without NUL")


def _size(server: McpServer) -> int:
    texts = (server.name, server.url, *server.command, *_texts(server.env), *_texts(server.headers))
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def _texts(pairs: Mapping[str, str]) -> Iterable[str]:
    return (*pairs, *pairs.values())
