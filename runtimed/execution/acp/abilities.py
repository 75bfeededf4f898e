"""What an agent and its client tell each other that they can do."""

from typing import Any

import attrs
from acp.schema import InitializeResponse

import runtimed

PROTOCOL_VERSION = 1


@attrs.frozen
class Abilities:
    """What an agent can do, as its answer to `initialize` says.

    Attributes:
        resume: It can resume a session.
        load: It can load a session.
        directories: It accepts directories besides its working directory.
        close: It can close a session.
        delete: It can delete a session.
        transports: Which of `http` and `sse` it accepts for MCP servers.
        images: It takes images in prompts.
        resources: It takes the content of resources in prompts.
        authentication: The ids of the ways to authenticate that it offers.
    """

    resume: bool = False
    load: bool = False
    directories: bool = False
    close: bool = False
    delete: bool = False
    transports: frozenset[str] = frozenset()
    images: bool = False
    resources: bool = False
    authentication: tuple[str, ...] = ()


def abilities_of(answer: InitializeResponse) -> Abilities:
    """Return what an agent can do."""
    able = answer.agent_capabilities
    sessions = able.session_capabilities if able else None
    prompts = able.prompt_capabilities if able else None
    mcp = able.mcp_capabilities if able else None
    return Abilities(
        resume=bool(sessions and sessions.resume is not None),
        load=bool(able and able.load_session),
        directories=bool(sessions and sessions.additional_directories is not None),
        close=bool(sessions and sessions.close is not None),
        delete=bool(sessions and sessions.delete is not None),
        transports=frozenset(name for name in ("http", "sse") if mcp and getattr(mcp, name)),
        images=bool(prompts and prompts.image),
        resources=bool(prompts and prompts.embedded_context),
        authentication=tuple(method.id for method in answer.auth_methods or ()),
    )


def greeting(granted: frozenset[str]) -> dict[str, Any]:
    """Return the parameters of `initialize`, with the capabilities that an agent is offered."""
    files = {"readTextFile": "read" in granted, "writeTextFile": "write" in granted}
    return {
        "protocolVersion": PROTOCOL_VERSION,
        "clientCapabilities": {
            "fs": files,
            "terminal": "shell" in granted,
            "elicitation": {"form": {}},
            "session": {"notices": {}},
        },
        "clientInfo": {"name": "runtimed", "title": "runtimed", "version": runtimed.__version__},
    }
