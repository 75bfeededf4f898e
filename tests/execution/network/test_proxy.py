"""The proxy, over real sockets to real servers on loopback."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from ipaddress import ip_address

import attrs
import pytest

from runtimed.execution.network.addresses import Address
from runtimed.execution.network.proxy import Proxy, ProxyLimits, SharedLimits
from runtimed.execution.network.rules import PUBLIC, NetworkPolicy, NetworkRule

DEADLINE_S = 60.0
PATIENT = ProxyLimits(connect_s=DEADLINE_S, lookup_s=DEADLINE_S, linger_s=DEADLINE_S)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@attrs.define
class Server:
    """A server on loopback that answers each request with `answer`, and remembers what it got."""

    answer: bytes = OK
    port: int = 0
    requests: list[bytes] = attrs.field(factory=list)
    serve: Serve | None = None

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if self.serve is not None:
                await self.serve(reader, writer)
                return
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head + await _body(reader, head))
            writer.write(self.answer)
            await writer.drain()


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if b"chunked" in head:
        return await reader.readuntil(b"0\r\n\r\n")
    _, found, rest = head.partition(b"Content-Length: ")
    return await reader.readexactly(int(rest.split(b"\r\n")[0])) if found else b""


@attrs.frozen
class Client:
    """Talks to a proxy.

    Attributes:
        refused: What the proxy has reported.
        looked_up: The names that the proxy has looked up.
    """

    proxy: Proxy
    listener: socket.socket
    refused: list[tuple[str, int, str]]
    looked_up: list[str]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.listener.getsockname())

    async def ask(self, data: bytes) -> bytes:
        """Send a request and return everything that comes back."""
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await self.connect()
            with contextlib.closing(writer):
                writer.write(data)
                return await reader.read()

    async def tunnel(self, port: int, host: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection through the proxy."""
        reader, writer = await self.connect()
        writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        return reader, writer


NewClient = Callable[..., Awaitable[Client]]
NewServer = Callable[..., Awaitable[Server]]


@pytest.fixture
async def new_client() -> AsyncIterator[NewClient]:
    """Return a function that makes a proxy with these rules and addresses of names, and a client of it."""
    made: list[Client] = []

    async def new(
        *rules: str,
        addresses: Sequence[str] | None = None,
        limits: ProxyLimits = PATIENT,
        shared: SharedLimits | None = None,
    ) -> Client:
        async def resolve(name: str) -> Sequence[Address]:
            looked_up.append(name)
            return [ip_address(text) for text in addresses or ()]

        looked_up: list[str] = []
        refused: list[tuple[str, int, str]] = []
        policy = NetworkPolicy((tuple(NetworkRule.parse(rule) for rule in rules) or PUBLIC,))
        proxy = Proxy(
            policy,
            lambda *found: refused.append(found),
            shared or SharedLimits(),
            resolve=None if addresses is None else resolve,
            limits=limits,
        )
        listener = socket.create_server(("127.0.0.1", 0))
        await proxy.serve(listener)
        made.append(Client(proxy, listener, refused, looked_up))
        return made[-1]

    yield new
    for client in made:
        await client.proxy.close()


@pytest.fixture
async def new_server() -> AsyncIterator[NewServer]:
    """Return a function that starts a server with these attributes."""
    async with contextlib.AsyncExitStack() as stack:

        async def new(answer: bytes = OK, serve: Serve | None = None) -> Server:
            server = Server(answer, serve=serve)
            listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
            stack.callback(listening.close)
            server.port = listening.sockets[0].getsockname()[1]
            return server

        yield new


def text_of(response: bytes) -> str:
    """The one line of an answer of the proxy itself."""
    head, _, body = response.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}\r\n".encode() in head
    assert body.count(b"\n") == 1
    return body.decode()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back once the client has ended, and a farewell."""
    writer.write(await reader.read() + b", farewell")
    await writer.drain()


def reset(writer: asyncio.StreamWriter) -> None:
    """Have the other end get an error, not an end."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# Tunnels


async def test_a_tunnel_passes_on_both_ways_and_the_end_of_each(new_client: NewClient, new_server: NewServer) -> None:
    server = await new_server(serve=echo)
    client = await new_client(f"127.0.0.1:{server.port}")

    reader, writer = await client.tunnel(server.port)
    writer.write(b"hello")
    writer.write_eof()

    assert await reader.read() == b"hello, farewell"
    writer.close()


async def test_what_comes_at_once_behind_a_connect_request_is_passed_on(
    new_client: NewClient, new_server: NewServer
) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"got " + await reader.readexactly(5))
        await writer.drain()

    server = await new_server(serve=greet)
    client = await new_client(f"127.0.0.1:{server.port}")

    response = await client.ask(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n\r\nearly".encode())

    assert response == b"HTTP/1.1 200 Connection established\r\n\r\ngot early"


async def test_a_server_that_resets_a_tunnel_resets_the_client(new_client: NewClient, new_server: NewServer) -> None:
    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        reset(writer)

    server = await new_server(serve=fail)
    client = await new_client(f"127.0.0.1:{server.port}")

    reader, writer = await client.tunnel(server.port)
    writer.write(b"xx")

    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), DEADLINE_S)
    writer.close()


async def test_a_client_that_does_not_read_makes_the_server_wait(
    new_client: NewClient, new_server: NewServer
) -> None:
    sent, stuck = 0, asyncio.Event()

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            while True:
                writer.write(bytes(1 << 16))
                await asyncio.wait_for(writer.drain(), 1)
                sent += 1 << 16
        except TimeoutError:
            stuck.set()
            writer.transport.abort()

    server = await new_server(serve=pour)
    client = await new_client(f"127.0.0.1:{server.port}")

    async with asyncio.timeout(DEADLINE_S):
        _, writer = await client.tunnel(server.port)
        await stuck.wait()

    assert sent < 64 << 20
    writer.close()


async def test_a_silent_tunnel_ends(new_client: NewClient, new_server: NewServer) -> None:
    server = await new_server(serve=echo)
    client = await new_client(f"127.0.0.1:{server.port}", limits=attrs.evolve(PATIENT, idle_s=0.1))

    reader, writer = await client.tunnel(server.port)

    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), DEADLINE_S)
    writer.close()


# Requests


async def test_a_request_is_passed_on_with_the_host_of_its_url_and_without_headers_of_the_connection(
    new_client: NewClient, new_server: NewServer
) -> None:
    server = await new_server()
    client = await new_client(f"127.0.0.1:{server.port}")

    await client.ask(
        f"GET http://127.0.0.1:{server.port}/a%20b?c=d HTTP/1.1\r\n"
        "Host: other.example.com\r\n"
        "X-Kept: one,  two\t\r\n"
        "Proxy-Connection: Keep-Alive\r\n"
        "Proxy-Authorization: Basic eDp5\r\n"
        "Connection: X-Dropped, keep-alive,Content-Length\r\n"
        "Keep-Alive: timeout=5\r\n"
        "TE: trailers\r\n"
        "Upgrade: websocket\r\n"
        "x-dropped: 1\r\n"
        "Content-Length: 2\r\n\r\nhi".encode()
    )

    assert server.requests == [
        (
            "GET /a%20b?c=d HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{server.port}\r\n"
            "X-Kept: one,  two\r\n"
            "Content-Length: 2\r\n"
            "Connection: close\r\n\r\nhi"
        ).encode()
    ]


@pytest.mark.parametrize(
    ("method", "path", "target"),
    [
        ("GET", "", "/"),
        ("GET", "?q=1", "/?q=1"),
        ("GET", "/?a=/b", "/?a=/b"),
        ("OPTIONS", "", "*"),
        ("OPTIONS", "/", "/"),
    ],
)
async def test_the_path_of_a_url_is_what_the_server_is_asked_for(
    new_client: NewClient, new_server: NewServer, method: str, path: str, target: str
) -> None:
    server = await new_server()
    client = await new_client(f"127.0.0.1:{server.port}")

    await client.ask(f"{method} HTTP://127.0.0.1:{server.port}{path} HTTP/1.0\r\n\r\n".encode())

    assert server.requests[0].startswith(f"{method} {target} HTTP/1.0\r\n".encode())


async def test_a_response_is_passed_on_and_the_client_told_that_the_connection_ends(
    new_client: NewClient, new_server: NewServer
) -> None:
    server = await new_server(
        b"HTTP/1.1 103 Early Hints\nLink: </a>\n\n"
        b"HTTP/1.1 200 Fine\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n"
    )
    client = await new_client(f"127.0.0.1:{server.port}")

    response = await client.ask(f"GET http://127.0.0.1:{server.port}/ HTTP/1.1\r\n\r\n".encode())

    assert response == (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: close\r\n\r\n"
        b"HTTP/1.1 200 Fine\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\n\r\n"
        b"2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n"
    )


async def test_a_response_is_passed_on_while_it_comes(new_client: NewClient, new_server: NewServer) -> None:
    more = asyncio.Event()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await more.wait()
        writer.write(b"data: 2\n\n")
        await writer.drain()

    server = await new_server(serve=stream)
    client = await new_client(f"127.0.0.1:{server.port}")

    reader, writer = await client.connect()
    writer.write(f"GET http://127.0.0.1:{server.port}/ HTTP/1.1\r\n\r\n".encode())
    await asyncio.wait_for(reader.readuntil(b"data: 1\n\n"), DEADLINE_S)
    more.set()

    assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b"data: 2\n\n"
    writer.close()


async def test_bodies_of_many_megabytes_go_both_ways(new_client: NewClient, new_server: NewServer) -> None:
    body = bytes(range(256)) * (8 << 12)
    server = await new_server(b"HTTP/1.1 200 OK\r\n\r\n" + body)
    client = await new_client(f"127.0.0.1:{server.port}")
    head = f"POST http://127.0.0.1:{server.port}/ HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"

    response = await client.ask(head.encode() + body)

    assert server.requests[0].endswith(b"\r\n\r\n" + body)
    assert response.endswith(b"\r\n\r\n" + body)


async def test_a_chunked_body_is_passed_on_as_it_is(new_client: NewClient, new_server: NewServer) -> None:
    server = await new_server()
    client = await new_client(f"127.0.0.1:{server.port}")
    body = b"4;name=value\r\nab\r\n\r\n0a\r\n0123456789\r\n0\r\n\r\n"

    reader, writer = await client.connect()
    writer.write(f"PUT http://127.0.0.1:{server.port}/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    for byte in body:
        writer.write(bytes([byte]))
        await writer.drain()

    assert (await asyncio.wait_for(reader.read(), DEADLINE_S)).endswith(b"\r\n\r\nok")
    assert server.requests[0].endswith(b"\r\n\r\n" + body)
    writer.close()


async def test_a_second_request_on_a_connection_reaches_nobody(new_client: NewClient, new_server: NewServer) -> None:
    heard, begun = b"", asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard = await reader.readuntil(b"\r\n\r\n")
        begun.set()
        heard += await reader.read()
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nfirst")
        await writer.drain()

    server = await new_server(serve=listen)
    client = await new_client(f"127.0.0.1:{server.port}")
    hidden = b"GET / HTTP/1.1\r\nHost: hidden.example.com\r\n\r\n"

    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await client.connect()
        writer.write(f"GET http://127.0.0.1:{server.port}/ HTTP/1.1\r\n\r\n".encode() + hidden)
        await begun.wait()
        writer.write(hidden)
        writer.write_eof()
        response = await reader.read()

    assert response.endswith(b"first")
    assert heard.count(b"GET") == 1
    writer.close()


async def test_a_response_before_the_end_of_a_body_is_passed_on(new_client: NewClient, new_server: NewServer) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\n\r\nstop")
        await writer.drain()

    server = await new_server(serve=refuse)
    client = await new_client(f"127.0.0.1:{server.port}")

    reader, writer = await client.connect()
    writer.write(f"POST http://127.0.0.1:{server.port}/ HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nx".encode())

    assert (await asyncio.wait_for(reader.read(), DEADLINE_S)).endswith(b"stop")
    writer.close()


async def test_a_response_that_is_cut_off_does_not_look_complete(
    new_client: NewClient, new_server: NewServer
) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await writer.drain()
        await reader.readexactly(1)
        reset(writer)

    server = await new_server(serve=cut)
    client = await new_client(f"127.0.0.1:{server.port}")

    reader, writer = await client.connect()
    writer.write(f"POST http://127.0.0.1:{server.port}/ HTTP/1.1\r\nContent-Length: 3\r\n\r\n".encode())
    await asyncio.wait_for(reader.readuntil(b"half"), DEADLINE_S)
    writer.write(b"xx")

    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), DEADLINE_S)
    writer.close()


# Malformed requests

URL = "http://127.0.0.1:{port}/"
CHUNKED = "Transfer-Encoding: chunked\r\n"
MALFORMED = {
    "nothing but a line": "hello\r\n\r\n",
    "an origin form": "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n",
    "another scheme": "GET https://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n",
    "a user in the URL": "GET http://user:word@127.0.0.1:{port}/ HTTP/1.1\r\n\r\n",
    "a fragment": f"GET {URL}#top HTTP/1.1\r\n\r\n",
    "a tab in the request line": f"GET\t{URL} HTTP/1.1\r\n\r\n",
    "two spaces": f"GET  {URL} HTTP/1.1\r\n\r\n",
    "another version": f"GET {URL} HTTP/2.0\r\n\r\n",
    "no version": f"GET {URL}\r\n\r\n",
    "a number as host": "GET http://2130706433:{port}/ HTTP/1.1\r\n\r\n",
    "octal numbers as host": "CONNECT 0177.0.0.1:{port} HTTP/1.1\r\n\r\n",
    "no port to connect to": "CONNECT 127.0.0.1 HTTP/1.1\r\n\r\n",
    "a path to connect to": "CONNECT 127.0.0.1:{port}/ HTTP/1.1\r\n\r\n",
    "a name that is not ASCII": "CONNECT b\u00fccher.example:443 HTTP/1.1\r\n\r\n",
    "a body to connect": "CONNECT 127.0.0.1:{port} HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
    "an empty first line": f"\r\nGET {URL} HTTP/1.1\r\n\r\n",
    "bare line feeds": f"GET {URL} HTTP/1.1\n\n",
    "a bare line feed among headers": f"GET {URL} HTTP/1.1\r\nA: b\nContent-Length: 3\r\n\r\nabc",
    "a bare carriage return": f"GET {URL} HTTP/1.1\r\nA: b\rContent-Length: 3\r\n\r\nabc",
    "a zero byte": f"GET {URL} HTTP/1.1\r\nA: b\x00c\r\n\r\n",
    "a folded header": f"GET {URL} HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
    "a space before a colon": f"GET {URL} HTTP/1.1\r\nContent-Length : 3\r\n\r\nabc",
    "a header without a name": f"GET {URL} HTTP/1.1\r\n: b\r\n\r\n",
    "both ways to frame a body": f"POST {URL} HTTP/1.1\r\nContent-Length: 3\r\n{CHUNKED}\r\n0\r\n\r\n",
    "two lengths": f"POST {URL} HTTP/1.1\r\nContent-Length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "a list of lengths": f"POST {URL} HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\nabc",
    "a signed length": f"POST {URL} HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc",
    "an endless length": f"POST {URL} HTTP/1.1\r\nContent-Length: {'9' * 5000}\r\n\r\n",
    "another coding": f"POST {URL} HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a coding twice": f"POST {URL} HTTP/1.1\r\n{CHUNKED}{CHUNKED}\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": f"POST {URL} HTTP/1.0\r\n{CHUNKED}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("kind", MALFORMED)
async def test_a_malformed_request_reaches_nobody(new_client: NewClient, new_server: NewServer, kind: str) -> None:
    server = await new_server()
    client = await new_client(f"127.0.0.1:{server.port}")

    response = await client.ask(MALFORMED[kind].replace("{port}", str(server.port)).encode())

    assert response.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert text_of(response).startswith("runtimed: malformed request: ")
    assert server.requests == []
    assert client.refused == []


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"-1\r\n",
        b"1 \n",
        b"0x1\r\na\r\n0\r\n\r\n",
        b"1\r\nab\r\n0\r\n\r\n",
        b"1\ra\r\n0\r\n\r\n",
        b"1\na\n0\n\n",
        b"1;a\x00\r\na\r\n0\r\n\r\n",
        b"f" * 17 + b"\r\n",
        b"1;" + b"e" * 5000,
        b"0\r\nno trailer\r\n\r\n",
        b"0\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
    ],
)
async def test_a_request_with_a_malformed_chunk_is_given_up(
    new_client: NewClient, new_server: NewServer, body: bytes
) -> None:
    server = await new_server()
    client = await new_client(f"127.0.0.1:{server.port}")
    head = f"POST http://127.0.0.1:{server.port}/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"

    response = await client.ask(head.encode() + body)

    assert response.startswith(b"HTTP/1.1 400 ")
    assert server.requests == []


async def test_a_client_that_goes_away_within_a_body_does_not_complete_it(
    new_client: NewClient, new_server: NewServer
) -> None:
    broken = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        broken.set()

    server = await new_server(serve=listen)
    client = await new_client(f"127.0.0.1:{server.port}")

    reader, writer = await client.connect()
    writer.write(f"POST http://127.0.0.1:{server.port}/ HTTP/1.1\r\nContent-Length: 5\r\n\r\nab".encode())
    writer.write_eof()

    assert "closed within the body" in text_of(await asyncio.wait_for(reader.read(), DEADLINE_S))
    await asyncio.wait_for(broken.wait(), DEADLINE_S)
    writer.close()


async def test_a_head_has_a_limit_of_bytes(new_client: NewClient) -> None:
    client = await new_client()

    response = await client.ask(b"GET http://example.com/" + b"a" * 40_000)

    assert response.startswith(b"HTTP/1.1 431 ")
    assert "at most 32768 bytes" in text_of(response)


async def test_a_head_that_does_not_end_in_time_is_given_up(new_client: NewClient) -> None:
    client = await new_client(limits=attrs.evolve(PATIENT, head_s=0.05))

    response = await client.ask(b"GET http://example.com/ HTTP/1.1\r\n")

    assert response.startswith(b"HTTP/1.1 408 ")
    assert "within 0.05 seconds" in text_of(response)


# What is refused

NEARBY = {"[::ffff:127.0.0.1]": "127.0.0.1"}
"""Hosts that are reported in another form."""


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[fd00:ec2::254]",
        "[64:ff9b::7f00:1]",
    ],
)
async def test_public_does_not_reach_an_address_nearby(
    new_client: NewClient, new_server: NewServer, host: str
) -> None:
    server = await new_server()
    client = await new_client()

    responses = [
        await client.ask(f"CONNECT {host}:{server.port} HTTP/1.1\r\n\r\n".encode()),
        await client.ask(f"GET http://{host}:{server.port}/ HTTP/1.1\r\n\r\n".encode()),
    ]

    for response in responses:
        assert response.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert 'its address is not public, and no rule writes the address out, network is "public"' in text_of(
            response
        )
    assert [found[1] for found in client.refused] == [server.port] * 2
    assert server.requests == []


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::1"], ["192.168.0.1"], ["169.254.169.254"], ["64:ff9b::a00:1"]],
)
@pytest.mark.parametrize("rules", [(), ("inside.example.com:*",), ("*.example.com:*", "10.99.0.0/16:*")])
async def test_a_name_that_leads_nearby_is_refused(
    new_client: NewClient, new_server: NewServer, addresses: list[str], rules: tuple[str, ...]
) -> None:
    server = await new_server()
    client = await new_client(*rules, addresses=addresses)

    response = await client.ask(f"CONNECT Inside.Example.com.:{server.port} HTTP/1.1\r\n\r\n".encode())

    assert response.startswith(b"HTTP/1.1 403 ")
    assert f"connection to inside.example.com:{server.port} refused: its address is not public" in text_of(response)
    [(host, port, reason)] = client.refused
    assert (host, port) == ("inside.example.com", server.port)
    assert reason in text_of(response)
    assert client.looked_up == ["inside.example.com"]


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST."])
async def test_localhost_is_refused_as_the_system_looks_it_up(
    new_client: NewClient, new_server: NewServer, name: str
) -> None:
    server = await new_server()
    client = await new_client()

    response = await client.ask(f"CONNECT {name}:{server.port} HTTP/1.1\r\n\r\n".encode())

    assert response.startswith(b"HTTP/1.1 403 ")
    assert client.refused[0][:2] == ("localhost", server.port)


async def test_a_name_without_a_rule_is_not_even_looked_up(new_client: NewClient) -> None:
    client = await new_client("api.example.com:443", "10.0.0.0/8:*", addresses=["10.0.0.1"])

    response = await client.ask(b"CONNECT secret-text.evil.example.com:443 HTTP/1.1\r\n\r\n")

    assert "no rule allows it, the rules are api.example.com:443, 10.0.0.0/8:*" in text_of(response)
    assert client.looked_up == []
    assert client.refused[0][:2] == ("secret-text.evil.example.com", 443)


async def test_a_name_is_looked_up_once_and_its_addresses_are_tried_in_turn(
    new_client: NewClient, new_server: NewServer
) -> None:
    server = await new_server()
    rules = (f"inside.example.com:{server.port}", "127.0.0.0/8:*")
    client = await new_client(*rules, addresses=["127.0.0.77", "127.0.0.1"])

    response = await client.ask(f"GET http://inside.example.com:{server.port}/ HTTP/1.1\r\n\r\n".encode())

    assert response.endswith(b"ok")
    assert client.looked_up == ["inside.example.com"]
    assert f"Host: inside.example.com:{server.port}\r\n".encode() in server.requests[0]
    assert client.refused == []


# Servers that cannot be reached


async def test_a_server_that_does_not_listen_is_a_502(new_client: NewClient) -> None:
    client = await new_client("127.0.0.1:*")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    response = await client.ask(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())

    assert response.startswith(b"HTTP/1.1 502 ")
    assert f"cannot connect to 127.0.0.1:{port}" in text_of(response)
    assert client.refused == []


@pytest.mark.parametrize("name", ["no-such-name.invalid", "empty.example.com"])
async def test_a_name_without_an_address_is_a_502(new_client: NewClient, name: str) -> None:
    client = await new_client(addresses=None if name.endswith("invalid") else [])

    response = await client.ask(f"GET http://{name}/ HTTP/1.1\r\n\r\n".encode())

    assert response.startswith(b"HTTP/1.1 502 ")
    assert f"cannot connect to {name}:80: " in text_of(response)


async def test_a_look_up_that_takes_too_long_is_a_504() -> None:
    async def resolve(name: str) -> Sequence[Address]:
        await asyncio.Event().wait()
        raise AssertionError

    limits = attrs.evolve(PATIENT, lookup_s=0.05)
    proxy = Proxy(NetworkPolicy((PUBLIC,)), lambda *_: None, SharedLimits(), resolve=resolve, limits=limits)
    listener = socket.create_server(("127.0.0.1", 0))
    await proxy.serve(listener)

    response = await Client(proxy, listener, [], []).ask(b"CONNECT slow.example.com:443 HTTP/1.1\r\n\r\n")
    await proxy.close()

    assert response.startswith(b"HTTP/1.1 504 ")
    assert text_of(response) == "runtimed: cannot connect to slow.example.com:443: it took too long\n"


async def test_a_connection_that_is_not_accepted_in_time_is_a_504(new_client: NewClient) -> None:
    client = await new_client("127.0.0.1:*", limits=attrs.evolve(PATIENT, connect_s=0.1))
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # fills the backlog
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())

        response = await client.ask(f"CONNECT 127.0.0.1:{full.getsockname()[1]} HTTP/1.1\r\n\r\n".encode())

    assert response.startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-server\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: b", b"HTTP/1.1 101 Switching\r\n\r\n", b"x" * 40_000],
)
async def test_a_server_that_does_not_answer_in_http_is_a_502(
    new_client: NewClient, new_server: NewServer, answer: bytes
) -> None:
    server = await new_server(answer)
    client = await new_client(f"127.0.0.1:{server.port}")

    response = await client.ask(f"GET http://127.0.0.1:{server.port}/ HTTP/1.1\r\n\r\n".encode())

    assert response.startswith(b"HTTP/1.1 502 ")
    assert f"no response from 127.0.0.1:{server.port}" in text_of(response)


async def test_a_server_that_does_not_answer_in_time_is_a_504(new_client: NewClient, new_server: NewServer) -> None:
    async def sleep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionResetError):
            await reader.read()

    server = await new_server(serve=sleep)
    client = await new_client(f"127.0.0.1:{server.port}", limits=attrs.evolve(PATIENT, idle_s=0.1))

    response = await client.ask(f"GET http://127.0.0.1:{server.port}/ HTTP/1.1\r\n\r\n".encode())

    assert response.startswith(b"HTTP/1.1 504 ")


# Limits and ends


@pytest.mark.parametrize("whose", ["this Worker has", "all Workers together have"])
async def test_a_connection_beyond_the_limit_is_told_so_and_the_next_one_is_served(
    new_client: NewClient, new_server: NewServer, whose: str
) -> None:
    server = await new_server(serve=echo)
    limits = attrs.evolve(PATIENT, max_connections=2 if whose == "this Worker has" else 100)
    shared = SharedLimits(max_connections=2)
    client = await new_client(f"127.0.0.1:{server.port}", limits=limits, shared=shared)
    request = f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n\r\n".encode()
    (first, leave), (_, other) = [await client.tunnel(server.port) for _ in range(2)]

    refused = await client.ask(request)
    leave.write_eof()
    await first.read()
    leave.close()
    async with asyncio.timeout(DEADLINE_S):
        while shared.connections > 1:
            await asyncio.sleep(0.001)
    _, writer = await client.tunnel(server.port)

    assert refused.startswith(b"HTTP/1.1 503 ")
    assert f"{whose} 2 connections already" in text_of(refused)
    writer.close()
    other.close()


async def test_forgetting_a_listener_ends_its_connections_and_leaves_the_others(
    new_client: NewClient, new_server: NewServer
) -> None:
    server = await new_server(serve=echo)
    client = await new_client(f"127.0.0.1:{server.port}")
    second = attrs.evolve(client, listener=socket.create_server(("127.0.0.1", 0)))
    await client.proxy.serve(second.listener)
    address = client.listener.getsockname()
    (gone, lost), (reader, writer) = await client.tunnel(server.port), await second.tunnel(server.port)

    await client.proxy.forget(client.listener)
    await client.proxy.forget(client.listener)

    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(gone.read(), DEADLINE_S) == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
    writer.write(b"still here")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b"still here, farewell"
    lost.close()
    writer.close()


async def test_closing_ends_everything(new_client: NewClient, new_server: NewServer) -> None:
    server = await new_server(serve=echo)
    shared = SharedLimits()
    client = await new_client(f"127.0.0.1:{server.port}", shared=shared)
    tunnels = [await client.tunnel(server.port) for _ in range(5)]
    address = client.listener.getsockname()

    await client.proxy.close()

    assert shared.connections == 0
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
    for _, writer in tunnels:
        writer.close()
