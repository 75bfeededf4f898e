"""MCP servers that an agent is told to use."""

from typing import Literal

import attrs

from runtimed.model.value import value

McpTransport = Literal["http", "sse"]


@value
class McpServer:
    """An MCP server that an agent is told to use: a program that the agent starts, or a URL.

    Its values may be secrets, so only its name is part of its text.

    Attributes:
        name: What it is called.
        command: The argv of the program; none for a server with a URL.
        env: Variables that the program gets besides those of the agent.
        url: Where the server is reached.
        type: The transport of the URL.
        headers: HTTP headers that the agent sends to the URL.
    """

    name: str
    command: tuple[str, ...] = attrs.field(default=(), repr=False)
    env: dict[str, str] = attrs.field(factory=dict, repr=False)
    url: str = attrs.field(default="", repr=False)
    type: McpTransport = "http"
    headers: dict[str, str] = attrs.field(factory=dict, repr=False)
