"""A response of any length, received as it comes."""

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

from runtimectl.client.address import Address
from runtimectl.client.http import TIMEOUT_S, check_process, encode_request
from runtimectl.client.http_response import RECEIVE_BYTES, ResponseReader
from runtimectl.client.tls import reason, refuses_client
from runtimectl.errors import NotConnected, TimedOut, Unreachable, error_from_response


class Download:
    """A response that is being received.

    Attributes:
        size_bytes: How long it is; None if that shows at its end only.
        pieces: Its bytes as they come. Raises ControlError if they do not come to their end.
    """

    def __init__(self, size_bytes: int | None, pieces: Iterator[bytes]) -> None:
        self.size_bytes = size_bytes
        self.pieces = pieces


@contextmanager
def download(address: Address, path: str, begin_timeout: float) -> Iterator[Download]:
    """Ask for a path, and receive the answer while the context lasts.

    Args:
        address: The daemon.
        path: The path of the route, with its query.
        begin_timeout: How long the daemon may take to begin its answer, in seconds. After that it may be silent for
            TIMEOUT_S.

    Raises:
        ControlError: The daemon refused, or the connection is lost.
    """
    check_process(address)
    with closing(_connect(address)) as connection:
        with _translated(address):
            reader = _ask(address, connection, path, begin_timeout)
        yield Download(reader.length, _pieces(address, reader))


def _connect(address: Address) -> socket.socket:
    try:
        return address.connect(TIMEOUT_S)
    except OSError as error:
        raise NotConnected(f"cannot reach {address.url}: {reason(error)}") from None


def _ask(address: Address, connection: socket.socket, path: str, begin_timeout: float) -> ResponseReader:
    """Send the request, and return a reader of the body that follows."""
    connection.settimeout(begin_timeout)
    connection.sendall(encode_request(address, "GET", path, None))
    first = connection.recv(RECEIVE_BYTES)
    if not first:
        raise Unreachable(f"cannot reach {address.url}: it closed the connection without an answer")
    connection.settimeout(TIMEOUT_S)
    reader = ResponseReader(address.url, connection, first)
    refused = reader.open()
    if refused is not None:
        raise error_from_response(refused.status, refused.body, address.searched)
    return reader


def _pieces(address: Address, reader: ResponseReader) -> Iterator[bytes]:
    with _translated(address):
        yield from reader.whole()


@contextmanager
def _translated(address: Address) -> Iterator[None]:
    """Raise the errors of a socket as ControlErrors."""
    try:
        yield
    except TimeoutError:
        raise TimedOut(f"{address.url} was silent for too long") from None
    except OSError as error:
        if refuses_client(error):
            raise NotConnected(f"cannot reach {address.url}: {reason(error)}") from None
        raise Unreachable(f"the connection to {address.url} was lost: {reason(error)}") from None
