"""Requests share a keep-alive connection, and no request but a GET is ever sent twice."""

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from runtimectl.client import http
from runtimectl.client.address import parse
from runtimectl.client.http import Connection
from runtimectl.client.http_response import MAX_HEAD_BYTES, MAX_RESPONSE_BYTES
from runtimectl.errors import DaemonFailed, Unreachable
from tests.runtimectl.conftest import Ctl, ServeRaw

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


Serve = Callable[..., tuple[Connection, list[list[bytes]]]]


@pytest.fixture
def serve(serve_raw: ServeRaw, user_folders: Path) -> Serve:
    """Starts a server that answers each request with the next bytes, and closes a connection for None."""

    def start(*answers: bytes | None) -> tuple[Connection, list[list[bytes]]]:
        remaining = list(answers)
        requests: list[list[bytes]] = []

        def handle(connection: socket.socket) -> None:
            requests.append([])
            while received := connection.recv(65536):
                requests[-1].append(received.split(b" ")[0])
                answer = remaining.pop(0)
                if answer is None:
                    return
                connection.sendall(answer)

        return Connection(parse(serve_raw(handle))), requests

    return start


def test_several_requests_share_a_connection(serve: Serve) -> None:
    connection, requests = serve(OK, OK, OK)

    with closing(connection):
        bodies = [connection.request(method, "/").body for method in ("GET", "POST", "GET")]

    assert bodies == [b"{}"] * 3
    assert requests == [[b"GET", b"POST", b"GET"]]


def test_a_command_sends_its_requests_over_one_connection(ctl: Ctl, serve_raw: ServeRaw) -> None:
    requests: list[list[bytes]] = []
    body = b'{"workers": [{"worker_id": "worker-00000001"}], "ack": {}}'

    def handle(connection: socket.socket) -> None:
        requests.append([])
        while received := connection.recv(65536):
            requests[-1].append(received.split(b" HTTP")[0])
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    found = ctl("workers", "interrupt", "w", "worker-00000002", "-o", "json", "--url", serve_raw(handle))

    assert found.returncode == 0
    interrupts = [b"POST /v1/workers/worker-0000000%d/interrupt" % number for number in (1, 2)]
    assert requests == [[b"GET /v1/workers", *interrupts]]


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (CHUNKED + b"2\r\nab\r\n1;name=value\r\nc\r\n0\r\n\r\n", b"abc"),
        (CHUNKED + b"0A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"{}"),
    ],
)
def test_a_response_whose_end_is_known_keeps_the_connection(serve: Serve, answer: bytes, body: bytes) -> None:
    connection, requests = serve(answer, OK)

    with closing(connection):
        assert connection.request("DELETE", "/").body == body
        assert connection.request("DELETE", "/").body == b"{}"

    assert requests == [[b"DELETE", b"DELETE"]]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"surplus",
        CHUNKED + b"2\r\n{}\r\n0\r\nTrailer: x\r\n\r\n",
    ],
)
def test_a_response_that_ends_the_connection_is_followed_by_a_new_one(serve: Serve, answer: bytes) -> None:
    connection, requests = serve(answer, OK)

    with closing(connection):
        bodies = [connection.request("POST", "/").body for _ in range(2)]

    assert bodies == [b"{}", b"{}"]
    assert requests == [[b"POST"], [b"POST"]]


def test_a_connection_that_was_idle_for_long_is_not_used_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_IDLE_S", -1.0)
    connection, requests = serve(OK, OK)

    with closing(connection):
        connection.request("POST", "/")
        connection.request("POST", "/")

    assert requests == [[b"POST"], [b"POST"]]


def test_a_get_is_sent_again_if_the_kept_connection_was_closed(serve: Serve) -> None:
    connection, requests = serve(OK, None, OK)

    with closing(connection):
        connection.request("GET", "/")
        assert connection.request("GET", "/").body == b"{}"

    assert requests == [[b"GET", b"GET"], [b"GET"]]


def test_a_get_without_an_answer_on_a_new_connection_is_not_sent_again(serve: Serve) -> None:
    connection, requests = serve(None, OK)

    with closing(connection), pytest.raises(Unreachable, match="closed the connection without an answer"):
        connection.request("GET", "/")

    assert requests == [[b"GET"]]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_request_that_changes_something_is_never_sent_twice(serve: Serve, method: str) -> None:
    connection, requests = serve(OK, None, OK)

    with closing(connection):
        connection.request(method, "/")
        with pytest.raises(Unreachable):
            connection.request(method, "/")

    assert requests == [[method.encode(), method.encode()]]


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"x\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"1\r\nab\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_RESPONSE_BYTES + 1),
    ],
)
def test_a_malformed_or_too_large_response_is_a_failure_of_the_daemon(serve: Serve, answer: bytes) -> None:
    connection, _ = serve(answer)

    with closing(connection), pytest.raises(DaemonFailed):
        connection.request("GET", "/")


@pytest.mark.parametrize(
    "part",
    [
        b"H",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
        CHUNKED + b"3\r\n{}",
    ],
)
def test_a_response_that_breaks_off_leaves_the_daemon_unreachable(
    serve_raw: ServeRaw, user_folders: Path, part: bytes
) -> None:
    def handle(server: socket.socket) -> None:
        server.recv(65536)
        server.sendall(part)

    with (
        closing(Connection(parse(serve_raw(handle)))) as connection,
        pytest.raises(Unreachable, match="in the middle"),
    ):
        connection.request("GET", "/")
