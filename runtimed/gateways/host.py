"""The gateways of a host: makes those of each Worker."""

from collections.abc import Mapping, Sequence

from runtimed.execution.confinement.secrets import Secrets
from runtimed.execution.policy import Gateway, GitPolicy
from runtimed.gateways.gateway import GatewayService
from runtimed.gateways.git_gateway import GitGatewayService
from runtimed.gateways.git_rules import git_environment
from runtimed.gateways.upstreams import Upstreams


class HostGateways:
    """Makes the gateways of Workers. They share connections to upstreams, and limits.

    Args:
        gateways: The gateways of the configuration, by name.
        secrets: Gives the real credentials.
    """

    def __init__(self, gateways: Mapping[str, Gateway], secrets: Secrets) -> None:
        self._upstreams = Upstreams()
        self.replace(gateways, secrets)

    def replace(self, gateways: Mapping[str, Gateway], secrets: Secrets) -> None:
        """Make gateways from another configuration from now on. Those of present Workers stay as they are."""
        self._gateways = gateways
        self._secrets = secrets

    @property
    def requests(self) -> Mapping[tuple[str, int], int]:
        """How many requests were answered, by the name of the gateway and the status of the response."""
        return self._upstreams.requests

    def new(self, names: Sequence[str]) -> Mapping[str, GatewayService]:
        """Return gateways for one Worker, by their names. Names that are not configured have none."""
        found = {name: self._gateways[name] for name in names if name in self._gateways}
        return {
            name: GatewayService(name, gateway, self._secrets, self._upstreams) for name, gateway in found.items()
        }

    def new_git(self, policies: Sequence[GitPolicy]) -> GitGatewayService:
        """Return the gateway for Git of one Worker."""
        return GitGatewayService(policies, self._secrets, self._upstreams)

    def git_variables(
        self, url: str, key: str, policies: Sequence[GitPolicy], env: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the variables that send a Worker's Git to its gateway.

        Args:
            url: The gateway.
            key: Its key.
            policies: What it serves.
            env: The environment of the Worker. Git's settings in it stay.
        """
        return git_environment(url, key, policies, env)

    async def close(self) -> None:
        """Close the connections to upstreams. The gateways are closed by their owners."""
        await self._upstreams.close()
