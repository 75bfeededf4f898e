"""Request heads as clients send them: doubled, cut anywhere, too large, and such as no HTTP/1.1 has."""

import asyncio
import itertools
import json
import re
from collections.abc import Iterable
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser

from runtimed.http.server.head_filter import MAX_HEAD_BYTES, MAX_HEADERS, METHODS, HeadFilter
from tests.http.conftest import TOKEN, Served, dial

DEADLINE_S = 20
JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"
PLAIN = "GET /v1/runtime HTTP/1.1"
CREATE = "POST /v1/workers HTTP/1.1"


def request(served: Served, line: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [line, f"Host: 127.0.0.1:{served.port}", f"Authorization: Bearer {TOKEN}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


async def answers(served: Served, *pieces: bytes, count: int = 1, method: str = "GET") -> list[tuple[int, Any]]:
    """The status and the body of each answer to these pieces."""
    reader, writer = await dial(served.port)
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


async def refusal(served: Served, data: bytes) -> tuple[int, str, str]:
    """The status, the code and the message of the one answer before the close."""
    reader, writer = await dial(served.port)
    try:
        async with asyncio.timeout(DEADLINE_S):
            writer.write(data)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    error = json.loads(body)["error"]
    return int(head.split()[1]), error["code"], error["message"]


def creations(served: Served) -> tuple[bytes, bytes, bytes]:
    """Requests whose type stands there once, and twice in several ways."""
    once = request(served, CREATE, JSON, body=b"{}")
    twice = request(served, CREATE, JSON, JSON, body=b"{}")
    apart = request(served, CREATE, JSON, "X-Between: y", JSON.lower() + " ", JSON, body=b"{}")
    return once, twice, apart


async def test_a_content_type_that_stands_there_again_with_the_same_value_is_served(served: Served) -> None:
    once, twice, apart = creations(served)

    found = [status for data in (once, twice, apart, twice) for status, _ in await answers(served, data)]

    assert found == [200, 200, 200, 200]


async def test_a_doubled_content_type_is_served_wherever_it_comes_on_a_connection(served: Served) -> None:
    once, twice, apart = creations(served)
    chunks = request(served, CREATE, JSON, JSON, CHUNKED) + b"2;x=y\r\n{}\r\n0\r\nX-Trailer: z\r\n\r\n"

    together = await answers(served, once + chunks + twice + apart + chunks + once + twice, count=7)
    one_by_one = await answers(served, once, twice, chunks, apart, once, twice, count=6)

    assert [status for status, _ in together + one_by_one] == [200] * 13


async def test_a_doubled_content_type_is_served_wherever_the_bytes_are_cut(served: Served) -> None:
    once, twice, _ = creations(served)
    whole = once + twice
    for cut in range(1, len(whole), 7):
        found = await answers(served, whole[:cut], whole[cut:], count=2)
        assert [status for status, _ in found] == [200, 200], whole[:cut]


async def test_a_body_that_looks_like_a_doubled_head_is_left_as_it_is(served: Served) -> None:
    worker = (await answers(served, creations(served)[0]))[0][1]["worker"]["worker_id"]
    content = f"{CREATE}\r\n{JSON}\r\n{JSON}\r\n\r\n"
    body = json.dumps({"kind": "user", "content": content}).encode()

    await answers(served, request(served, f"POST /v1/workers/{worker}/input HTTP/1.1", JSON, JSON, body=body))

    ref = served.runtime.ref(worker)
    page = await served.runtime.transcript(ref, 0, 1)
    assert page.items[0].content == content


async def test_two_different_content_types_are_refused(served: Served) -> None:
    others = ("text/plain", "application/json; charset=utf-8", "")

    found = [
        await refusal(served, request(served, CREATE, JSON, f"Content-Type: {other}", body=b"{}")) for other in others
    ]

    assert found == [(400, "invalid_request", "Content-Type: expected once, got two different ones")] * len(others)


async def test_head_answers_with_the_status_and_headers_of_get(served: Served) -> None:
    for path in ("/v1/runtime", "/v1/workers", "/openapi.json", "/v1/events"):
        found = []
        for method in (served.client.get, served.client.head):
            async with method(f"{served.url}{path}") as answer:
                left_out = {"date", "x-request-id"}
                headers = {name: value for name, value in answer.headers.items() if name.lower() not in left_out}
                found.append((answer.status, headers))
                body = await answer.read()
        assert found[0] == found[1], path
        assert found[0][0] == 200
        assert body == b""


async def test_a_connection_goes_on_behind_the_answer_to_a_head(served: Served) -> None:
    reader, writer = await dial(served.port)
    writer.write(request(served, "HEAD /v1/runtime HTTP/1.1") + request(served, PLAIN, "Connection: close"))
    async with asyncio.timeout(DEADLINE_S):
        said = await reader.read()
    writer.close()
    [head, get, body] = said.split(b"\r\n\r\n")
    length = re.compile(rb"Content-Length: (\d+)")
    assert length.findall(head) == length.findall(get) == [str(len(body)).encode()]


async def test_head_of_a_stream_or_a_socket_does_not_stay(served: Served) -> None:
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
        reader, writer = await dial(served.port)
        writer.write(data)
        async with asyncio.timeout(DEADLINE_S):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert (head.split()[1], body) == (status, b"")


async def test_head_is_refused_where_there_is_no_get_and_where_nothing_is(served: Served) -> None:
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


async def test_a_refused_head_says_which_line_is_wrong_and_closes(served: Served) -> None:
    found = {
        case: await refusal(served, request(served, line, *headers)) for case, (line, headers, _) in REFUSED.items()
    }

    assert found == {case: (400, "invalid_request", message) for case, (_, _, message) in REFUSED.items()}


async def test_a_refused_head_leaves_the_requests_before_it_their_answers(served: Served) -> None:
    plain = request(served, PLAIN)

    found = {
        case: await answers(served, 40 * plain + request(served, line, *headers) + plain, count=41)
        for case, (line, headers, _) in REFUSED.items()
    }

    statuses = {case: [status for status, _ in answered] for case, answered in found.items()}
    messages = {case: answered[-1][1]["error"]["message"] for case, answered in found.items()}
    assert statuses == {case: [*[200] * 40, 400] for case in REFUSED}
    assert messages == {case: message for case, (_, _, message) in REFUSED.items()}


async def test_what_is_no_http_is_refused_without_a_wait(served: Served) -> None:
    data = (b"GET /v1/runtime\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02", b"GET / HTTP/1.1\n\n")

    found = [(await refusal(served, one))[:2] for one in data]

    assert found == [(400, "invalid_request")] * len(data)


OVERSIZED = {
    "filler": [f"X-Filler: {'a' * 4_000}"] * 10,
    "long line": [f"X-Filler: {'a' * 9_000}"],
    "many": ["X: y"] * MAX_HEADERS,
}


async def test_a_head_that_is_too_large_is_431(served: Served) -> None:
    found = {case: await refusal(served, request(served, PLAIN, *headers)) for case, headers in OVERSIZED.items()}

    assert {case: one[:2] for case, one in found.items()} == dict.fromkeys(OVERSIZED, (431, "request_head_too_large"))
    assert all("expected at most" in message for _, _, message in found.values())


async def test_a_long_request_line_is_431(served: Served) -> None:
    line = f"GET /v1/runtime?{'x' * 9_000} HTTP/1.1"
    assert (await refusal(served, request(served, line)))[:2] == (431, "request_head_too_large")


async def test_a_head_that_never_ends_is_refused_at_its_limit(served: Served) -> None:
    line = b"X-Filler: " + b"a" * 4_000 + b"\r\n"
    endless = request(served, PLAIN)[:-2] + line * (MAX_HEAD_BYTES // len(line) + 1)
    assert (await refusal(served, endless))[:2] == (431, "request_head_too_large")


async def test_a_head_of_almost_the_limit_is_served(served: Served) -> None:
    lines = [f"X-{number}: {'a' * 7_900}" for number in range(4)]
    assert [status for status, _ in await answers(served, request(served, PLAIN, *lines))] == [200]


async def test_chunks_that_are_none_are_refused(served: Served) -> None:
    odd = (b"x\r\n{}\r\n", b"2\r\n{}0\r\n\r\n", b"-2\r\n{}\r\n", b"2;" + b"x" * 5_000, b"2\n{}\r\n0\r\n\r\n")

    found = [await refusal(served, request(served, CREATE, JSON, CHUNKED) + chunks) for chunks in odd]

    assert [status for status, _, _ in found] == [400] * len(odd)
    assert {code for _, code, _ in found} <= {"invalid_json", "invalid_request"}


def plain_head(*headers: str, line: str = "POST / HTTP/1.1", body: bytes = b"") -> bytes:
    """A request that names its host, without a token."""
    return "\r\n".join([line, "Host: x", *headers, "", ""]).encode() + body


SEVERAL = {
    "chunks": plain_head(CHUNKED, body=b"5\r\nhello\r\n0\r\nA: b\r\n\r\n"),
    "length": plain_head("Content-Length: 5", body=b"hello"),
    "no chunk": plain_head(CHUNKED, body=b"0\r\n\r\n"),
    "upgrade": plain_head("Connection: keep-alive, Upgrade", "Upgrade: websocket", line=PLAIN),
    "frames": b"\x81\x83abcd123\x81\xfe\x00\x80abcd" + b"x" * 128 + b"\x8a\x80abcd",
}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 16, 31, 64, 1_000])
def test_what_passes_is_what_came_whatever_way_the_bytes_come(size: int) -> None:
    expected = b"".join(SEVERAL.values())
    whole = b"\r\n" + b"\r\n\r\n".join([SEVERAL["chunks"], SEVERAL["length"], SEVERAL["no chunk"]])
    whole += b"\r\n" + SEVERAL["upgrade"] + SEVERAL["frames"]
    one = HeadFilter()

    passed = [piece for at in range(0, len(whole), size) for piece in one.feed(whole[at : at + size])]

    assert b"".join(passed) == expected
    assert (one.refusal, one.heads, one.held) == (None, 4, b"")


def test_each_piece_that_passes_begins_with_a_head() -> None:
    heads = [SEVERAL["chunks"], SEVERAL["length"], SEVERAL["no chunk"], SEVERAL["length"]]
    assert HeadFilter().feed(b"".join(heads)) == heads


UPGRADES = {
    "none": [],
    "h2c": ["Upgrade: h2c"],
    "tcp": ["Upgrade: tcp"],
    "several": ["Upgrade: h2c, websocket"],
    "empty": ["Upgrade:"],
    "websocket": ["Upgrade: websocket"],
    "websocket in another case": ["upgrade:WebSocket "],
    "websocket with a tab": ["Upgrade: \twebsocket\t"],
}
CONNECTIONS = {
    "no Connection": [],
    "Upgrade": ["Connection: Upgrade"],
    "several": ["Connection: keep-alive,  UPGRADE , HTTP2-Settings"],
    "tab": ["Connection:\tupgrade\t,keep-alive"],
    "two": ["Connection: keep-alive", "connection: upgrade"],
    "only like it": ["Connection: upgrades, an upgrade"],
}
BODIES = {"no body": ([], b""), "length": (["Content-Length: 5"], b"hello"), "chunks": ([CHUNKED], b"0\r\n\r\n")}


def parsed(pieces: Iterable[bytes]) -> tuple[list[str], bool]:
    """The targets of the messages that a parser finds, and whether it takes what follows for something else."""
    parser = HttpRequestParser(BaseProtocol(asyncio.get_running_loop()), asyncio.get_running_loop(), 2**16)
    found, upgraded = [], False
    for piece in pieces:
        if not upgraded:
            messages, upgraded, _ = parser.feed_data(piece)
            found += [message.path for message, _ in messages]
    return found, upgraded


@pytest.mark.parametrize("connection", CONNECTIONS)
@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_filter_and_parser_agree_on_what_follows_a_request(upgrade: str, connection: str) -> None:
    lines = ("GET /first HTTP/1.1", "POST /first HTTP/1.1")
    for (headers, data), line in itertools.product(BODIES.values(), lines):
        first = plain_head(*UPGRADES[upgrade], *CONNECTIONS[connection], *headers, line=line, body=data)
        second = plain_head(line="GET /second HTTP/1.1")
        together, cut = HeadFilter(), HeadFilter()

        pieces = together.feed(first + second)
        apart = [*cut.feed(first), *cut.feed(second)]

        found, upgraded = parsed(pieces)
        assert parsed(apart) == (found, upgraded)
        assert together.heads == cut.heads == len(found)
        assert found == (["/first"] if upgraded else ["/first", "/second"])
        assert upgraded == ("websocket" in upgrade and connection in {"Upgrade", "several", "two"})


async def test_a_request_to_upgrade_to_another_protocol_is_served_as_it_is(served: Served) -> None:
    once, _, _ = creations(served)
    for protocol in ("h2c", "tcp", "foo"):
        upgrade = ["Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABkAAQAAP__"]
        creating = request(served, CREATE, JSON, *upgrade, body=b"{}")

        found = await answers(served, creating + once, request(served, PLAIN, *upgrade), once, count=4)

        assert [status for status, _ in found] == [200] * 4, protocol


@pytest.mark.parametrize("method", sorted(METHODS - {b"CONNECT"}))
async def test_the_parser_takes_every_method_that_passes(method: bytes) -> None:
    [piece] = HeadFilter().feed(plain_head(line=f"{method.decode()} /first HTTP/1.1"))
    assert parsed([piece])[0] == ["/first"]


TARGETS = ["/", "/a?b=c&d#e", "//x", "http://x/y", "http://x", "HTTPS://x:80/", "/'\"<>[]{}|^`\\"]


@pytest.mark.parametrize("target", TARGETS)
async def test_the_parser_takes_every_target_that_passes(target: str) -> None:
    [piece] = HeadFilter().feed(plain_head(line=f"GET {target} HTTP/1.1"))
    assert parsed([piece])[0] == [target]


UNKNOWN = {
    "method": ("FOO /v1/runtime HTTP/1.1", [], "the request method"),
    "method in lower case": ("get /v1/runtime HTTP/1.1", [], "the request method"),
    "tab around chunked": (CREATE, ["Transfer-Encoding: \tchunked"], "Transfer-Encoding"),
    "tab behind chunked": (CREATE, ["Transfer-Encoding: chunked\t"], "Transfer-Encoding"),
    "target that is not ASCII": ("GET /v1/\xe9 HTTP/1.1", [], "the request target"),
    "target that is no path": ("GET runtime HTTP/1.1", [], "the request target"),
}


async def test_a_request_that_the_parser_would_not_take_leaves_those_before_it_their_answers(served: Served) -> None:
    once, _, _ = creations(served)
    for case, (line, headers, named) in UNKNOWN.items():
        found = await answers(served, once + once + request(served, line, *headers), count=3)

        assert [status for status, _ in found] == [200, 200, 400], case
        assert found[-1][1]["error"]["message"].startswith(f"{named}: expected "), case


async def test_a_head_that_only_the_parser_refuses_leaves_those_before_it_their_answers(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.http.server.head_filter.METHODS", frozenset({b"POST", b"FOO"}))
    once, _, _ = creations(served)

    found = await answers(served, once + once + request(served, "FOO /v1/runtime HTTP/1.1"), count=3)

    assert [status for status, _ in found] == [200, 200, 400]
