"""IP addresses and names of hosts: how they are written, and which addresses are public."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address

MAX_NAME = 253
MAX_LABEL = 63

NOT_PUBLIC_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # metadata of one cloud, at an address that looks public
        "169.254.0.0/16",  # link-local, metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)

PUBLIC_V6 = IPv6Network("2000::/3")
"""The global unicast addresses. Outside are loopback, mapped, unique local, link-local and multicast addresses."""

NOT_PUBLIC_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, among them Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)

NAT64 = IPv6Network("64:ff9b::/96")
"""Stands for IPv4 addresses, which are its last four bytes."""

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def is_public(address: Address) -> bool:
    """Return whether an address is one of the Internet at large."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in NOT_PUBLIC_V4)
    if address in NAT64:
        return is_public(IPv4Address(address.packed[-4:]))
    return address in PUBLIC_V6 and not any(address in network for network in NOT_PUBLIC_V6)


def unmapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv4-mapped IPv6 address stands for, or else the address itself."""
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def parse_host(text: str) -> str | Address:
    """Read the host of a URL or of `HOST:PORT`.

    Args:
        text: A name in ASCII, an IPv4 address, or an IPv6 address in brackets.

    Returns:
        An address that is not IPv4-mapped, or a name in lower case without a dot at its end.

    Raises:
        ValueError: It is neither. The text says what is accepted.
    """
    if text.startswith("["):
        return unmapped(_parse_v6(text))
    if not text.isascii():
        raise ValueError("expected a name in ASCII; write an international one in its form with xn--")
    name = text.lower().removesuffix(".")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        return _parse_v4(name)
    if len(name) > MAX_NAME or not all(_is_label(label) for label in name.split(".")):
        raise ValueError("expected a host name, an IPv4 address, or an IPv6 address in brackets")
    return name


def parse_port(text: str) -> int:
    """Read a port. Raises ValueError, which says what is accepted."""
    if re.fullmatch(r"[0-9]{1,5}", text) and 1 <= int(text) <= 65535:
        return int(text)
    raise ValueError("expected a port from 1 to 65535")


def _is_label(label: str) -> bool:
    return len(label) <= MAX_LABEL and _LABEL.fullmatch(label) is not None


def _parse_v4(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise ValueError("expected an IPv4 address as four decimal numbers without leading zeros") from None


def _parse_v6(text: str) -> IPv6Address:
    try:
        return IPv6Address(text[1:-1] if text.endswith("]") and "%" not in text else "")
    except ValueError:
        raise ValueError("expected an IPv6 address in brackets, without a zone") from None
