import asyncio
import contextlib
import gzip
import hashlib
import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError, ServerDisconnectedError, WSServerHandshakeError, web
from yarl import URL

from runtimed.execution.confinement import secrets
from runtimed.execution.confinement.secrets import Secrets
from runtimed.execution.policy import Gateway, Secret
from runtimed.gateways import http_service
from runtimed.gateways.gateway import GatewayService
from runtimed.gateways.upstreams import Upstreams
from tests.gateways.conftest import (
    DEADLINE_S,
    HEADERS,
    REAL_KEY,
    Reach,
    Reached,
    Upstream,
    address,
    listen,
)

LARGE = 100 * 10**6
PIECE = bytes(range(256)) * 256


def head(gateway: Reached, target: str) -> bytes:
    """Return the head of a GET on a connection of its own."""
    lines = [f"GET {target} HTTP/1.1", "Host: a", f"Authorization: Bearer {gateway.service.key}", "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition with a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def settled(count: Callable[[], int]) -> int:
    """Return a count once it has not changed for half a second."""
    async with asyncio.timeout(DEADLINE_S):
        before = -1
        while before != (now := count()):
            before = now
            await asyncio.sleep(0.5)
    return before


@pytest.mark.parametrize(
    ("header", "template"),
    [("Authorization", "Bearer secret:openai"), ("x-api-key", "secret:openai"), ("x-goog-api-key", "secret:openai")],
)
async def test_the_real_key_replaces_the_throwaway_key_on_the_way_out(
    reach: Reach, upstream: Upstream, header: str, template: str
) -> None:
    gateway = await reach(headers={header: template, "OpenAI-Project": "ours"})
    shown = {header: template.replace("secret:openai", gateway.service.key), "OpenAI-Project": "theirs", "X-A": "1"}

    async with gateway.session.post(
        f"{gateway.url}/responses?stream=true&a=b%20c", headers=shown, data=b"a question"
    ) as response:
        assert response.status == 200
        assert await response.json() == {"ok": True}

    assert upstream.targets == ["POST /v1/responses?stream=true&a=b%20c"]
    assert upstream.bodies == [b"a question"]
    assert upstream.headers.getall(header) == [template.replace("secret:openai", REAL_KEY)]
    assert upstream.headers.getall("OpenAI-Project") == ["ours"]
    assert upstream.headers["X-A"] == "1"
    assert upstream.headers["Host"] == URL(upstream.url).authority
    assert gateway.service.key not in str(upstream.seen)


async def test_any_name_that_a_secret_may_have_can_stand_in_a_header(reach: Reach, upstream: Upstream) -> None:
    secrets = Secrets({"open.ai+a@b-c": Secret(env="A")}, {"A": REAL_KEY})
    gateway = await reach(headers={"Authorization": "Bearer secret:open.ai+a@b-c"}, secrets=secrets)

    status, _, _ = await gateway.ask("GET", "/models")

    assert status == 200
    assert upstream.headers["Authorization"] == f"Bearer {REAL_KEY}"


async def test_other_credentials_and_ways_around_the_rules_are_dropped(reach: Reach, upstream: Upstream) -> None:
    gateway = await reach(headers={**HEADERS, "OpenAI-Project": "ours"})
    dropped = {
        "Cookie": "session=1",
        "Proxy-Authorization": "Basic eA==",
        "x-api-key": "another",
        "Private-Token": "another",
        "X-HTTP-Method-Override": "DELETE",
        "X_HTTP_Method_Override": "DELETE",
        "X_Api_Key": "another",
        "X_Forwarded_For": "10.0.0.1",
        "Content_Length": "5",
        "OpenAI_Project": "theirs",
        "X-Original-URL": "/v1/files",
        "X-Forwarded-For": "10.0.0.1",
        "X-Named": "by Connection",
        "X-Copy": f"key={gateway.service.key}",
    }

    await gateway.ask(
        "GET", "/models", headers={**dropped, "Connection": "keep-alive, X-Named", "session_id": "1", "Accept": "a/b"}
    )

    assert not set(map(str.lower, dropped)) & {name.lower() for name in upstream.headers}
    assert upstream.headers["Accept"] == "a/b"
    assert upstream.headers["session_id"] == "1"
    assert "User-Agent" in upstream.headers


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "KEY"},
        {"Authorization": "Basic KEY"},
        {"Authorization": "Bearer KEY2"},
        {"x-api-key": "KEY"},
        {"Authorization": f"Bearer {REAL_KEY}"},
    ],
)
async def test_a_request_without_the_key_of_the_worker_is_401(
    reach: Reach, upstream: Upstream, shown: dict[str, str]
) -> None:
    gateway = await reach()
    headers = {name: value.replace("KEY", gateway.service.key) for name, value in shown.items()}

    async with gateway.session.post(f"{gateway.url}/responses", headers=headers) as response:
        answer = await response.json()

    assert response.status == 401
    assert answer["error"]["code"] == "unauthorized"
    assert "in the header Authorization" in answer["error"]["message"]
    assert not upstream.seen


async def test_one_worker_cannot_use_the_key_of_another(reach: Reach, upstream: Upstream) -> None:
    ours, theirs = await reach(), await reach()

    status, _, _ = await ours.ask("GET", "/models", headers=theirs.bearer)

    assert status == 401
    assert not upstream.seen


async def test_with_two_keyed_headers_one_is_enough_and_a_wrong_one_is_refused(
    reach: Reach, upstream: Upstream
) -> None:
    gateway = await reach(headers={"Authorization": "Bearer secret:openai", "x-api-key": "secret:openai"})

    first, _, _ = await gateway.ask("GET", "/models")
    second, _, _ = await gateway.ask("GET", "/models", headers={"x-api-key": "wrong"})

    assert (first, second) == (200, 401)
    assert upstream.headers["x-api-key"] == REAL_KEY


async def test_a_gateway_without_a_secret_expects_the_key_as_a_bearer_token_and_drops_it(
    reach: Reach, upstream: Upstream
) -> None:
    gateway = await reach(headers={})

    status, _, _ = await gateway.ask("GET", "/models")

    assert status == 200
    assert "Authorization" not in upstream.headers


@pytest.mark.parametrize("request_line", ["GET /", "DELETE /responses", "POST /responses/", "POST /Responses"])
async def test_a_request_that_is_not_allowed_is_403_and_names_what_is(
    reach: Reach, upstream: Upstream, request_line: str
) -> None:
    gateway = await reach()
    method, path = request_line.split()

    status, _, body = await gateway.ask(method, path)

    assert status == 403
    assert b"the gateway openai allows: POST /responses, GET /*" in body
    assert not upstream.seen


@pytest.mark.parametrize(
    "target",
    [
        "/models/../responses",
        "/models/%2e%2e/responses",
        "/models/.%2E/responses",
        "/models/./a",
        "/models/..;/responses",
        "/models%2fa",
        "/models%5ca",
        "/models\\a",
        "//models",
        "/models//a",
        "/models/%00",
        "/models/%0d%0aX: y",
        "/models%252fa",
        "/models/%zz",
        "/models/%ff",
        "models",
        "http://127.0.0.1/models",
    ],
)
async def test_a_path_with_two_readings_is_refused(reach: Reach, upstream: Upstream, target: str) -> None:
    gateway = await reach()

    answer = await gateway.send(head(gateway, target))

    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert not upstream.seen


@pytest.mark.parametrize(
    "request_line", ["POST responses HTTP/1.1", "\x16\x03\x01\x02", "GET / HTTP/1.1\r\nA\x00: b"]
)
async def test_what_is_no_http_is_400_and_fills_no_log(
    reach: Reach, upstream: Upstream, caplog: pytest.LogCaptureFixture, request_line: str
) -> None:
    gateway = await reach()

    answer = await gateway.send(f"{request_line}\r\nHost: x\r\n\r\n".encode())

    assert answer.split()[1] == b"400"
    assert answer.endswith(
        b'{"error": {"code": "invalid_request", "message": "expected a valid request of HTTP/1.1"}}'
    )
    assert upstream.seen == []
    assert caplog.records == []


@pytest.mark.parametrize("request_line", ["GET /models", "GET /models HTTP/0.9", "GET /models HTTP/2.0"])
async def test_only_http_1_is_served(reach: Reach, upstream: Upstream, request_line: str) -> None:
    gateway = await reach()
    key = f"Authorization: Bearer {gateway.service.key}"

    answer = await gateway.send(f"{request_line}\r\nHost: x\r\n{key}\r\n\r\n".encode())

    assert answer.split()[1] == b"400"
    assert b"expected a valid request of HTTP/1.1" in answer
    assert upstream.seen == []


async def test_the_path_that_is_sent_is_the_one_that_was_checked(reach: Reach, upstream: Upstream) -> None:
    gateway = await reach()

    await gateway.ask("GET", "/%6dodels/a%20b:c%C3%A9@(x)?q=%2f..%2f")

    assert upstream.targets == ["GET /v1/models/a%20b:c%C3%A9@(x)?q=%2f..%2f"]


async def test_the_first_byte_of_a_stream_arrives_before_the_second_is_sent(reach: Reach, upstream: Upstream) -> None:
    received = asyncio.Event()

    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await received.wait()
        await response.write(b"data: 2\n\n")
        return response

    upstream.handler = stream
    gateway = await reach()

    async with gateway.session.post(f"{gateway.url}/responses", headers=gateway.bearer, data=b"{}") as response:
        first = await response.content.readany()
        received.set()
        rest = await response.content.read()

    assert (first, rest) == (b"data: 1\n\n", b"data: 2\n\n")
    assert response.headers["Content-Type"] == "text/event-stream"


async def test_the_head_of_a_response_arrives_before_its_body(reach: Reach, upstream: Upstream) -> None:
    received = asyncio.Event()

    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=201)
        await response.prepare(request)
        await received.wait()
        return response

    upstream.handler = stream
    gateway = await reach()

    async with gateway.session.get(f"{gateway.url}/models", headers=gateway.bearer) as response:
        received.set()

    assert response.status == 201


async def test_the_first_byte_of_an_upload_arrives_before_the_second_is_sent(
    reach: Reach, upstream: Upstream
) -> None:
    received = asyncio.Event()

    async def read(request: web.BaseRequest) -> web.StreamResponse:
        first = await request.content.readany()
        received.set()
        return web.Response(body=first + b"|" + await request.content.read())

    async def send() -> AsyncIterator[bytes]:
        yield b"one"
        await received.wait()
        yield b"two"

    upstream.handler = read
    gateway = await reach()

    async with gateway.session.post(f"{gateway.url}/responses", headers=gateway.bearer, data=send()) as response:
        assert await response.read() == b"one|two"


@pytest.mark.parametrize("chunked", [True, False])
async def test_100_mb_come_down_whole_and_wait_for_a_reader_that_is_slow(
    reach: Reach, upstream: Upstream, chunked: bool
) -> None:
    sent, digest = 0, hashlib.sha256()

    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={} if chunked else {"Content-Length": str(LARGE)})
        await response.prepare(request)
        while sent < LARGE:
            piece = PIECE[: LARGE - sent]
            digest.update(piece)
            await response.write(piece)
            sent += len(piece)
        return response

    upstream.handler = stream
    gateway = await reach()
    arrived, size = hashlib.sha256(), 0

    async with gateway.session.get(f"{gateway.url}/files", headers=gateway.bearer) as response:
        held = await settled(lambda: sent)
        async for piece in response.content.iter_any():
            arrived.update(piece)
            size += len(piece)

    assert held < LARGE / 2
    assert (size, arrived.digest()) == (LARGE, digest.digest())


async def test_100_mb_go_up_whole_and_wait_for_an_upstream_that_is_slow(reach: Reach, upstream: Upstream) -> None:
    sent, reading, digest, arrived = 0, asyncio.Event(), hashlib.sha256(), hashlib.sha256()

    async def read(request: web.BaseRequest) -> web.StreamResponse:
        await reading.wait()
        async for piece in request.content.iter_any():
            arrived.update(piece)
        return web.Response()

    async def send() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < LARGE:
            piece = PIECE[: LARGE - sent]
            digest.update(piece)
            yield piece
            sent += len(piece)

    upstream.handler = read
    gateway = await reach()
    sending = asyncio.ensure_future(
        gateway.session.post(f"{gateway.url}/responses", headers=gateway.bearer, data=send())
    )
    await until(lambda: sent > 0)
    held = await settled(lambda: sent)
    reading.set()
    async with await sending as response:
        assert response.status == 200

    assert held < LARGE / 2
    assert arrived.digest() == digest.digest()


async def test_an_encoding_of_the_content_passes_untouched_both_ways(reach: Reach, upstream: Upstream) -> None:
    packed = gzip.compress(b"a text that is packed")

    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        encoding = request.headers["Content-Encoding"]
        return web.Response(body=await request.read(), headers={"Content-Encoding": encoding})

    upstream.handler = echo
    gateway = await reach()

    _, headers, body = await gateway.ask(
        "POST", "/responses", headers={"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}, data=packed
    )

    assert body == packed
    assert headers["Content-Encoding"] == "gzip"
    assert headers["Content-Length"] == str(len(packed))
    assert upstream.headers["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 529])
async def test_errors_of_the_upstream_are_passed_on_with_their_body(
    reach: Reach, upstream: Upstream, upstreams: Upstreams, status: int
) -> None:
    async def fail(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"error": "why"}, status=status, headers={"Retry-After": "7"})

    upstream.handler = fail
    gateway = await reach()

    answered, headers, body = await gateway.ask("POST", "/responses", data=b"{}")

    assert (answered, headers["Retry-After"], body) == (status, "7", b'{"error": "why"}')
    assert upstreams.requests == {("openai", status): 1}


async def test_responses_without_a_body_pass_and_the_connection_goes_on(reach: Reach, upstream: Upstream) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": "5000"})
        return web.Response(status=int(request.raw_path[-3:]))

    upstream.handler = answer
    gateway = await reach(allow=("GET /*", "HEAD /*"))

    answers = [await gateway.ask(*line.split()) for line in ("HEAD /a", "GET /204", "GET /304", "HEAD /a")]

    assert [(status, body) for status, _, body in answers] == [(200, b""), (204, b""), (304, b""), (200, b"")]
    assert answers[0][1]["Content-Length"] == "5000"


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        ("UPSTREAM/v1/files/a?b=c", "/files/a?b=c"),
        ("/v1/files/a", "/files/a"),
        ("b", "/models/b"),
        ("/v2/files", "UPSTREAM/v2/files"),
        ("/v1beta", "UPSTREAM/v1beta"),
        ("https://elsewhere.example.com/x", "https://elsewhere.example.com/x"),
    ],
)
async def test_a_redirect_is_passed_on_and_stays_behind_the_gateway_where_it_can(
    reach: Reach, upstream: Upstream, sent: str, passed: str
) -> None:
    async def redirect(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": sent.replace("UPSTREAM", upstream.url)})

    upstream.handler = redirect
    gateway = await reach()

    status, headers, _ = await gateway.ask("GET", "/models/a")

    assert (status, headers["Location"]) == (307, passed.replace("UPSTREAM", upstream.url))
    assert len(upstream.seen) == 1


async def test_the_real_key_is_replaced_in_the_headers_of_a_response_and_cookies_are_kept_back(
    reach: Reach, upstream: Upstream
) -> None:
    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        headers = {"X-Echo": request.headers["Authorization"], "Set-Cookie": "session=1"}
        return web.Response(status=302, headers={**headers, "Location": f"/v1/a?key={REAL_KEY}"}, reason=REAL_KEY)

    upstream.handler = echo
    gateway = await reach()

    async with gateway.session.get(f"{gateway.url}/models", headers=gateway.bearer, allow_redirects=False) as answer:
        assert answer.headers["X-Echo"] == f"Bearer {gateway.service.key}"
        assert answer.headers["Location"] == f"/a?key={gateway.service.key}"
        assert REAL_KEY not in f"{answer.headers} {answer.reason}"
        assert "Set-Cookie" not in answer.headers


async def test_an_upstream_that_cannot_be_reached_is_502(
    reach: Reach, upstreams: Upstreams, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # nobody else can listen there meanwhile
        gateway = await reach(upstream=address(silent))

        answers = [await gateway.ask("GET", "/models") for _ in range(3)]

    assert {status for status, _, _ in answers} == {502}
    assert b"Connection refused" in answers[0][2]
    assert upstreams.requests == {("openai", 502): 3}
    assert [record.message for record in caplog.records] == ["a request through a gateway failed"]


async def test_an_upstream_whose_certificate_is_not_valid_is_502(reach: Reach, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    made = await asyncio.create_subprocess_exec(
        *command, "-out", str(certificate), "-keyout", str(key), stderr=asyncio.subprocess.DEVNULL
    )
    assert await made.wait() == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = listen()
    url = address(listener).replace("http:", "https:")
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), sock=listener, ssl=context)
    async with server:
        gateway = await reach(upstream=url)
        status, _, body = await gateway.ask("GET", "/models")

    assert status == 502
    assert b"its certificate is not valid" in body


async def test_an_upstream_that_speaks_no_tls_is_502(reach: Reach, upstream: Upstream) -> None:
    gateway = await reach(upstream=upstream.url.replace("http:", "https:"))

    status, _, body = await gateway.ask("GET", "/models")

    assert status == 502
    assert b"TLS failed" in body


async def test_an_upstream_that_does_not_accept_is_504(reach: Reach) -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for sock in (first, second):
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        gateway = await reach(upstream=address(full), connect_timeout_s=0.3)

        status, _, _ = await gateway.ask("GET", "/models")

    assert status == 504


@pytest.mark.parametrize("limit", ["silence_timeout_s", "total_timeout_s"])
async def test_an_upstream_that_does_not_answer_is_504(reach: Reach, upstream: Upstream, limit: str) -> None:
    over = asyncio.Event()

    async def wait(request: web.BaseRequest) -> web.StreamResponse:
        await over.wait()
        return web.Response()

    upstream.handler = wait
    gateway = await reach(**{limit: 0.3})

    status, _, body = await gateway.ask("GET", "/models")
    over.set()

    assert status == 504
    assert b'"upstream_timeout"' in body


async def test_an_upstream_that_goes_on_is_not_cut_by_the_limit_of_silence_but_by_the_one_in_sum(
    reach: Reach, upstream: Upstream
) -> None:
    async def drip(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while request.transport is not None:
            await response.write(b".")
            await asyncio.sleep(0.05)
        return response

    upstream.handler = drip
    gateway = await reach(silence_timeout_s=20.0, total_timeout_s=1.5)

    async with gateway.session.get(f"{gateway.url}/models", headers=gateway.bearer) as response:
        with pytest.raises(ClientPayloadError):
            await response.read()

    assert response.status == 200


async def test_a_response_that_the_upstream_breaks_off_is_broken_off(reach: Reach, upstream: Upstream) -> None:
    async def break_off(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    upstream.handler = break_off
    gateway = await reach()

    async with gateway.session.get(f"{gateway.url}/models", headers=gateway.bearer) as response:
        assert await response.content.readany() == b"half"
        with pytest.raises(ClientPayloadError):
            await response.read()


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_request_that_is_too_large_is_413(reach: Reach, upstream: Upstream, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield bytes(500)

    gateway = await reach(max_request_bytes=1_000)

    async with gateway.session.post(
        f"{gateway.url}/responses", headers=gateway.bearer, data=pieces() if chunked else bytes(2_000)
    ) as response:
        answer = await response.json()

    assert response.status == 413
    assert answer["error"]["message"] == "the request is larger than 1000 bytes"
    assert upstream.bodies == []


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "2000"}])
async def test_a_response_that_is_known_to_be_too_large_is_502(
    reach: Reach, upstream: Upstream, headers: dict[str, str]
) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(bytes(2_000))
        return response

    upstream.handler = answer
    gateway = await reach(max_response_bytes=1_000)

    status, _, body = await gateway.ask("GET", "/models")

    assert status == 502
    assert b"larger than 1000 bytes" in body


async def test_a_response_that_grows_too_large_is_broken_off(reach: Reach, upstream: Upstream) -> None:
    received = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(bytes(800))
        await received.wait()
        await response.write(bytes(800))
        return response

    upstream.handler = answer
    gateway = await reach(max_response_bytes=1_000)

    async with gateway.session.get(f"{gateway.url}/models", headers=gateway.bearer) as response:
        first = await response.content.readany()
        received.set()
        with pytest.raises(ClientPayloadError):
            await response.read()

    assert (response.status, first) == (200, bytes(800))


async def test_an_upstream_that_refuses_an_upload_before_its_end_is_heard(reach: Reach, upstream: Upstream) -> None:
    refused = asyncio.Event()

    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=413, text="enough")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"begun"
        await refused.wait()

    upstream.handler = refuse
    gateway = await reach()

    async with gateway.session.post(f"{gateway.url}/responses", headers=gateway.bearer, data=pieces()) as response:
        body = await response.read()
        refused.set()

    assert (response.status, body) == (413, b"enough")


@pytest.mark.parametrize("shared", [True, False])
async def test_more_requests_at_once_than_allowed_are_429_for_a_worker_and_in_sum(
    reach: Reach, upstream: Upstream, shared: bool
) -> None:
    over = asyncio.Event()

    async def wait(request: web.BaseRequest) -> web.StreamResponse:
        await over.wait()
        return web.Response()

    upstream.handler = wait
    upstreams = Upstreams(max_requests=2 if shared else 9)
    ours, theirs = [await reach(shared=upstreams, max_requests=9 if shared else 2) for _ in range(2)]
    waiting = [asyncio.ensure_future(ours.ask("GET", "/models")) for _ in range(2)]
    await until(lambda: len(upstream.seen) == 2)

    status, headers, body = await ours.ask("GET", "/models")
    other = asyncio.ensure_future(theirs.ask("GET", "/models"))
    await until(lambda: other.done() or len(upstream.seen) == 3)
    over.set()
    answers = await asyncio.gather(*waiting, other)
    again, _, _ = await ours.ask("GET", "/models")
    await upstreams.close()

    assert (status, headers["Retry-After"]) == (429, "1")
    assert (b"at most 2 of all Workers" if shared else b"at most 2 of a Worker through the gateway openai") in body
    assert [answer[0] for answer in answers] == [200, 200, 429 if shared else 200]
    assert again == 200


async def test_a_websocket_is_refused_with_426(reach: Reach, upstream: Upstream) -> None:
    gateway = await reach()

    with pytest.raises(WSServerHandshakeError) as refused:
        await gateway.session.ws_connect(f"{gateway.url}/models", headers=gateway.bearer)

    assert refused.value.status == 426
    assert not upstream.seen


async def test_a_request_for_another_upgrade_goes_on_as_plain_http(reach: Reach, upstream: Upstream) -> None:
    gateway = await reach()

    status, _, _ = await gateway.ask("GET", "/models", headers={"Upgrade": "h2c", "Connection": "Upgrade"})

    assert status == 200
    assert "Upgrade" not in upstream.headers


async def test_a_client_that_waits_for_100_continue_gets_it(reach: Reach, upstream: Upstream) -> None:
    gateway = await reach()
    head = (
        f"POST /responses HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {gateway.service.key}\r\n"
        "Expect: 100-continue\r\nContent-Length: 4\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(gateway.url).port)
    writer.write(head.encode())

    interim = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
    writer.write(b"body")
    answer = await asyncio.wait_for(reader.read(), DEADLINE_S)
    writer.close()

    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert upstream.bodies == [b"body"]


async def test_the_request_to_the_upstream_ends_when_the_client_leaves(
    reach: Reach, upstream: Upstream, upstreams: Upstreams
) -> None:
    left = asyncio.Event()

    async def wait(request: web.BaseRequest) -> web.StreamResponse:
        while request.transport is not None:
            await asyncio.sleep(0.01)
        left.set()
        return web.Response()

    upstream.handler = wait
    gateway = await reach()
    asking = asyncio.ensure_future(gateway.ask("GET", "/models"))
    await until(lambda: len(upstream.seen) == 1)
    asking.cancel()

    await asyncio.wait_for(left.wait(), DEADLINE_S)

    await until(lambda: upstreams.requests == {("openai", 499): 1})


async def test_a_secret_that_is_changed_is_used_without_a_restart(
    reach: Reach, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "CHECK_INTERVAL_S", 0.0)
    file = tmp_path / "openai"
    file.touch(0o600)
    file.write_text(f"{REAL_KEY}\n")
    gateway = await reach(secrets=Secrets({"openai": Secret(file=file)}))

    await gateway.ask("GET", "/models")
    file.write_text("sk-rotated\n")
    await gateway.ask("GET", "/models")

    assert [headers["Authorization"] for _, _, headers in upstream.seen] == [
        f"Bearer {REAL_KEY}",
        "Bearer sk-rotated",
    ]


@pytest.mark.parametrize("value", [None, "two\nlines", "caf\u00e9"])
async def test_a_secret_that_cannot_be_sent_is_503_and_stays_out_of_answer_and_log(
    reach: Reach, upstream: Upstream, caplog: pytest.LogCaptureFixture, value: str | None
) -> None:
    gateway = await reach(environ={} if value is None else {"OPENAI_KEY": value})

    status, _, body = await gateway.ask("GET", "/models")

    assert status == 503
    assert b"cannot read the secret of the gateway openai" in body
    assert not upstream.seen
    (record,) = caplog.records
    assert "secret 'openai'" in record.__dict__["reason"]
    assert value is None or value not in f"{record.__dict__} {body!r}"


async def test_the_real_key_is_in_no_log_and_no_answer_whatever_fails(
    reach: Reach, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answers = [
        b"HTTP/1.1 200 OK\r\nBroken header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"nonsense",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX-A: \xff\r\nX-B: 1\r\nContent-Length: 1\r\n\r\na",
    ]

    answering: list[bytes] = []

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answering[-1])
        writer.close()

    server = await asyncio.start_server(raw, "127.0.0.1", 0)
    async with server:
        gateway = await reach(upstream=address(server.sockets[0]))
        said = []
        for answer in answers:
            answering.append(answer)
            said.append(await gateway.send(head(gateway, "/a")))

    assert [line[9:12] for line in said] == [b"502", b"502", b"502", b"502", b"502", b"502", b"200"]
    written = "".join(f"{record.getMessage()} {record.__dict__} {record.exc_text}" for record in caplog.records)
    assert REAL_KEY not in f"{written} {said} {gateway.service!r} {vars(gateway.service)}"


async def test_forgetting_a_listener_ends_its_connections_and_leaves_the_others(
    reach: Reach, upstream: Upstream
) -> None:
    async def flood(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while request.transport is not None:
            await response.write(PIECE)
        return response

    gateway = await reach()
    listener = listen()
    second = address(listener)
    await gateway.service.serve(listener)
    upstream.handler = flood
    async with gateway.session.get(f"{second}/models", headers=gateway.bearer) as response:
        await response.content.readany()
        await asyncio.wait_for(gateway.service.forget(listener), DEADLINE_S)
        with pytest.raises(ClientPayloadError):
            await response.read()
    upstream.handler = None

    status, _, _ = await gateway.ask("GET", "/models")

    assert status == 200
    assert listener.fileno() == -1
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", URL(second).port)
    await gateway.service.forget(listener)


async def test_a_closed_gateway_leaves_no_task(reach: Reach, upstream: Upstream) -> None:
    over = asyncio.Event()

    async def wait(request: web.BaseRequest) -> web.StreamResponse:
        await over.wait()
        return web.Response()

    upstream.handler = wait
    gateway = await reach()
    before = asyncio.all_tasks()
    idle, writer = await asyncio.open_connection("127.0.0.1", URL(gateway.url).port)
    asking = asyncio.ensure_future(gateway.ask("POST", "/responses"))
    await until(lambda: len(upstream.seen) == 1)

    await asyncio.wait_for(gateway.service.close(), DEADLINE_S)

    with pytest.raises(ServerDisconnectedError):
        await asking
    assert await idle.read() == b""
    writer.close()
    over.set()
    await until(lambda: not asyncio.all_tasks() - before)


async def test_connections_above_the_limit_are_closed_at_once(reach: Reach, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_service, "MAX_CONNECTIONS", 2)
    gateway = await reach()
    port = URL(gateway.url).port
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""

    for each in (writer, *(writer for _, writer in held)):
        each.close()


async def test_an_invalid_configuration_is_refused(upstreams: Upstreams) -> None:
    with pytest.raises(ValueError, match=re.escape("allow: 'TRACE /': expected METHOD PATH")):
        GatewayService("a", Gateway("http://a", allow=("TRACE /",)), Secrets({}), upstreams)


async def test_a_listener_that_cannot_be_served_is_closed(reach: Reach) -> None:
    gateway = await reach()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    with pytest.raises(ValueError, match=r"(?i)stream"):
        await gateway.service.serve(datagrams)

    assert datagrams.fileno() == -1
