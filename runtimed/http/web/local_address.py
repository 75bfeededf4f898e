"""Where a connection came in."""

import asyncio
from typing import NamedTuple

HTTP_PORT = 80
HTTPS_PORT = 443


class LocalAddress(NamedTuple):
    """The address that a TCP connection came in on, and the port that a Host header without a port means."""

    host: str
    port: int
    default_port: int


def local_address(transport: asyncio.BaseTransport) -> LocalAddress | None:
    """Return where a connection came in, or None for a Unix socket."""
    name = transport.get_extra_info("sockname")
    if not isinstance(name, tuple):
        return None
    is_tls = transport.get_extra_info("sslcontext") is not None
    return LocalAddress(name[0], name[1], HTTPS_PORT if is_tls else HTTP_PORT)
