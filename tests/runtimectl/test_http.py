"""The client's connection: kept between requests, opened anew when the daemon has closed it."""

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from runtimectl import discovery
from runtimectl.address import parse
from runtimectl.errors import Unreachable
from runtimectl.http import Exchanges
from runtimed.wire import routes
from tests.runtimectl.conftest import Daemon

Handle = Callable[[socket.socket], None]
ServeRaw = Callable[[Handle], str]

DEADLINE_S = 30.0
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@contextlib.contextmanager
def exchanges(url: str) -> Iterator[Exchanges]:
    with contextlib.closing(Exchanges(parse(url))) as found:
        yield found


def requests(connection: socket.socket) -> Iterator[bytes]:
    """The request lines that arrive on a connection."""
    connection.settimeout(DEADLINE_S)
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
        while b"\r\n\r\n" in received:
            head, _, received = received.partition(b"\r\n\r\n")
            if b"Content-Length: 2" in head:
                while len(received) < 2:
                    received += connection.recv(65536)
                received = received[2:]
            yield head.partition(b"\r\n")[0]


def answering(seen: list[list[bytes]], *answers: bytes) -> Handle:
    """Answer the requests of each connection with these bytes in turn, and then close it."""

    def handle(connection: socket.socket) -> None:
        seen.append([])
        for line, answer in zip(requests(connection), [*answers, b""], strict=False):
            seen[-1].append(line)
            if not answer:
                return
            connection.sendall(answer)

    return handle


def test_requests_follow_each_other_on_one_connection(serve_raw: ServeRaw) -> None:
    seen: list[list[bytes]] = []
    with exchanges(serve_raw(answering(seen, *[ANSWER] * 4))) as link:
        bodies = [link.exchange("GET", "/a", timeout=DEADLINE_S).body]
        bodies.append(link.exchange("POST", "/b", b"{}", timeout=DEADLINE_S).body)
        bodies.append(link.exchange("GET", "/c", timeout=DEADLINE_S).body)

    assert bodies == [b"{}"] * 3
    assert seen == [[b"GET /a HTTP/1.1", b"POST /b HTTP/1.1", b"GET /c HTTP/1.1"]]


def test_a_response_without_a_body_leaves_the_connection_open(serve_raw: ServeRaw) -> None:
    seen: list[list[bytes]] = []
    done = b"HTTP/1.1 204 No Content\r\n\r\n"
    with exchanges(serve_raw(answering(seen, done, ANSWER, ANSWER))) as link:
        statuses = [link.exchange("DELETE", "/a", timeout=DEADLINE_S).status]
        statuses.append(link.exchange("GET", "/b", timeout=DEADLINE_S).status)

    assert statuses == [204, 200]
    assert len(seen) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    ],
)
def test_a_connection_that_the_daemon_closes_is_not_used_again(serve_raw: ServeRaw, answer: bytes) -> None:
    seen: list[list[bytes]] = []
    with exchanges(serve_raw(answering(seen, answer))) as link:
        for _ in range(2):
            assert link.exchange("GET", "/a", timeout=DEADLINE_S).body == b"{}"

    assert [lines[0] for lines in seen] == [b"GET /a HTTP/1.1"] * 2


def test_a_read_whose_connection_ends_without_an_answer_is_repeated_once(serve_raw: ServeRaw) -> None:
    seen: list[list[bytes]] = []
    with exchanges(serve_raw(answering(seen, ANSWER))) as link:
        for _ in range(2):
            assert link.exchange("GET", "/a", timeout=DEADLINE_S).body == b"{}"

    assert [len(lines) for lines in seen] == [2, 1]


def test_an_input_whose_connection_ends_without_an_answer_is_not_repeated(serve_raw: ServeRaw) -> None:
    seen: list[list[bytes]] = []
    with exchanges(serve_raw(answering(seen, ANSWER))) as link:
        link.exchange("GET", "/a", timeout=DEADLINE_S)
        with pytest.raises(Unreachable, match="closed the connection without an answer"):
            link.exchange("POST", "/b", b"{}", timeout=DEADLINE_S)

    assert seen == [[b"GET /a HTTP/1.1", b"POST /b HTTP/1.1"]]


def test_the_daemon_answers_one_request_after_the_other_on_the_connection(
    daemon: Daemon, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", env["XDG_RUNTIME_DIR"])
    address = discovery.find(discovery.Wishes(daemon.url, None, None, None), None)
    with contextlib.closing(Exchanges(address)) as link:
        first = link.exchange("GET", routes.RUNTIME, timeout=DEADLINE_S)
        kept = link._kept
        second = link.exchange("GET", routes.RUNTIME, timeout=DEADLINE_S)

        assert first.body == second.body
        assert kept is not None
        assert link._kept is kept
