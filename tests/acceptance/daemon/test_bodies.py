"""Contract section 4: media types, encodings and sizes of a body; HTTP that is none."""

import gzip
import json
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import Shaped
from tests.acceptance.daemon.conftest import EACH_TRANSPORT, Daemon, Launch, shared_daemon

POSTS = ["/v1/workers", "/v1/config-bundles", "/v1/workers/{}/input", "/v1/workers/{}/stop", "/v1/workers/{}/cancel"]
LIMIT = 1_000


@pytest.fixture(params=EACH_TRANSPORT)
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    yield from shared_daemon(request)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "x",
    ],
)
def test_a_body_that_is_not_declared_json_is_an_unsupported_media_type(
    daemon: Daemon, content_type: str | None
) -> None:
    worker_id = daemon.echo()
    with daemon.unchanged():
        for path in POSTS:
            answer = daemon.curl("POST", path.format(worker_id), b"{}", content_type=content_type)
            assert "application/json" in answer.refused(415, "unsupported_media_type"), path


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json;charset=UTF-8"]
)
def test_json_with_a_parameter_or_in_another_case_is_json(daemon: Daemon, content_type: str) -> None:
    daemon.curl("POST", "/v1/workers", b"{}", content_type=content_type).ok("worker")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_an_encoded_body_is_an_unsupported_media_type(daemon: Daemon, coding: str) -> None:
    worker_id, body = daemon.echo(), gzip.compress(b"{}")
    with daemon.unchanged():
        for path in POSTS:
            answer = daemon.curl("POST", path.format(worker_id), body, [f"Content-Encoding: {coding}"])
            answer.refused(415, "unsupported_media_type")


@pytest.fixture
def small(launch: Launch, store: str) -> Daemon:
    return launch(store=store, env={"RUNTIMED_MAX_BODY_BYTES": str(LIMIT)}).ready()


@pytest.mark.parametrize("headers", [[], ["Transfer-Encoding: chunked"]])
def test_a_body_of_one_byte_above_the_limit_is_too_large(small: Daemon, headers: list[str]) -> None:
    whole = b"{}".ljust(LIMIT)
    worker_id = small.curl("POST", "/v1/workers", whole, headers).ok("worker")["worker_id"]
    said = json.dumps({"kind": "user", "content": "x"}).encode()
    with small.unchanged():
        for path in ("/v1/workers", "/v1/config-bundles"):
            answer = small.curl("POST", path, whole + b" ", headers)
            assert str(LIMIT) in answer.refused(413, "payload_too_large")
        for verb in ("input", "stop", "cancel"):
            answer = small.curl("POST", f"/v1/workers/{worker_id}/{verb}", said.ljust(LIMIT + 1), headers)
            answer.refused(413, "payload_too_large")
    small.curl("POST", f"/v1/workers/{worker_id}/input", said.ljust(LIMIT), headers).ok("ack")
    small.idle(worker_id)


def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(daemon: Daemon) -> None:
    head = daemon.head("POST /v1/workers HTTP/1.1", "Content-Type: application/json", f"Content-Length: {1 << 40}")
    daemon.raw_answer(head).refused(413, "payload_too_large")


def test_the_default_limit_is_8_mib(daemon: Daemon) -> None:
    whole = b"{}".ljust(8 << 20)
    daemon.curl("POST", "/v1/workers", whole).ok("worker")
    with daemon.unchanged():
        daemon.curl("POST", "/v1/workers", whole + b" ").refused(413, "payload_too_large")


MALFORMED = {
    "no request line": b"hello\r\n\r\n",
    "no version": b"GET /v1/runtime\r\nHost: {host}\r\n\r\n",
    "another protocol": b"GET /v1/runtime RTSP/1.0\r\nHost: {host}\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
    "a space before the colon": b"GET /v1/runtime HTTP/1.1\r\nHost : {host}\r\n\r\n",
    "a NUL in a header": b"GET /v1/runtime HTTP/1.1\r\nHost: {host}\r\nX: a\0b\r\n\r\n",
    "a header without a colon": b"GET /v1/runtime HTTP/1.1\r\nHost: {host}\r\nnothing\r\n\r\n",
    "a header of 64 KiB": b"GET /v1/runtime HTTP/1.1\r\nHost: {host}\r\nX: " + b"x" * 65_536 + b"\r\n\r\n",
    "a path of 64 KiB": b"GET /" + b"x" * 65_536 + b" HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "a negative length": b"POST /v1/workers HTTP/1.1\r\nHost: {host}\r\nContent-Length: -1\r\n\r\n",
    "a length that is none": b"POST /v1/workers HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0x2\r\n\r\n{}",
    "two lengths": b"POST /v1/workers HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length and chunks": b"POST /v1/workers HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_http_is_answered_with_an_error_object(daemon: Daemon, shaped: Shaped, name: str) -> None:
    with daemon.unchanged():
        answer = daemon.raw(MALFORMED[name].replace(b"{host}", daemon.host.encode()))
        assert answer is not None
        assert 400 <= answer.status < 500
        assert answer.header("Content-Type") == "application/json"
        shaped(json.loads(answer.body), "Error")


@pytest.mark.parametrize("chunks", [b"zz\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n", b"2\r\n{}XX0\r\n\r\n"])
def test_a_malformed_chunk_creates_nothing(daemon: Daemon, chunks: bytes) -> None:
    head = daemon.head("POST /v1/workers HTTP/1.1", "Content-Type: application/json", "Transfer-Encoding: chunked")
    with daemon.unchanged():
        answer = daemon.raw(head + chunks)
        assert answer is None or 400 <= answer.status < 500


def test_half_a_body_creates_nothing(daemon: Daemon) -> None:
    head = daemon.head("POST /v1/workers HTTP/1.1", "Content-Type: application/json", "Content-Length: 20")
    if daemon.authority:
        pytest.skip("TLS has no connection that is half closed")
    with daemon.unchanged():
        for body in (b"", b'{"intent"', b"{}"):
            with daemon.dial() as connection:
                connection.sendall(head + body)
                connection.shutdown(socket.SHUT_WR)
                assert b" 200 " not in connection.recv(65_536)


def test_slow_headers_are_cut_and_nobody_else_waits(launch: Launch, store: str) -> None:
    daemon = launch(store=store, env={"RUNTIMED_HEADER_TIMEOUT_S": "1"}).ready()
    with daemon.dial() as idle:
        with daemon.dial() as slow:
            slow.sendall(b"GET /v1/runtime HTTP/1.1\r\nHost: ")
            daemon.runtime()
            received = slow.recv(65_536)
            assert received == b"" or received.startswith(b"HTTP/1.1 4")
        assert idle.recv(65_536) == b""
    daemon.runtime()


def test_two_requests_on_one_connection_are_answered_in_order(daemon: Daemon) -> None:
    head = daemon.head("GET /v1/runtime HTTP/1.1") + daemon.head("GET /nowhere HTTP/1.1", "Connection: close")
    with daemon.dial() as connection:
        connection.sendall(head)
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404"]


def test_a_stopping_daemon_closes_connections_that_say_nothing(launch: Launch, store: str) -> None:
    daemon = launch(store=store).ready()
    with daemon.dial() as fresh:
        with daemon.dial() as kept:
            kept.sendall(daemon.head("GET /v1/runtime HTTP/1.1"))
            assert kept.recv(65_536).startswith(b"HTTP/1.1 200")
            daemon.process.send_signal(signal.SIGTERM)
            assert daemon.ended() == 0
            assert kept.recv(65_536) == b""
        assert fresh.recv(65_536) == b""
