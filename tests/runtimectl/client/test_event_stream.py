"""The feed as server-sent events, of what is no daemon or one that fails."""

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from runtimectl.client.address import parse
from runtimectl.client.api import Client
from runtimectl.client.event_stream import EventStreamFeed
from runtimectl.client.feed import FeedSource
from runtimectl.errors import ControlError, DaemonFailed, NotFound, Unauthorized, Unavailable, Unreachable

WORKER = FeedSource("runtime-1", "worker-00000001")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
EVENT = {
    "cursor": "wo_0000000000000001",
    "worker_id": "worker-00000001",
    "runtime_id": "runtime-1",
    "observed_at_ms": 1,
    "payload": {"event": "run_end", "data": {"result": "finished"}},
}

ServeRaw = Callable[[Callable[[socket.socket], object]], str]


def answering(serve_raw: ServeRaw, *pieces: bytes) -> Callable[[], Client]:
    """A client of a server that answers each request with these pieces and closes the connection."""

    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        for piece in pieces:
            connection.sendall(piece)

    address = parse(serve_raw(answer))._replace(token="x" * 16)
    return lambda: Client(address)


def data(envelope: Any, event: str = "event") -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event.encode(), json.dumps(envelope).encode())


def failure(find: Callable[[], Client]) -> tuple[list[Any], ControlError]:
    """What a feed that does not reconnect yields, and how it fails."""
    seen: list[Any] = []
    feed = EventStreamFeed(find, WORKER, "wo_0000000000000000", lambda _note: None, reconnect_for=0)
    with pytest.raises(ControlError) as failed:
        seen.extend(feed.envelopes())  # what came before the failure stays in the list
    return seen, failed.value


def test_events_in_any_pieces_come_whole_and_comments_are_passed_over(serve_raw: ServeRaw) -> None:
    whole = b": a comment\n\n" + data(EVENT) + data(EVENT | {"cursor": "wo_0000000000000002"})

    seen, error = failure(answering(serve_raw, HEAD, *(whole[at : at + 7] for at in range(0, len(whole), 7))))

    assert [envelope["cursor"] for envelope in seen] == ["wo_0000000000000001", "wo_0000000000000002"]
    assert isinstance(error, Unavailable)
    assert "closed the connection" in str(error)


def test_a_diagnostic_is_the_error_that_it_names(serve_raw: ServeRaw) -> None:
    diagnostic = {"code": "runtime.worker_not_found", "message": "there is no such Worker", "severity": "error"}

    seen, error = failure(answering(serve_raw, HEAD, data(diagnostic, "diagnostic")))

    assert seen == []
    assert isinstance(error, NotFound)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"event: event\ndata: [1\n\n", "invalid frame"),
        (data([]), "invalid frame"),
        (data({"cursor": 7, "payload": {}}), "invalid frame"),
    ],
)
def test_what_no_daemon_sends_fails(serve_raw: ServeRaw, message: bytes, reason: str) -> None:
    seen, error = failure(answering(serve_raw, HEAD, message))

    assert (seen, type(error)) == ([], DaemonFailed)
    assert reason in str(error)


def test_a_message_that_never_ends_is_not_read_for_ever(serve_raw: ServeRaw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtimectl.client.event_stream.MAX_FRAME_BYTES", 1 << 16)

    _, error = failure(answering(serve_raw, HEAD, b"data: ", b"x" * (1 << 17)))

    assert isinstance(error, DaemonFailed)
    assert "larger than 65536 bytes" in str(error)


def test_an_answer_that_is_none_a_refusal_and_nobody_are_told_apart(serve_raw: ServeRaw, dead_url: str) -> None:
    problem = b'{"error": {"code": "unauthorized", "message": "no"}}'
    refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n%b" % (len(problem), problem)

    assert isinstance(failure(answering(serve_raw))[1], Unavailable)
    assert isinstance(failure(answering(serve_raw, refusal))[1], Unauthorized)
    assert isinstance(failure(lambda: Client(parse(dead_url)._replace(token="x" * 16)))[1], Unreachable)
