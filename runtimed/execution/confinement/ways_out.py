"""What the programs of one Worker find on loopback addresses: a proxy, and gateways."""

import asyncio
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs

from runtimed.execution.network.namespace_listeners import NamespaceListeners
from runtimed.execution.network.proxy import USER, Proxy, SharedLimits
from runtimed.execution.network.refusals import Refusals
from runtimed.execution.network.rules import NetworkPolicy
from runtimed.execution.network.service import Service
from runtimed.execution.policy import GitPolicy
from runtimed.execution.processes.confinement import ConfinementRefused
from runtimed.model.event import SystemItem

LOOPBACK = "127.0.0.1"
BACKLOG = 128

FIRST_PORT = 3128
"""The port of the proxy in a network of a Worker's own. Those of gateways follow."""

PASSWORD_BYTES = 24
PROXY, GIT = "proxy", "git"
NO_PROXY = "127.0.0.1,localhost,::1"

Report = Callable[[SystemItem], None]
Listening = Sequence[tuple[Service, socket.socket]]
"""The sockets that listen for one process tree, each with what serves it."""


class Gateway(Service, Protocol):
    """A gateway of one Worker."""

    @property
    def key(self) -> str:
        """What the Worker's programs send in place of the real credentials."""


class Gateways(Protocol):
    """Makes the gateways of Workers."""

    @property
    def requests(self) -> Mapping[tuple[str, int], int]:
        """How many requests were answered, by the name of the gateway and the status of the response."""

    def new(self, names: Sequence[str]) -> Mapping[str, Gateway]:
        """Return gateways for one Worker, by their names. Names that are not configured have none."""

    def new_git(self, policies: Sequence[GitPolicy]) -> Gateway:
        """Return the gateway for Git of one Worker."""

    def git_variables(
        self, url: str, key: str, policies: Sequence[GitPolicy], env: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the variables that send a Worker's Git to its gateway, besides Git's settings in `env`."""

    async def close(self) -> None:
        """Close the connections to upstreams. The gateways are closed by their owners."""


class NoGateways:
    """The Gateways of a host without any."""

    @property
    def requests(self) -> Mapping[tuple[str, int], int]:
        return {}

    def new(self, names: Sequence[str]) -> Mapping[str, Gateway]:
        return {}

    def new_git(self, policies: Sequence[GitPolicy]) -> Gateway:
        raise ConfinementRefused("git_policy: this host has no gateway for Git")

    def git_variables(
        self, url: str, key: str, policies: Sequence[GitPolicy], env: Mapping[str, str]
    ) -> dict[str, str]:
        return {}

    async def close(self) -> None:
        """Do nothing."""


@attrs.frozen
class Wanted:
    """The ways out that a Worker gets.

    Attributes:
        policy: What it may connect to; None for everything, which takes no proxy.
        gateways: The names of its gateways.
        git: The remotes of Git that it may use.
        is_on_host: They listen on the loopback address of the host, where all its users can connect.
    """

    policy: NetworkPolicy | None = None
    gateways: tuple[str, ...] = ()
    git: tuple[GitPolicy, ...] = ()
    is_on_host: bool = False


def proxy_variables(port: int, password: str | None) -> dict[str, str]:
    """Return the variables that tell programs of the proxy on this port, and its password, if it has one."""
    url = f"http://{LOOPBACK}:{port}" if password is None else f"http://{USER}:{password}@{LOOPBACK}:{port}"
    found = {"NODE_USE_ENV_PROXY": "1"}
    for name, value in (("HTTP_PROXY", url), ("HTTPS_PROXY", url), ("NO_PROXY", NO_PROXY)):
        found |= {name: value, name.lower(): value}
    return found


class WaysOut:
    """The proxy and the gateways of one Worker.

    Attributes:
        report: Takes the events about refused connections.

    Args:
        wanted: What it gets.
        gateways: Makes the gateways.
        shared: The limits of the proxies of all Workers.
        listeners: Opens sockets where the programs are.
    """

    def __init__(
        self, wanted: Wanted, gateways: Gateways, shared: SharedLimits, listeners: NamespaceListeners
    ) -> None:
        self.report: Report = _drop
        self._refusals = Refusals()
        self._listeners = listeners
        self._wanted = wanted
        self._host = gateways
        self._gateways = dict(sorted(gateways.new(wanted.gateways).items()))
        self._git = gateways.new_git(wanted.git) if wanted.git else None
        self._password = secrets.token_urlsafe(PASSWORD_BYTES) if wanted.is_on_host else None
        self._services: dict[str, Service] = {}
        if wanted.policy is not None and wanted.policy.lists:
            self._services[PROXY] = Proxy(wanted.policy, self._refused, shared, password=self._password)
        self._services |= {f"gateway:{name}": gateway for name, gateway in self._gateways.items()}
        self._services |= {} if self._git is None else {GIT: self._git}
        self._ports = dict(zip(self._services, range(FIRST_PORT, FIRST_PORT + len(self._services)), strict=True))

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports, of the host after `open_on_host`, else in a network of the Worker's own."""
        return tuple(self._ports.values())

    def variables(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that tell programs of the proxy, and Git of its gateway, besides those in `env`."""
        found = proxy_variables(self._ports[PROXY], self._password) if PROXY in self._ports else {}
        if self._git is not None:
            url = f"http://{LOOPBACK}:{self._ports[GIT]}"
            found |= self._host.git_variables(url, self._git.key, self._wanted.git, env)
        return found

    @property
    def values(self) -> dict[str, str]:
        """What references to gateways stand for, such as `gateway:NAME`."""
        found = {name: f"http://{LOOPBACK}:{port}" for name, port in self._ports.items() if name not in {PROXY, GIT}}
        return found | {f"gateway-key:{name}": gateway.key for name, gateway in self._gateways.items()}

    async def open_on_host(self) -> None:
        """Listen on free ports of the host, for a Worker without a network of its own.

        Raises:
            OSError: There are no ports or sockets left. Nothing stays open.
        """
        try:
            for name, service in self._services.items():
                listener = socket.create_server((LOOPBACK, 0), backlog=BACKLOG)
                self._ports[name] = listener.getsockname()[1]
                await service.serve(listener)
        except BaseException:
            await self.close()
            raise

    async def open(self, pid: int, namespace: int | None) -> Listening:
        """Listen in the network namespace of a process, for its process tree.

        Args:
            pid: The process.
            namespace: The inode of the namespace, if it is known.

        Raises:
            OSError: The sockets cannot be opened.
        """
        opened = await self._listeners.open(pid, self.ports, inode=namespace)
        listening = list(zip(self._services.values(), opened, strict=True))
        try:
            for service, listener in listening:
                await service.serve(listener)
        except BaseException:
            await self.forget(listening)
            raise
        return listening

    async def forget(self, listening: Listening) -> None:
        """Close what was opened for a process tree that has ended."""
        await asyncio.gather(*(service.forget(listener) for service, listener in listening))
        for _, listener in listening:
            listener.close()

    async def close(self) -> None:
        """Close all services with their connections."""
        await asyncio.gather(*(service.close() for service in self._services.values()))

    def _refused(self, host: str, port: int, reason: str) -> None:
        if (item := self._refusals.add(host, port, reason)) is not None:
            self.report(item)


def _drop(_item: SystemItem) -> None:
    """Report to nobody: no Worker has the program yet."""


class Network:
    """Gives each Worker its ways out.

    Args:
        gateways: Makes gateways.
    """

    def __init__(self, gateways: Gateways | None = None) -> None:
        self._gateways: Gateways = gateways or NoGateways()
        self._shared = SharedLimits()
        self._listeners = NamespaceListeners()
        self._is_closed = False

    @property
    def gateway_requests(self) -> Mapping[tuple[str, int], int]:
        """How many requests gateways have answered, by the name of the gateway and the status of the response."""
        return self._gateways.requests

    def ways_out(self, wanted: Wanted) -> WaysOut | None:
        """Return the ways out of a Worker, or None if it needs none."""
        if not (wanted.policy is not None and wanted.policy.lists) and not wanted.gateways and not wanted.git:
            return None
        return WaysOut(wanted, self._gateways, self._shared, self._listeners)

    async def close(self) -> None:
        """End what opens sockets for Workers. Their ways out are closed by their owners. May be called again."""
        if not self._is_closed:
            self._is_closed = True
            await self._listeners.close()
            await self._gateways.close()
