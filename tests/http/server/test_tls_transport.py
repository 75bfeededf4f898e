"""TLS: what is accepted and refused, and what connections take that do not finish their handshake."""

import asyncio
import contextlib
import io
import re
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop
from multidict import CIMultiDict, CIMultiDictProxy

from runtimed.core import Runtime
from runtimed.errors import ConfigurationError
from runtimed.execution.echo import EchoBackend
from runtimed.http.server.tls_context import TlsContext, TlsFiles
from runtimed.http.server.tls_transport import HALF_MESSAGE_BYTES, MAX_HANDSHAKE_BYTES, RECORD_BYTES, TLS_BYTES
from runtimed.http.web.guard import Guard
from runtimed.http.web.local_address import LocalAddress
from runtimed.model.worker import CreateWorkerRequest, TaskIntent
from runtimed.store.memory import MemoryStore
from tests.certificates import Authority, Certificate
from tests.http.conftest import TOKEN, Clock, Served, Streams, Transport, dial, serving

DEADLINE_S = 60

Serve = Callable[..., contextlib.AbstractAsyncContextManager[Served]]


@pytest.fixture
def transport(request: pytest.FixtureRequest) -> Transport:
    return Transport("tls", authority=request.getfixturevalue("authority"))


@pytest.fixture
def serve(runtime: Runtime, transport: Transport) -> Serve:
    def serve(**options: Any) -> contextlib.AbstractAsyncContextManager[Served]:
        return serving(runtime, {"transport": transport, **options})

    return serve


def get(port: int, path: str = "/v1/runtime", *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Authorization: Bearer {TOKEN}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


async def answer(streams: Streams, request: bytes) -> bytes:
    """The head and the body that come for a request."""
    reader, writer = streams
    async with asyncio.timeout(DEADLINE_S):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        return head + await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", head)[0]))


async def to_the_end(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        try:
            return await reader.read()
        except (ConnectionError, ssl.SSLError):
            return b""


@contextlib.asynccontextmanager
async def plain(port: int) -> AsyncIterator[Streams]:
    """A TCP connection without TLS."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


def client_hello(authority: Authority) -> bytes:
    """The first bytes of a handshake."""
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        authority.client_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


async def test_a_handshake_that_is_silent_or_slow_is_cut_like_a_slow_head(
    serve: Serve, authority: Authority, clock: Clock
) -> None:
    hello = client_hello(authority)
    async with serve(header_timeout_s=20.0) as served, plain(served.port) as silent, plain(served.port) as slow:
        slow[1].write(hello[:-1])
        done = await dial(served.port)
        assert b" 200 " in await answer(done, get(served.port))
        clock.skip(19.0)
        assert b" 200 " in await answer(done, get(served.port))
        clock.skip(1.0)
        assert await to_the_end(silent[0]) == await to_the_end(slow[0]) == b""
        assert b" 200 " in await answer(done, get(served.port))
        done[1].close()


async def test_silent_handshakes_lock_nobody_out(serve: Serve) -> None:
    async with serve(max_connections=100) as served, contextlib.AsyncExitStack() as open_:
        earlier = await dial(served.port)
        assert b" 200 " in await answer(earlier, get(served.port))
        silent = [await open_.enter_async_context(plain(served.port)) for _ in range(300)]
        for _ in range(3):
            streams = await dial(served.port)
            assert b" 200 " in await answer(streams, get(served.port))
            streams[1].close()
        assert b" 200 " in await answer(earlier, get(served.port))
        cut = await asyncio.gather(*(to_the_end(reader) for reader, _ in silent[:200]))
        assert cut == [b""] * 200
        earlier[1].close()


async def test_what_handshakes_take_counts_as_bytes_without_a_token(serve: Serve) -> None:
    async with serve(max_unauthenticated_bytes=10 * TLS_BYTES) as served, contextlib.AsyncExitStack() as open_:
        silent = [await open_.enter_async_context(plain(served.port)) for _ in range(25)]
        streams = await dial(served.port)
        assert b" 200 " in await answer(streams, get(served.port))
        assert await asyncio.gather(*(to_the_end(reader) for reader, _ in silent[:16])) == [b""] * 16
        for reader, writer in silent[-5:]:
            assert not reader.at_eof()
            writer.close()
        streams[1].close()


def half_message(size: int) -> bytes:
    """The records of so many bytes of a first message. It claims to have 128 KiB, and OpenSSL makes room for them."""
    message = (b"\x01" + (2**17).to_bytes(3, "big") + b"\x03\x03").ljust(size, b"\0")
    pieces = [message[at : at + RECORD_BYTES] for at in range(0, size, RECORD_BYTES)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


async def test_a_handshake_that_goes_on_and_on_is_cut(serve: Serve) -> None:
    longest = MAX_HANDSHAKE_BYTES - 5 * 2  # with the heads of its records
    async with serve() as served, plain(served.port) as long, plain(served.port) as longer:
        long[1].write(half_message(longest))
        longer[1].write(half_message(longest + 1))
        assert await to_the_end(longer[0]) == b""
        assert not long[0].at_eof()


async def test_a_message_of_a_handshake_that_is_not_whole_counts_with_the_length_that_it_claims(serve: Serve) -> None:
    most = 10 * (TLS_BYTES + HALF_MESSAGE_BYTES)
    async with serve(max_unauthenticated_bytes=most) as served, contextlib.AsyncExitStack() as open_:
        half = [await open_.enter_async_context(plain(served.port)) for _ in range(25)]
        for _, writer in half:
            writer.write(half_message(100))
        assert await asyncio.gather(*(to_the_end(reader) for reader, _ in half[:15])) == [b""] * 15
        streams = await dial(served.port)
        assert b" 200 " in await answer(streams, get(served.port))
        streams[1].close()
        assert not any(reader.at_eof() for reader, _ in half[-5:])


async def test_a_handshake_in_many_pieces_succeeds_and_counts_no_more_than_another(
    serve: Serve, authority: Authority
) -> None:
    """The first message comes byte by byte, the last one together with more than a record of the request."""
    async with serve(max_unauthenticated_bytes=2 * (TLS_BYTES + HALF_MESSAGE_BYTES)) as served:
        others = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(3)]
        async with plain(served.port) as (reader, writer):
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = authority.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            for byte in outgoing.read():
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            async with asyncio.timeout(DEADLINE_S):
                while not is_done(tls):
                    incoming.write(await reader.read(2**16))
                tls.write(get(served.port) * 300)
                writer.write(outgoing.read())
                assert b" 200 " in await decrypted(tls, incoming, reader)
        for other in others:
            assert not other[0].at_eof()
            other[1].close()


def is_done(tls: ssl.SSLObject) -> bool:
    """Go on with a handshake, and return whether it is complete."""
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


async def decrypted(tls: ssl.SSLObject, incoming: ssl.MemoryBIO, reader: asyncio.StreamReader) -> bytes:
    """The first bytes that the peer says."""
    while True:
        try:
            return tls.read(2**16)
        except ssl.SSLWantReadError:
            incoming.write(await reader.read(2**16))


async def test_bytes_that_are_no_tls_are_answered_with_an_alert(serve: Serve) -> None:
    async with serve() as served, plain(served.port) as (reader, writer):
        writer.write(get(served.port))
        assert (await to_the_end(reader))[:1] in {b"\x15", b""}


VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


@pytest.mark.parametrize("version", VERSIONS)
async def test_tls_1_2_and_1_3_are_spoken_with_http_1_1_alone(
    serve: Serve, authority: Authority, version: str
) -> None:
    context = authority.client_context()
    context.minimum_version = context.maximum_version = VERSIONS[version]
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with serve() as served:
        streams = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
        tls = streams[1].get_extra_info("ssl_object")
        assert (tls.version(), tls.selected_alpn_protocol(), tls.compression()) == (version, "http/1.1", None)
        assert b" 200 " in await answer(streams, get(served.port))
        streams[1].close()


@pytest.mark.parametrize("args", [("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), ("-tls1", "-cipher", "ALL:@SECLEVEL=0")])
async def test_older_versions_are_refused(serve: Serve, args: tuple[str, ...]) -> None:
    async with serve() as served:
        assert "alert protocol version" in await s_client(served.port, b"", *args)


async def test_a_client_cannot_negotiate_again(serve: Serve) -> None:
    async with serve() as served:
        said = await s_client(served.port, b"R\n", "-tls1_2")
        assert "RENEGOTIATING" in said
        assert "no renegotiation" in said


async def s_client(port: int, typed: bytes, *args: str) -> str:
    """What `openssl s_client` prints."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *args]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    said = b""
    async with asyncio.timeout(DEADLINE_S):
        while typed and b"---\n" not in said.partition(b"Verify return code")[2]:
            piece = await process.stdout.read(65_536)
            assert piece, said
            said += piece
        process.stdin.write(typed)
        if not typed:
            process.stdin.close()
        said += await process.stdout.read()
        await process.wait()
    return said.decode(errors="replace")


@pytest.fixture
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate from an authority that nobody here trusts."""
    return Authority(tmp_path_factory.mktemp("other")).issue("stranger")


async def test_with_a_client_ca_a_certificate_is_required_besides_the_token(
    runtime: Runtime, authority: Authority, stranger: Certificate
) -> None:
    tls = await asyncio.to_thread(TlsContext, TlsFiles(*authority.issue("server"), authority.ca))
    known = authority.client_context(authority.issue("client"))
    async with serving(runtime, {"tls": tls}) as served:
        for context in (authority.client_context(), authority.client_context(stranger)):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
            writer.write(get(served.port))
            async with asyncio.timeout(DEADLINE_S):
                with pytest.raises(ssl.SSLError, match=r"alert (certificate required|unknown ca)"):
                    await reader.read()
            writer.close()
        streams = await asyncio.open_connection("127.0.0.1", served.port, ssl=known)
        assert b" 200 " in await answer(streams, get(served.port))
        without = get(served.port).replace(TOKEN.encode(), b"wrong")
        assert b" 401 " in await answer(streams, without)
        streams[1].close()


async def test_new_connections_get_new_certificates_and_a_bad_file_changes_nothing(
    runtime: Runtime, authority: Authority, transport: Transport
) -> None:
    tls = transport.server_tls
    assert tls is not None
    first, second = authority.issue("first"), authority.issue("second")
    tls.replace(await asyncio.to_thread(TlsContext, TlsFiles(*first)))

    async def served_name(port: int) -> str:
        streams = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client_context())
        assert b" 200 " in await answer(streams, get(port))
        streams[1].close()
        return str(streams[1].get_extra_info("peercert")["subject"][0][0][1])

    async with serving(runtime, {"transport": transport}) as served:
        earlier = await dial(served.port)
        assert b" 200 " in await answer(earlier, get(served.port))
        assert await served_name(served.port) == "first"
        with pytest.raises(ConfigurationError, match=r"^tls_key: .*belongs to another certificate"):
            await asyncio.to_thread(TlsContext, TlsFiles(second.cert, first.key))
        assert await served_name(served.port) == "first"
        tls.replace(await asyncio.to_thread(TlsContext, TlsFiles(*second)))
        assert await served_name(served.port) == "second"
        assert b" 200 " in await answer(earlier, get(served.port))
        earlier[1].close()


def test_large_messages_pass_in_both_directions_and_an_end_is_an_end(transport: Transport) -> None:
    async def check() -> None:
        async with Runtime(MemoryStore(), EchoBackend()) as runtime:
            worker = await runtime.create_worker(CreateWorkerRequest(intent=TaskIntent("x" * 3_000_000)))
            async with serving(runtime, {"transport": transport}) as served:
                path = f"/v1/workers/{worker.worker_id}"
                body = io.BytesIO(b'{"kind":"user","content":"' + b"y" * 5_000_000 + b'"}')
                url, json_type = f"{served.url}{path}/input", {"Content-Type": "application/json"}
                async with served.client.post(url, data=body, headers=json_type) as given:
                    assert given.status == 200
                streams = await dial(served.port)
                for _ in range(3):
                    assert len(await answer(streams, get(served.port, path))) > 3_000_000
                await served.server.close()
                assert await to_the_end(streams[0]) == b""
                streams[1].close()

    for factory in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(check())


@pytest.mark.parametrize(
    ("local", "host", "is_ours"),
    [
        (LocalAddress("127.0.0.1", 443, 443), "127.0.0.1", True),
        (LocalAddress("127.0.0.1", 443, 443), "127.0.0.1:443", True),
        (LocalAddress("127.0.0.1", 443, 443), "127.0.0.1:80", False),
        (LocalAddress("127.0.0.1", 80, 80), "127.0.0.1", True),
        (LocalAddress("127.0.0.1", 443, 80), "127.0.0.1", False),
        (LocalAddress("192.0.2.1", 8443, 443), "runtime.example.org", True),
        (LocalAddress("192.0.2.1", 8443, 80), "runtime.example.org", False),
    ],
)
def test_a_host_without_a_port_means_that_of_the_scheme(local: LocalAddress, host: str, is_ours: bool) -> None:
    headers = CIMultiDictProxy(CIMultiDict({"Host": host, "Authorization": f"Bearer {TOKEN}"}))
    guard = Guard(TOKEN, ["runtime.example.org:443"])
    assert (guard.find_principal(headers, local) is not None) is is_ours
