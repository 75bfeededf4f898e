"""Profiles as clients see them: what can run a Worker on this host."""

from typing import Literal

from runtimed.model.value import value

Mechanism = Literal["bubblewrap", "landlock", "none"]
"""What confines the programs of a Worker."""

NetworkReach = Literal["none", "public", "host", "allow-list"]
"""What the programs of a Worker can connect to."""


SandboxMode = Literal["required", "best", "off"]
"""What becomes of a Worker that cannot be confined: it is rejected, or runs unconfined. `off`: none is confined."""


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
class MechanismCheck:
    """Whether a mechanism can confine Workers on this host.

    Attributes:
        mechanism: The mechanism.
        works: Whether it was tried with success when the daemon started.
        problem: Why it does not work.
    """

    mechanism: Mechanism
    works: bool
    problem: str | None = None


@value
class HostSandbox:
    """How Workers are confined on this host, unless their profile says otherwise.

    Attributes:
        mode: What becomes of a Worker that cannot be confined.
        mechanism: What confines Workers, `none` if nothing does.
        network: What they can connect to; `host` means everything that the daemon can.
        mechanisms: What could confine Workers, the strongest first.
    """

    mode: SandboxMode
    mechanism: Mechanism
    network: NetworkReach
    mechanisms: tuple[MechanismCheck, ...]


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
