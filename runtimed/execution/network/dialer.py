"""Connect to the hosts that a policy allows."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from http import HTTPStatus

import attrs

from runtimed.execution.network.addresses import Address, is_public
from runtimed.execution.network.rejection import Rejection
from runtimed.execution.network.request import ProxyRequest
from runtimed.execution.network.resolver import Resolve
from runtimed.execution.network.routes import is_own
from runtimed.execution.network.rules import NetworkPolicy

MAX_ADDRESSES = 8
"""How many addresses of a name are tried."""


class Refused(Rejection):
    """The policy does not allow a destination.

    Attributes:
        reason: Why, without the destination.
    """

    def __init__(self, destination: str, reason: str) -> None:
        super().__init__(HTTPStatus.FORBIDDEN, f"connection to {destination} refused: {reason}")
        self.reason = reason


@attrs.frozen
class Dialer:
    """Connects to the hosts that a policy allows.

    A name is looked up once. All of its addresses are checked, and connections go to these addresses only.

    Attributes:
        policy: What is allowed.
        resolve: Looks up the addresses of a name.
        lookup_s: How long that may take.
        connect_s: How long connecting may take, for all addresses together. Each gets half of what is left.
    """

    policy: NetworkPolicy
    resolve: Resolve
    lookup_s: float
    connect_s: float

    async def dial(self, request: ProxyRequest) -> socket.socket:
        """Return a connected socket that does not block.

        Raises:
            Rejection: The destination is refused (403) or cannot be reached (502), or it takes too long (504).
        """
        if reason := self.policy.refuse(request.host, request.port):
            raise Refused(request.destination, reason)
        try:
            addresses = await self._addresses(request)
            self._check(request, addresses)
            return await self._connect(request, addresses[:MAX_ADDRESSES])
        except TimeoutError:
            raise Rejection(
                HTTPStatus.GATEWAY_TIMEOUT, f"cannot connect to {request.destination}: it took too long"
            ) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise Rejection(HTTPStatus.BAD_GATEWAY, f"cannot connect to {request.destination}: {reason}") from None

    async def _addresses(self, request: ProxyRequest) -> Sequence[Address]:
        if not isinstance(request.host, str):
            return [request.host]
        async with asyncio.timeout(self.lookup_s):
            found = await self.resolve(request.host)
        if not found:
            raise OSError(errno.EADDRNOTAVAIL, "the name has no address")
        return found

    def _check(self, request: ProxyRequest, addresses: Sequence[Address]) -> None:
        for address in addresses:
            reason = self.policy.refuse_address(address, request.port)
            if reason and not is_public(address):
                raise Refused(request.destination, f"its address is not public, and {reason}")
            if reason and is_own(address):
                raise Refused(request.destination, f"its address is one of this host, and {reason}")

    async def _connect(self, request: ProxyRequest, addresses: Sequence[Address]) -> socket.socket:
        failure = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        async with asyncio.timeout(self.connect_s) as limit:
            for number, address in enumerate(addresses, 1):
                try:
                    return await self._connect_one(address, request.port, limit, is_last=number == len(addresses))
                except OSError as error:
                    failure = error
        raise failure

    async def _connect_one(
        self, address: Address, port: int, limit: asyncio.Timeout, *, is_last: bool
    ) -> socket.socket:
        loop = asyncio.get_running_loop()
        left_s = (limit.when() or loop.time()) - loop.time()
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with contextlib.ExitStack() as undo:
            sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            async with asyncio.timeout(None if is_last else left_s / 2):
                await loop.sock_connect(sock, (str(address), port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            undo.pop_all()
            return sock
