"""The port of what the daemon serves to the programs of one Worker, such as a proxy or a gateway."""

import socket
from typing import Protocol


class Service(Protocol):
    """Serve one Worker on loopback ports, one for each of its process trees."""

    async def serve(self, listener: socket.socket) -> None:
        """Begin to accept connections.

        Call it once for each process tree of the Worker. Connections are served in the background.

        Args:
            listener: A listening stream socket. The service owns it from now on, even if this raises.

        Raises:
            OSError: The socket cannot be used.
        """

    async def forget(self, listener: socket.socket) -> None:
        """Close a listener and the connections accepted on it. Does nothing for an unknown one."""

    async def close(self) -> None:
        """Close all listeners and connections. Call it once; `serve` must not be called afterwards."""
