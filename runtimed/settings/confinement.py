"""Settings of confinement: what Workers may reach, and what the names of secrets, gateways and policies mean."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from runtimed.execution.policy import HostResources, SandboxPolicy
from runtimed.settings import resources
from runtimed.settings.sandbox import check_exposed, check_paths, read_sandbox, read_uids


@attrs.frozen(slots=False)
class ConfinementSettings:
    """What the programs of Workers may reach. Each setting is a table of the configuration file."""

    sandbox: dict[str, Any] = attrs.field(factory=dict)
    secrets: dict[str, Any] = attrs.field(factory=dict)
    gateways: dict[str, Any] = attrs.field(factory=dict)
    mounts: dict[str, Any] = attrs.field(factory=dict)
    network_policies: dict[str, Any] = attrs.field(factory=dict)
    shell_policies: dict[str, Any] = attrs.field(factory=dict)
    git_policies: dict[str, Any] = attrs.field(factory=dict)

    def sandbox_policy(self) -> SandboxPolicy:
        """Return the policy of all profiles without one of their own. Raises ConfigurationError."""
        return read_sandbox("sandbox", self.sandbox)

    def worker_uids(self) -> range:
        """Return the user ids that Workers get from a daemon that is root. Raises ConfigurationError."""
        return read_uids("sandbox", self.sandbox)

    def host_resources(self) -> HostResources:
        """Return what the names mean on this host. Raises ConfigurationError, which names the wrong key."""
        return resources.read_resources(
            self.secrets,
            self.gateways,
            self.mounts,
            self.network_policies,
            self.shell_policies,
            self.git_policies,
        )

    @property
    def secret_files(self) -> tuple[Path, ...]:
        """The files of secrets. Raises ConfigurationError."""
        return tuple(secret.file for secret in self.host_resources().secrets.values() if secret.file is not None)

    def check_confinement(self, private: Iterable[Path]) -> None:
        """Raise ConfigurationError if a table is wrong.

        Args:
            private: The paths that no Worker may be given.
        """
        check_paths("sandbox", self.sandbox_policy(), private)
        self.worker_uids()
        for name, mount in self.host_resources().mounts.items():
            check_exposed(f"mounts.{name}.path", mount.path, private, writable=mount.writable)
