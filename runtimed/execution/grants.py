"""What this host can hold Workers to, and what one Worker gets: values without I/O."""

from collections.abc import Mapping

import attrs

from runtimed.execution.network.rules import PUBLIC, NetworkPolicy
from runtimed.execution.policy import GitPolicy, Mount
from runtimed.model.profile import Mechanism, NetworkReach


@attrs.frozen
class Abilities:
    """What confines Workers here can do. What it cannot do is refused, never ignored.

    Attributes:
        mechanism: The mechanism.
        places_files: It gives each Worker files and folders at paths of its own, such as `/run/secrets/NAME`.
        limits_network: It leaves programs no way out but the proxy and the gateways of the daemon.
        limits_executables: It can keep programs from executing others.
    """

    mechanism: Mechanism = "none"
    places_files: bool = False
    limits_network: bool = False
    limits_executables: bool = False


@attrs.frozen
class Grants:
    """What one Worker gets: the narrower of its profile and its config bundle.

    Attributes:
        network: What it may connect to, or None for everything that the daemon can reach.
        secrets: The names of secrets on the host, by the name of the file that the Worker finds each in.
        mounts: Mounts by the name that the Worker finds each under.
        executables: The only programs that it may execute, None for all.
        git: Git policies by name; it gets a gateway for their remotes.
        capabilities: The only capabilities that may be requested, None for all.
    """

    network: NetworkPolicy | None = None
    secrets: Mapping[str, str] = attrs.field(factory=dict)
    mounts: Mapping[str, Mount] = attrs.field(factory=dict)
    executables: tuple[str, ...] | None = None
    git: Mapping[str, GitPolicy] = attrs.field(factory=dict)
    capabilities: frozenset[str] | None = None

    @property
    def network_reach(self) -> NetworkReach:
        """What it may connect to, in a word."""
        if self.network is None:
            return "host"
        if not self.network.lists:
            return "none"
        return "public" if self.network.lists == (PUBLIC,) else "allow-list"
