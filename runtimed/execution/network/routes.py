"""Ask the kernel where packets to an address go."""

import socket
import struct

from runtimed.execution.network.addresses import Address

RTM_GETROUTE = 26
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
RTA_DST = 1
RTN_LOCAL = 2
MAX_ANSWER_BYTES = 4096

_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")


def is_own(address: Address) -> bool:
    """Return whether an address, public or not, is one of this host.

    Raises:
        OSError: The kernel does not say.
    """
    flags = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, flags, socket.NETLINK_ROUTE) as kernel:
        kernel.send(_request(address))
        answer = kernel.recv(MAX_ANSWER_BYTES)
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind == NLMSG_ERROR:  # no route leads there
        return False
    *_, route_type, _ = _ROUTE.unpack_from(answer, _HEADER.size)
    return bool(route_type == RTN_LOCAL)


def _request(address: Address) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address.packed), RTA_DST) + address.packed
    route = _ROUTE.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    size = _HEADER.size + len(route) + len(attribute)
    return _HEADER.pack(size, RTM_GETROUTE, NLM_F_REQUEST, 1, 0) + route + attribute
