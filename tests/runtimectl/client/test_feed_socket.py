"""The socket of a feed: what is said when it does not open."""

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from runtimectl.client.address import Address, parse
from runtimectl.client.feed_socket import connected
from runtimectl.client.tls import TlsOptions
from runtimectl.errors import ControlError, NotConnected, Unreachable
from tests.certificates import Authority, Certificate

PATH = "/v1/events/ws"

Answer = Callable[[socket.socket], object]


@pytest.fixture
def serve(authority: Authority) -> Iterator[Callable[..., Address]]:
    """Serve one connection after the other with TLS, and return the address."""
    with ExitStack() as ended:

        def serve(answer: Answer, server: Certificate, client_ca: Path | None = None) -> Address:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*server)
            if client_ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(client_ca)
            listener = ended.enter_context(socket.create_server(("127.0.0.1", 0)))
            thread = threading.Thread(target=_serve, args=(listener, context, answer))
            thread.start()
            ended.callback(thread.join)
            ended.callback(listener.shutdown, socket.SHUT_RDWR)
            url = f"https://localhost:{listener.getsockname()[1]}"
            return parse(url)._replace(tls_options=TlsOptions(ca=str(authority.ca)))

        yield serve


def _serve(listener: socket.socket, context: ssl.SSLContext, answer: Answer) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        plain.settimeout(20)
        with context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as connection:
            try:
                connection.do_handshake()
                answer(connection)
            except OSError:
                _read_rest(connection)


def _read_rest(connection: ssl.SSLSocket) -> None:
    """Read until the client has closed, or is silent: a close before that resets the connection."""
    with socket.socket(fileno=os.dup(connection.fileno())) as plain, suppress(OSError):
        plain.settimeout(2)
        while plain.recv(65_536):
            pass


def refusal(address: Address) -> ControlError:
    """Why the socket does not open, or is lost."""
    with pytest.raises(ControlError) as found, connected(address, PATH) as opened:
        opened.recv(timeout=20)
    return found.value


def leave(_connection: socket.socket) -> None:
    """Close the connection."""


def spoil(connection: socket.socket) -> None:
    """Send bytes that are no TLS amid the connection."""
    connection.recv(65_536)
    os.write(connection.fileno(), b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
    with socket.socket(fileno=os.dup(connection.fileno())) as plain:
        plain.recv(1)


@pytest.mark.parametrize(
    ("names", "days", "problem"),
    [
        ("DNS:elsewhere.example", 2, "its certificate is for another host"),
        ("DNS:localhost", -1, "its certificate has expired"),
    ],
)
def test_a_certificate_that_does_not_hold_is_named(
    serve: Callable[..., Address], authority: Authority, names: str, days: int, problem: str
) -> None:
    address = serve(leave, authority.issue("bad", names, days))

    error = refusal(address)

    assert type(error) is NotConnected
    assert str(error).startswith(f"cannot reach {address.url}: {problem}")


def test_the_lack_of_a_client_certificate_is_named(serve: Callable[..., Address], authority: Authority) -> None:
    address = serve(leave, authority.issue("server"), authority.ca)

    error = refusal(address)

    assert type(error) is NotConnected
    assert str(error).startswith(f"cannot reach {address.url}: it requires a client certificate")


def test_an_address_where_nobody_listens_is_not_connected(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    error = refusal(parse(f"https://127.0.0.1:{port}")._replace(tls_options=TlsOptions(ca=str(authority.ca))))

    assert type(error) is NotConnected
    assert str(error) == f"cannot reach https://127.0.0.1:{port}: Connection refused"


def test_bytes_that_are_no_tls_are_named_and_may_be_tried_again(
    serve: Callable[..., Address], authority: Authority
) -> None:
    address = serve(spoil, authority.issue("server"))

    error = refusal(address)

    assert type(error) is Unreachable
    assert str(error) == f"{address.url} did not open the feed: it does not speak TLS: use http://"
