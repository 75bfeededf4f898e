"""Open the WebSocket of a feed."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
    WebSocketException,
)
from websockets.frames import CloseCode
from websockets.sync.client import ClientConnection, connect

from runtimectl.client.address import Address
from runtimectl.client.feed import CLOSE_TIMEOUT_S, MAX_FRAME_BYTES, OPEN_TIMEOUT_S
from runtimectl.client.http import check_process
from runtimectl.client.shared_tls import SharedTlsSocket
from runtimectl.client.tls import reason, refuses_client
from runtimectl.errors import (
    DaemonFailed,
    NotConnected,
    TimedOut,
    Unavailable,
    Unreachable,
    error_from_response,
)

if TYPE_CHECKING:
    import ssl

_PROTOCOL_CODES = {CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG}
_SILENT_LOGGER = logging.getLogger("runtimectl.websockets")
_SILENT_LOGGER.disabled = True


@contextmanager
def connected(address: Address, path: str) -> Iterator[ClientConnection]:
    """Open the socket of a feed while the context lasts. Raises ControlError if it cannot be opened, or is lost."""
    check_process(address)
    dialed = _dial(address)
    try:
        with connect(
            f"ws://{address.authority}{address.prefix}{path}",
            sock=dialed,
            create_connection=_Connection,
            additional_headers=address.headers,
            compression=None,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=MAX_FRAME_BYTES,
            proxy=None,
            logger=_SILENT_LOGGER,
        ) as opened:
            try:
                yield opened
            finally:
                opened.close()
    except InvalidStatus as error:
        body = bytes(error.response.body or b"")
        raise error_from_response(error.response.status_code, body, address.searched) from None
    except InvalidHandshake as error:
        is_lost = isinstance(error.__cause__, EOFError | OSError)
        why = _why(address, error)
        raise (Unreachable if is_lost else DaemonFailed)(f"{address.url} did not open the feed: {why}") from None
    except ConnectionClosed as error:
        is_protocol_error = error.sent is not None and error.sent.code in _PROTOCOL_CODES
        why = _why(address, error)
        raise (DaemonFailed if is_protocol_error else Unavailable)(f"the connection was lost: {why}") from None
    except TimeoutError:
        raise TimedOut(f"{address.url} did not open the feed within {OPEN_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise Unreachable(f"cannot reach {address.url}: {reason(error)}") from None
    except (ValueError, InvalidURI) as error:  # websockets does not follow a redirect on a socket that it was given
        if not isinstance(error.__context__, InvalidStatus):
            raise
        raise error_from_response(error.__context__.response.status_code, b"", address.searched) from None


def _dial(address: Address) -> socket.socket:
    try:
        dialed = address.connect(OPEN_TIMEOUT_S)
    except TimeoutError:
        raise TimedOut(f"{address.url} did not accept a connection within {OPEN_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise NotConnected(f"cannot reach {address.url}: {reason(error)}") from None
    return dialed if not address.tls else cast("socket.socket", SharedTlsSocket(cast("ssl.SSLSocket", dialed)))


class _Connection(ClientConnection):
    """A connection whose failed handshake has as its cause what the socket said, as a later loss has."""

    def handshake(self, *args: Any, **options: Any) -> None:
        try:
            super().handshake(*args, **options)
        except InvalidHandshake as error:
            raise error from getattr(self, "connection_exc", None) or error.__cause__


def _why(address: Address, error: WebSocketException) -> str:
    """Return why a connection was lost, for people. Raises NotConnected if that is the client's certificate."""
    cause = error.__cause__
    if not isinstance(cause, OSError):
        return str(error)
    if refuses_client(cause):
        raise NotConnected(f"cannot reach {address.url}: {reason(cause)}") from None
    return reason(cause)
