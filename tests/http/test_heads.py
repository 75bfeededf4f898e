"""Request heads as clients send them: doubled, cut anywhere, too large, and such as no HTTP/1.1 has."""

import asyncio
import json
import re

import pytest

from runtimed.http.heads import MAX_HEAD_BYTES, MAX_HEADERS, HeadFilter

from .conftest import TOKEN

DEADLINE_S = 20
JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"
PLAIN = "GET /v1/runtime HTTP/1.1"
CREATE = "POST /v1/workers HTTP/1.1"


def request(served, line, *headers, body=b""):
    lines = [line, f"Host: 127.0.0.1:{served.port}", f"Authorization: Bearer {TOKEN}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


async def answers(served, *pieces, count=1, method="GET"):
    """The status and the body of each answer to these pieces."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    found = []
    try:
        async with asyncio.timeout(DEADLINE_S):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await served.client.get(f"{served.url}/v1/runtime")  # the server has read what was sent before it
            for _ in range(count):
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.findall(rb"Content-Length: (\d+)", head)
                body = b"" if method == "HEAD" else await reader.readexactly(int(length[0]))
                found.append((int(head.split()[1]), json.loads(body) if body else None))
    finally:
        writer.close()
    return found


async def refusal(served, data):
    """The status, the code and the message of the one answer before the close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        async with asyncio.timeout(DEADLINE_S):
            writer.write(data)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    error = json.loads(body)["error"]
    return int(head.split()[1]), error["code"], error["message"]


def creations(served):
    """Requests whose type stands there once, and twice in several ways."""
    once = request(served, CREATE, JSON, body=b"{}")
    twice = request(served, CREATE, JSON, JSON, body=b"{}")
    apart = request(served, CREATE, JSON, "X-Between: y", JSON.lower() + " ", JSON, body=b"{}")
    return once, twice, apart


async def test_a_content_type_that_stands_there_again_with_the_same_value_is_served(served):
    once, twice, apart = creations(served)

    found = [status for data in (once, twice, apart, twice) for status, _ in await answers(served, data)]

    assert found == [200, 200, 200, 200]


async def test_a_doubled_content_type_is_served_wherever_it_comes_on_a_connection(served):
    once, twice, apart = creations(served)
    chunks = request(served, CREATE, JSON, JSON, CHUNKED) + b"2;x=y\r\n{}\r\n0\r\nX-Trailer: z\r\n\r\n"

    together = await answers(served, once + chunks + twice + apart + chunks + once + twice, count=7)
    one_by_one = await answers(served, once, twice, chunks, apart, once, twice, count=6)

    assert [status for status, _ in together + one_by_one] == [200] * 13


async def test_a_doubled_content_type_is_served_wherever_the_bytes_are_cut(served):
    once, twice, _ = creations(served)
    whole = once + twice
    for cut in range(1, len(whole), 7):
        found = await answers(served, whole[:cut], whole[cut:], count=2)
        assert [status for status, _ in found] == [200, 200], whole[:cut]


async def test_a_body_that_looks_like_a_doubled_head_is_left_as_it_is(served):
    worker = (await answers(served, creations(served)[0]))[0][1]["worker"]["worker_id"]
    content = f"{CREATE}\r\n{JSON}\r\n{JSON}\r\n\r\n"
    body = json.dumps({"kind": "user", "content": content}).encode()

    await answers(served, request(served, f"POST /v1/workers/{worker}/input HTTP/1.1", JSON, JSON, body=body))

    ref = served.runtime.ref(worker)
    page = await served.runtime.transcript(ref, 0, 1)
    assert page.items[0].content == content


@pytest.mark.parametrize("other", ["text/plain", "application/json; charset=utf-8", ""])
async def test_two_different_content_types_are_refused(served, other):
    data = request(served, CREATE, JSON, f"Content-Type: {other}", body=b"{}")
    assert await refusal(served, data) == (
        400,
        "invalid_request",
        "Content-Type: expected once, got two different ones",
    )


@pytest.mark.parametrize("path", ["/v1/runtime", "/v1/workers", "/openapi.json", "/v1/events"])
async def test_head_answers_with_the_status_and_headers_of_get(served, path):
    found = []
    for method in (served.client.get, served.client.head):
        async with method(f"{served.url}{path}") as answer:
            headers = {name: value for name, value in answer.headers.items() if name != "Date"}
            found.append((answer.status, headers))
            body = await answer.read()
    assert found[0] == found[1]
    assert found[0][0] == 200
    assert body == b""


async def test_a_connection_goes_on_behind_the_answer_to_a_head(served):
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request(served, "HEAD /v1/runtime HTTP/1.1") + request(served, PLAIN, "Connection: close"))
    async with asyncio.timeout(DEADLINE_S):
        said = await reader.read()
    writer.close()
    [head, get, body] = said.split(b"\r\n\r\n")
    length = re.compile(rb"Content-Length: (\d+)")
    assert length.findall(head) == length.findall(get) == [str(len(body)).encode()]


async def test_head_of_a_stream_or_a_socket_does_not_stay(served):
    stream = request(served, "HEAD /v1/events HTTP/1.1", "Accept: text/event-stream")
    worker = (await answers(served, creations(served)[0]))[0][1]["worker"]["worker_id"]
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    socket = request(
        served,
        f"HEAD /v1/workers/{worker}/events/ws HTTP/1.1",
        *upgrade,
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    for data, status in ((stream, b"200"), (socket, b"400")):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(data)
        async with asyncio.timeout(DEADLINE_S):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert (head.split()[1], body) == (status, b"")


async def test_head_is_refused_where_there_is_no_get_and_where_nothing_is(served):
    stop = await answers(served, request(served, "HEAD /v1/workers/worker-00000001/stop HTTP/1.1"), method="HEAD")
    missing = await answers(served, request(served, "HEAD /v1/workers/worker-ffffffff HTTP/1.1"), method="HEAD")
    assert stop + missing == [(405, None), (404, None)]


REFUSED = {
    "no colon": (PLAIN, ["Nonsense"], "header 3: expected NAME: VALUE"),
    "no name": (PLAIN, [": x"], "header 3: expected NAME: VALUE"),
    "folded": (PLAIN, ["X-Odd: 1", " 2"], "header 4: expected NAME: VALUE"),
    "white space before the colon": (PLAIN, ["X-Odd : 1"], "X-Odd: expected no white space before the colon"),
    "control character": (PLAIN, ["X-Odd: \x01"], "X-Odd: expected no control characters"),
    "bare carriage return": (PLAIN, ["X-Odd: a\rb"], "X-Odd: expected no control characters"),
    "two hosts": (PLAIN, ["Host: evil.example"], "Host: expected once"),
    "two lengths": (CREATE, [JSON, "Content-Length: 2", "Content-Length: 2"], "Content-Length: expected once"),
    "two lengths of a digit": (
        CREATE,
        [JSON, "Content-Length: 0", "Content-Length: 0"],
        "Content-Length: expected once",
    ),
    "signed length": (CREATE, [JSON, "Content-Length: +2"], "Content-Length: expected a whole number"),
    "empty length": (CREATE, [JSON, "Content-Length:"], "Content-Length: expected a whole number"),
    "length and chunks": (
        CREATE,
        [CHUNKED, "Content-Length: 2"],
        "Content-Length: not accepted beside Transfer-Encoding",
    ),
    "another coding": (
        CREATE,
        ["Transfer-Encoding: gzip, chunked"],
        "Transfer-Encoding: expected chunked, and no other coding",
    ),
    "another coding in another case": (
        CREATE,
        ["transfer-encoding: GZIP , Chunked"],
        "Transfer-Encoding: expected chunked, and no other coding",
    ),
    "a coding that is none": (
        CREATE,
        ["Transfer-Encoding: identity"],
        "Transfer-Encoding: expected chunked, and no other coding",
    ),
    "HTTP/0.9": ("GET /v1/runtime HTTP/0.9", [], "the request line: expected METHOD TARGET HTTP/1.1"),
    "HTTP/2.0": ("GET /v1/runtime HTTP/2.0", [], "the request line: expected METHOD TARGET HTTP/1.1"),
    "HTTP/1.2": ("GET /v1/runtime HTTP/1.2", [], "the request line: expected METHOD TARGET HTTP/1.1"),
    "no version": ("GET /v1/runtime", [], "the request line: expected METHOD TARGET HTTP/1.1"),
    "two targets": ("GET /v1 /runtime HTTP/1.1", [], "the request line: expected METHOD TARGET HTTP/1.1"),
}


@pytest.mark.parametrize("behind", [False, True], ids=["first", "behind another"])
@pytest.mark.parametrize("case", REFUSED)
async def test_a_refused_head_says_which_line_is_wrong_and_closes(served, case, behind):
    line, headers, message = REFUSED[case]
    data = request(served, line, *headers)
    if not behind:
        assert await refusal(served, data) == (400, "invalid_request", message)
        return
    plain = request(served, PLAIN)
    found = await answers(served, 40 * plain + data + plain, count=41)
    assert [status for status, _ in found] == [*[200] * 40, 400]
    assert found[-1][1]["error"]["message"] == message


@pytest.mark.parametrize(
    "data", [b"GET /v1/runtime\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02", b"GET / HTTP/1.1\n\n"]
)
async def test_what_is_no_http_is_refused_without_a_wait(served, data):
    assert (await refusal(served, data))[:2] == (400, "invalid_request")


OVERSIZED = {
    "filler": [f"X-Filler: {'a' * 4_000}"] * 10,
    "long line": [f"X-Filler: {'a' * 9_000}"],
    "many": ["X: y"] * MAX_HEADERS,
}


@pytest.mark.parametrize("case", OVERSIZED)
async def test_a_head_that_is_too_large_is_431(served, case):
    status, code, message = await refusal(served, request(served, PLAIN, *OVERSIZED[case]))
    assert (status, code) == (431, "request_head_too_large")
    assert "expected at most" in message


async def test_a_long_request_line_is_431(served):
    line = f"GET /v1/runtime?{'x' * 9_000} HTTP/1.1"
    assert (await refusal(served, request(served, line)))[:2] == (431, "request_head_too_large")


async def test_a_head_that_never_ends_is_refused_at_its_limit(served):
    line = b"X-Filler: " + b"a" * 4_000 + b"\r\n"
    endless = request(served, PLAIN)[:-2] + line * (MAX_HEAD_BYTES // len(line) + 1)
    assert (await refusal(served, endless))[:2] == (431, "request_head_too_large")


async def test_a_head_of_almost_the_limit_is_served(served):
    lines = [f"X-{number}: {'a' * 7_900}" for number in range(4)]
    assert [status for status, _ in await answers(served, request(served, PLAIN, *lines))] == [200]


@pytest.mark.parametrize(
    "chunks", [b"x\r\n{}\r\n", b"2\r\n{}0\r\n\r\n", b"-2\r\n{}\r\n", b"2;" + b"x" * 5_000, b"2\n{}\r\n0\r\n\r\n"]
)
async def test_chunks_that_are_none_are_refused(served, chunks):
    status, code, _ = await refusal(served, request(served, CREATE, JSON, CHUNKED) + chunks)
    assert status == 400
    assert code in {"invalid_json", "invalid_request"}


def test_whatever_way_the_bytes_come_the_same_passes():
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    length = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n"
    frames = b"\x81\x83abcd123\x81\xfe\x00\x80abcd" + b"x" * 128 + b"\x8a\x80abcd"
    whole = head + b"5\r\nhello\r\n0\r\nA: b\r\n\r\n" + length + b"\r\n" + head + b"0\r\n\r\n" + upgrade + frames
    expected = HeadFilter().feed(whole)
    for size in range(1, 40):
        one = HeadFilter()
        assert b"".join(one.feed(whole[at : at + size]) for at in range(0, len(whole), size)) == expected
        assert one.refusal is None
        assert one.heads == 4
