"""Rules that say which hosts and ports a Worker may connect to."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

import attrs

from runtimed.execution.network.addresses import Address, parse_host, parse_port, unmapped

ANY = "*"
ACCEPTED = 'expected "HOST:PORT", where HOST is a name, *.NAME, *, an address or a network, and PORT a number or *'

MAX_LISTED = 10
"""How many rules of a list a text names."""

MAX_RULE = 300
"""The most characters of a rule."""


@attrs.frozen
class NetworkRule:
    """A rule of an allow-list.

    Attributes:
        host: A network; or a name in lower case, `*.NAME` for all names below it, or `*` for all names and addresses.
            A name permits public addresses only. A network permits its addresses, public or not.
        port: A port, or None for all.
    """

    host: str | IPv4Network | IPv6Network
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "NetworkRule":
        """Read a rule.

        Args:
            text: Such as `api.example.com:443`, `*.example.com:443`, `*:443`, `10.0.0.0/8:*`, `192.0.2.1:80`,
                `[::1]:8080` or `[fd00::/8]:443`.

        Raises:
            ValueError: It is malformed. The text says what is accepted.
        """
        host, colon, port = text.rpartition(":")
        if not colon or len(text) > MAX_RULE:
            raise ValueError(ACCEPTED)
        try:
            return cls(_parse_host(host), None if port == ANY else parse_port(port))
        except ValueError as error:
            raise ValueError(f"{ACCEPTED}: {error}") from None

    def __str__(self) -> str:
        host = str(self.host)
        if not isinstance(self.host, str) and self.host.num_addresses == 1:
            host = str(self.host.network_address)
        return f"{f'[{host}]' if isinstance(self.host, IPv6Network) else host}:{self.port or ANY}"

    def matches(self, host: str | Address, port: int) -> bool:
        """Return whether this rule is about a host, as it was named by the client, and a port."""
        if self.port not in (None, port):
            return False
        if not isinstance(self.host, str):
            return not isinstance(host, str) and host in self.host
        if self.host == ANY:
            return True
        if not isinstance(host, str):
            return False
        return host.endswith(self.host[1:]) if self.host.startswith("*.") else host == self.host

    def writes_out(self, address: Address, port: int) -> bool:
        """Return whether this rule is a network that has the address, so that it need not be public."""
        return not isinstance(self.host, str) and self.matches(address, port)


@attrs.frozen
class NetworkPolicy:
    """What a Worker may connect to. The narrowest of several lists holds.

    Attributes:
        lists: Lists of rules. A destination needs a rule in each of them. Without a list, all is refused.
    """

    lists: tuple[tuple[NetworkRule, ...], ...]

    def refuse(self, host: str | Address, port: int) -> str | None:
        """Return why no connection may be made and no name looked up, or None.

        Args:
            host: What `parse_host` returns.
            port: The port.
        """
        for rules in self.lists or ((),):
            if not any(rule.matches(host, port) for rule in rules):
                return f"no rule allows it, {_described(rules)}"
        return None

    def refuse_address(self, address: Address, port: int) -> str | None:
        """Return why an address nearby may not be connected to, or None if each list writes it out."""
        for rules in self.lists or ((),):
            if not any(rule.writes_out(address, port) for rule in rules):
                return f"no rule writes the address out, {_described(rules)}"
        return None


PUBLIC = (NetworkRule(ANY, None),)
"""The list of `network = "public"`: all public addresses."""


def _described(rules: Sequence[NetworkRule]) -> str:
    if tuple(rules) == PUBLIC:
        return 'network is "public"'
    named = ", ".join(str(rule) for rule in rules[:MAX_LISTED])
    more = f" and {len(rules) - MAX_LISTED} more" if len(rules) > MAX_LISTED else ""
    return f"the rules are {named}{more}" if rules else "there are no rules"


def _parse_host(text: str) -> str | IPv4Network | IPv6Network:
    if text == ANY:
        return ANY
    if text.startswith("*."):
        name = parse_host(text[2:])
        if not isinstance(name, str):
            raise ValueError("*. stands before a name")
        return f"*.{name}"
    if "/" in text:
        return _parse_network(text)
    host = parse_host(text)
    return host if isinstance(host, str) else ip_network(host)


def _parse_network(text: str) -> IPv4Network | IPv6Network:
    bracketed = text.startswith("[") and text.endswith("]")
    network = ip_network(text[1:-1] if bracketed else text)
    if bracketed != isinstance(network, IPv6Network):
        raise ValueError("an IPv6 network stands in brackets, an IPv4 network does not")
    if unmapped(network.network_address) != network.network_address:
        raise ValueError("write IPv4 networks as such")
    return network
