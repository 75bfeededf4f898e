"""Settings of the HTTP server and the feed."""

import attrs

from runtimed.errors import ConfigurationError
from runtimed.feed.feed import RING_BYTES
from runtimed.feed.unread import MAX_UNREAD_BYTES
from runtimed.http.app import MAX_BODY_BYTES
from runtimed.http.server.http_server import (
    DRAIN_TIMEOUT_S,
    HEADER_TIMEOUT_S,
    MAX_CONNECTIONS,
    MAX_UNAUTHENTICATED_BYTES,
)
from runtimed.http.server.listeners import ADDRESS_RULE, Address
from runtimed.http.streaming.feed import HEARTBEAT_S
from runtimed.http.web.guard import HOST


@attrs.frozen(slots=False)
class ServerSettings:
    """Where the daemon listens, and what connections may take. Times are in seconds, sizes in bytes."""

    listen: tuple[str, ...] = ("127.0.0.1:38800",)
    listen_metrics: str = ""
    allow_host: tuple[str, ...] = ()
    max_body_bytes: int = MAX_BODY_BYTES
    max_connections: int = MAX_CONNECTIONS
    max_unauthenticated_bytes: int = MAX_UNAUTHENTICATED_BYTES
    ring_bytes: int = RING_BYTES
    max_unread_bytes: int = MAX_UNREAD_BYTES
    heartbeat_s: float = HEARTBEAT_S
    header_timeout_s: float = HEADER_TIMEOUT_S
    drain_timeout_s: float = DRAIN_TIMEOUT_S
    drain_s: float = 0.0
    http_quick_path: bool = True

    def check_server(self) -> None:
        """Raise ConfigurationError if there is no address to listen on, or an address or a host is none."""
        if not self.listen:
            raise ConfigurationError(f"listen: {ADDRESS_RULE}")
        self.metrics_address()
        for host in self.allow_host:
            if not HOST.fullmatch(host):
                raise ConfigurationError(f"allow_host: {host!r}: expected a host name, or one with a port")

    def metrics_address(self) -> Address | None:
        """Return where metrics and probes are served without a token, or None. Raises ConfigurationError."""
        return Address.parse(self.listen_metrics, "listen_metrics") if self.listen_metrics else None
