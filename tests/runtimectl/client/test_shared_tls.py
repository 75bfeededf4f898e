"""A TLS connection that two threads use: what one reads and the other writes stays whole."""

import hashlib
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtimectl.client.shared_tls import SharedTlsSocket
from tests.certificates import Authority

DEADLINE_S = 60
CHUNK, CHUNKS = b"0123456789abcdef" * 1_000, 600


@pytest.fixture
def pair(authority: Authority) -> Iterator[tuple[SharedTlsSocket, ssl.SSLSocket]]:
    """Both ends of a connection: the one that is shared, and that of the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server"))
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as accepting:
        dialed = socket.create_connection(listener.getsockname())
        plain, _ = listener.accept()
        plain.settimeout(DEADLINE_S)
        accepted = accepting.submit(context.wrap_socket, plain, server_side=True)
        client = authority.client_context().wrap_socket(dialed, server_hostname="localhost")
        server = accepted.result(DEADLINE_S)
    client.settimeout(DEADLINE_S)
    with client, server:
        yield SharedTlsSocket(client), server


def read(connection: SharedTlsSocket | ssl.SSLSocket, size: int) -> str:
    """The digest of the next `size` bytes."""
    digest = hashlib.sha256()
    while size:
        data = connection.recv(min(size, 65_536))
        assert data
        digest.update(data)
        size -= len(data)
    return digest.hexdigest()


def write(connection: SharedTlsSocket | ssl.SSLSocket) -> None:
    for _ in range(CHUNKS):
        connection.sendall(CHUNK)


def test_much_is_read_and_written_at_the_same_time(pair: tuple[SharedTlsSocket, ssl.SSLSocket]) -> None:
    shared, server = pair
    size, expected = len(CHUNK) * CHUNKS, hashlib.sha256(CHUNK * CHUNKS).hexdigest()

    def echo() -> None:
        left = size
        while left:
            data = server.recv(65_536)
            server.sendall(data)
            left -= len(data)

    with ThreadPoolExecutor(2) as others:
        echoing, writing = others.submit(echo), others.submit(write, shared)
        assert read(shared, size) == expected
        writing.result(DEADLINE_S)
        echoing.result(DEADLINE_S)


def test_a_reader_that_waits_lets_another_thread_write(pair: tuple[SharedTlsSocket, ssl.SSLSocket]) -> None:
    shared, server = pair
    with ThreadPoolExecutor(1) as others:
        reading = others.submit(shared.recv, 100)

        shared.sendall(b"question")
        assert server.recv(100) == b"question"
        server.sendall(b"answer")

        assert reading.result(DEADLINE_S) == b"answer"


def test_nothing_within_the_timeout_is_an_error_and_not_the_end(
    pair: tuple[SharedTlsSocket, ssl.SSLSocket],
) -> None:
    shared, server = pair
    shared.settimeout(0.05)
    with pytest.raises(TimeoutError, match="timed out"):
        shared.recv(100)

    shared.settimeout(DEADLINE_S)
    server.sendall(b"late")
    assert shared.recv(100) == b"late"


def test_a_write_that_nobody_reads_times_out(pair: tuple[SharedTlsSocket, ssl.SSLSocket]) -> None:
    shared, _ = pair
    shared.settimeout(0.2)

    with pytest.raises(TimeoutError, match="timed out"):
        write(shared)


def test_a_reader_notices_that_another_thread_has_closed(pair: tuple[SharedTlsSocket, ssl.SSLSocket]) -> None:
    shared, _ = pair
    with ThreadPoolExecutor(1) as others:
        reading = others.submit(shared.recv, 100)
        shared.close()

        assert reading.exception(DEADLINE_S) or reading.result() == b""


def test_the_first_error_is_raised_by_every_later_call(pair: tuple[SharedTlsSocket, ssl.SSLSocket]) -> None:
    shared, server = pair
    with socket.socket(fileno=server.detach()) as plain:
        plain.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(ssl.SSLError) as first:
            shared.recv(100)

        for act in (lambda: shared.recv(100), lambda: shared.sendall(b"more")):
            with pytest.raises(ssl.SSLError) as later:
                act()
            assert later.value is first.value


def test_what_arrives_behind_an_end_of_writing_is_still_decrypted(
    pair: tuple[SharedTlsSocket, ssl.SSLSocket],
) -> None:
    shared, server = pair
    shared.shutdown(socket.SHUT_WR)

    server.sendall(b"farewell")

    assert shared.recv(100) == b"farewell"
