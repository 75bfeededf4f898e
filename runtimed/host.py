"""What confines Workers on this host, and what names mean there."""

import os
from collections.abc import Iterable
from pathlib import Path

import attrs

from runtimed.execution.confinement.confiner import without_links
from runtimed.execution.confinement.host_paths import HostPaths
from runtimed.execution.confinement.probe import Mechanisms, find_mechanisms
from runtimed.execution.policy import HostResources
from runtimed.http.server.listeners import Address
from runtimed.settings import Settings, configuration_files, configuration_folders
from runtimed.wire import endpoint


@attrs.frozen
class Host:
    """What confines Workers on this host, and what names mean there.

    Attributes:
        mechanisms: What can confine them. All that is tried is tried once; nothing is while all confinement is off.
        paths: The store, the configuration, tokens, secrets and sockets of the daemon, which are hidden.
        resources: What the names in the configuration mean.
    """

    mechanisms: Mechanisms
    paths: HostPaths
    resources: HostResources

    @classmethod
    def find(cls, settings: Settings, data_dir: Path, config: str | None) -> "Host":
        """Find out what the settings mean at the start. Blocks.

        Args:
            settings: All settings.
            data_dir: The folder of the store.
            config: The configuration file that was read instead of the usual ones.
        """
        hidden = _hidden(settings, (data_dir, endpoint.folder()), config)
        return cls(_mechanisms(settings), HostPaths(hidden), without_links(settings.host_resources()))

    def after(self, settings: Settings, named: Iterable[Path], config: str | None) -> "Host":
        """Find out what the settings mean after a reload. Blocks.

        What was hidden stays hidden: running Workers and the daemon still use it.

        Args:
            settings: The settings in use from then on.
            named: Further files to hide.
            config: As for `find`.
        """
        found = _hidden(settings, named, config)
        paths = attrs.evolve(self.paths, hidden=tuple(dict.fromkeys((*self.paths.hidden, *found))))
        mechanisms = self.mechanisms if self.mechanisms.checks else _mechanisms(settings)
        return Host(mechanisms, paths, without_links(settings.host_resources()))


def _hidden(settings: Settings, others: Iterable[Path], config: str | None) -> tuple[Path, ...]:
    addresses = [*map(Address.parse, settings.listen), settings.metrics_address()]
    sockets = [Path(address.path) for address in addresses if address is not None and address.path]
    configured = [*configuration_files(config), *configuration_folders()]
    return tuple(path.resolve() for path in (*others, *configured, *settings.private_files, *sockets))


def _mechanisms(settings: Settings) -> Mechanisms:
    policies = (settings.sandbox_policy(), *(profile.sandbox for profile in settings.profile_table().values()))
    if all(policy.mode == "off" for policy in policies):
        return Mechanisms()
    return find_mechanisms(settings.worker_uids().start if os.geteuid() == 0 else None)
