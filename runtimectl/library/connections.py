"""The connections of the asynchronous library to one daemon."""

import asyncio
from collections import deque
from typing import Any, Self

import aiohttp

from runtimectl.client.address import Address
from runtimectl.errors import error_from_response

MAX_UPGRADED = 64
"""How many of the newest feeds are closed for certain with the other connections."""

SWITCHING_PROTOCOLS = 101


class Connections:
    """The connections to one daemon, kept for later requests until `close`.

    Attributes:
        session: Sends requests. It follows no redirect.
    """

    def __init__(self, connector: aiohttp.BaseConnector) -> None:
        self._upgraded: deque[asyncio.Transport] = deque(maxlen=MAX_UPGRADED)
        traces = aiohttp.TraceConfig()
        traces.on_request_redirect.append(_refuse_redirect)
        traces.on_request_end.append(self._note_upgrade)
        self.session = aiohttp.ClientSession(connector=connector, trace_configs=[traces])

    @classmethod
    async def open(cls, address: Address) -> Self:
        """Return connections to a daemon; the first request opens one. Raises UsageProblem if TLS cannot be used."""
        if address.path is not None:
            return cls(aiohttp.UnixConnector(address.path))
        context = await asyncio.to_thread(address.tls_options.make_context) if address.tls else True
        return cls(aiohttp.TCPConnector(ssl=context))

    async def close(self) -> None:
        """Close all connections.

        With TLS a feed that was closed waits for the daemon to say so too. aiohttp would leave it open.
        """
        await self.session.close()
        for transport in self._upgraded:
            transport.abort()

    async def _note_upgrade(self, _session: Any, _context: Any, params: aiohttp.TraceRequestEndParams) -> None:
        connection = params.response.connection
        if params.response.status == SWITCHING_PROTOCOLS and connection is not None and connection.transport:
            self._upgraded.append(connection.transport)


async def _refuse_redirect(_session: Any, _context: Any, params: aiohttp.TraceRequestRedirectParams) -> None:
    """Keep the token from where the handshake of a feed is redirected to. Raises ControlError."""
    params.response.close()
    raise error_from_response(params.response.status, b"")
