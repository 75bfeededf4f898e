"""What the programs of one Worker find on loopback addresses instead of a network."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from typing import Protocol

from runtimed.execution.network.service import Service

Listening = Sequence[tuple[Service, socket.socket]]
"""The sockets that listen for one process tree, each with what serves it."""


class NamespaceListeners(Protocol):
    """Opens sockets in the network namespace of a process."""

    async def open(self, pid: int, ports: Sequence[int]) -> list[socket.socket]:
        """Return sockets that listen on these ports of the loopback address. Raises OSError."""


class WaysOut:
    """The services of one Worker, each on a port of the loopback address.

    Args:
        services: The services by port.
        variables: Tells programs of them.
        listeners: Opens sockets where the programs are.
    """

    def __init__(
        self, services: Mapping[int, Service], variables: Mapping[str, str], listeners: NamespaceListeners
    ) -> None:
        self._services = dict(services)
        self.variables = variables
        self._listeners = listeners

    async def open(self, pid: int) -> Listening:
        """Listen in the network namespace of a process, for its process tree.

        Raises:
            OSError: The sockets cannot be opened.
        """
        opened = await self._listeners.open(pid, list(self._services))
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
