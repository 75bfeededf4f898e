"""Profiles as clients see them: what can run a Worker on this host."""

from typing import Literal

from runtimed.model.value import value

Mechanism = Literal["bubblewrap", "landlock", "none"]
"""What confines the programs of a Worker."""

NetworkReach = Literal["none", "public", "host", "allow-list"]
"""What the programs of a Worker can connect to."""


@value
class Sandbox:
    """The confinement of a Worker's programs.

    Attributes:
        mechanism: What confines them, `none` if nothing does.
        network: What they can connect to; `host` means everything that the daemon can.
    """

    mechanism: Mechanism
    network: NetworkReach


@value
class WarmAgents:
    """The agents of a profile that are started before their Workers are known.

    Attributes:
        ready: How many wait for a Worker now.
        wanted: How many the profile keeps.
    """

    ready: int
    wanted: int


@value
class ProfileSummary:
    """A profile that a Worker can be created with.

    Attributes:
        selector: Its name in the configuration, such as `builtin:shell`.
        backend: The kind of backend that runs its Workers.
        capabilities: What a request to create a Worker has to request.
        sandbox: How its Workers are confined.
        available: Whether a Worker can be started with it now.
        description: What it is for, in the words of the configuration.
        problem: Why it is not available.
        default: Whether it is the one of a request that selects the default profile.
        warm: Its agents that are started ahead, if it keeps any.
        mcp_from_clients: Whether a request may name MCP servers.
    """

    selector: str
    backend: str
    capabilities: tuple[str, ...]
    sandbox: Sandbox
    available: bool
    description: str | None = None
    problem: str | None = None
    default: bool = False
    warm: WarmAgents | None = None
    mcp_from_clients: bool = False
