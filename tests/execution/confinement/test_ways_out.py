"""What listens on the loopback address of the host for a Worker without a network of its own."""

import asyncio
import errno
import socket
from collections.abc import Mapping, Sequence

import pytest

from runtimed.execution.confinement.ways_out import LOOPBACK, Gateway, Network, NoGateways, Wanted, WaysOut
from runtimed.execution.network.namespace_listeners import NamespaceListeners
from runtimed.execution.network.proxy import SharedLimits
from runtimed.execution.network.rules import PUBLIC, NetworkPolicy
from runtimed.execution.policy import GitPolicy
from runtimed.execution.processes.confinement import ConfinementRefused


class Unservable:
    """A gateway that can serve on no socket, as when the process has no descriptor left."""

    key = "key"

    async def serve(self, listener: socket.socket) -> None:
        listener.close()
        raise OSError(errno.EMFILE, "too many open files")

    async def forget(self, listener: socket.socket) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


class OneGateway(NoGateways):
    def new(self, names: Sequence[str]) -> Mapping[str, Gateway]:
        return {name: Unservable() for name in names}


async def test_ports_that_cannot_all_be_opened_leave_none_open() -> None:
    listeners = NamespaceListeners()
    wanted = Wanted(NetworkPolicy((PUBLIC,)), ("models",))
    ways_out = WaysOut(wanted, OneGateway(), SharedLimits(), listeners)

    with pytest.raises(OSError, match="too many open files"):
        await ways_out.open_on_host()

    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(LOOPBACK, ways_out.ports[0])
    await listeners.close()


def test_a_git_policy_is_refused_where_the_host_has_no_gateway_for_git() -> None:
    with pytest.raises(ConfinementRefused, match="git_policy: this host has no gateway"):
        Network().ways_out(Wanted(None, git=(GitPolicy(("https://git.example.org/*",)),)))
