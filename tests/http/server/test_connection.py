"""A connection gives the same answers whether aiohttp has it or not, and whatever way its bytes come."""

import asyncio
import gc
import re
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable

import attrs
import pytest
import uvloop

from runtimed.core import Dispatch, Runtime
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.echo import EchoBackend
from runtimed.http import Api
from runtimed.http.server.http_server import HttpServer
from runtimed.model.identity import WorkerRef
from runtimed.model.principal import ADMIN, Principal
from runtimed.model.worker import CreateWorkerRequest, TaskIntent, WorkerDetail
from runtimed.store.memory import MemoryStore
from tests.http.conftest import TOKEN, Clock, Transport, dial, serving

WORKER = "worker-00000001"


@attrs.frozen
class Both:
    """One application twice: as it is served, and with aiohttp having every connection from the start."""

    ours: int
    bare: int


@pytest.fixture
async def both(runtime: Runtime, transport: Transport) -> AsyncIterator[Both]:
    await runtime.create_worker(CreateWorkerRequest())
    server = HttpServer(Api(runtime, token=TOKEN), quick_requests=False, tls=transport.server_tls)
    listener, bare = transport.listen()
    await server.start([listener])
    try:
        async with serving(runtime, {"transport": transport}) as served:
            yield Both(served.port, bare)
    finally:
        await server.close()


def request(line: str, port: int, *headers: str, body: bytes = b"", token: str = TOKEN) -> bytes:
    lines = [line, f"Host: 127.0.0.1:{port}", f"Authorization: Bearer {token}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def last(port: int) -> bytes:
    return request("GET /v1/runtime HTTP/1.1", port, "Connection: close")


async def talk(port: int, *pieces: bytes) -> bytes:
    """All that is answered to these pieces and a last request, each piece read by itself; dates left out."""
    reader, writer = await dial(port)
    try:
        for piece in pieces:
            writer.write(piece)
            await passed(port)
        writer.write(last(port))
        async with asyncio.timeout(60):
            dateless = re.sub(rb"Date: [^\r]*\r\n", b"", await reader.read())
            return re.sub(rb"(X-Request-Id: )[0-9a-f]+-[0-9]+\r\n", rb"\1made\r\n", dateless)
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


async def passed(port: int) -> None:
    """A round trip on another connection: what was sent before it, the server has read by now."""
    reader, writer = await dial(port)
    writer.write(last(port))
    async with asyncio.timeout(60):
        await reader.read()
    writer.close()


def post(path: str, body: bytes, *headers: str) -> Callable[[int], bytes]:
    given = headers or ("Content-Type: application/json",)
    return lambda port: request(f"POST {path} HTTP/1.1", port, *given, body=body)


def get(
    path: str, *headers: str, version: str = "1.1", method: str = "GET", token: str = TOKEN
) -> Callable[[int], bytes]:
    return lambda port: request(f"{method} {path} HTTP/{version}", port, *headers, token=token)


STOP = f"/v1/workers/{WORKER}/stop"
CASES: dict[str, Callable[[int], bytes]] = {
    "runtime": get("/v1/runtime"),
    "worker": get(f"/v1/workers/{WORKER}"),
    "no such worker": get("/v1/workers/worker-0000ffff"),
    "no worker id": get("/v1/workers/worker"),
    "encoded worker id": get("/v1/workers/worker%2D00000001"),
    "encoded slash": get("/v1/workers/..%2f..%2fv1"),
    "dots": get("/v1/workers/.."),
    "transcript": get(f"/v1/workers/{WORKER}/transcript"),
    "transcript page": get(f"/v1/workers/{WORKER}/transcript?start=0&limit=2"),
    "encoded query": get(f"/v1/workers/{WORKER}/transcript?st%61rt=0"),
    "unknown query": get("/v1/runtime?token=x"),
    "repeated query": get(f"/v1/workers/{WORKER}/transcript?start=0&start=0"),
    "bad query": get(f"/v1/workers/{WORKER}/transcript?limit=-1"),
    "empty query": get("/v1/runtime?"),
    "fragment": get("/v1/runtime#part"),
    "openapi": get("/openapi.json"),
    "unknown path": get("/v1/nothing"),
    "trailing slash": get("/v1/runtime/"),
    "double slash": get("//v1/runtime"),
    "head": get("/v1/runtime", method="HEAD"),
    "wrong method": get("/v1/runtime", method="PUT"),
    "http 1.0": get("/v1/runtime", version="1.0"),
    "http 1.0 kept": get("/v1/runtime", "Connection: keep-alive", version="1.0"),
    "close": get("/v1/runtime", "Connection: close"),
    "wrong token": get("/v1/runtime", token="wrong"),
    "two tokens": get("/v1/runtime", f"Authorization: Bearer {TOKEN}"),
    "origin": get("/v1/runtime", "Origin: http://127.0.0.1"),
    "two hosts": get("/v1/runtime", "Host: evil.example"),
    "upgrade": get("/v1/runtime", "Connection: Upgrade", "Upgrade: websocket"),
    "upgrade to what is not here": get("/v1/runtime", "Connection: Upgrade", "Upgrade: h2c"),
    "absolute form": lambda port: get(f"http://127.0.0.1:{port}/v1/runtime")(port),
    "absolute form elsewhere": get("http://evil.example/v1/runtime"),
    "leading empty line": lambda port: b"\r\n" + get("/v1/runtime")(port),
    "a body that nobody wants": lambda port: request("GET /v1/runtime HTTP/1.1", port, body=b"{}"),
    "stop": lambda port: request(f"POST {STOP} HTTP/1.1", port),
    "stop with a length of zero": lambda port: request(f"POST {STOP} HTTP/1.1", port, "Content-Length: 0"),
    "stop with a body": post(STOP, b'{"reason":"x"}'),
    "stop with an odd body": post(STOP, b"[]"),
    "bad json": post(f"/v1/workers/{WORKER}/input", b'{"kind":"user"'),
    "duplicate field": post(f"/v1/workers/{WORKER}/input", b'{"kind":"user","kind":"user","content":"x"}'),
    "no such kind": post(f"/v1/workers/{WORKER}/input", b'{"kind":"x","content":"x"}'),
    "missing body": lambda port: request(f"POST /v1/workers/{WORKER}/input HTTP/1.1", port),
    "other media type": post(f"/v1/workers/{WORKER}/input", b"{}", "Content-Type: text/plain"),
    "other charset": post(f"/v1/workers/{WORKER}/input", b"{}", "Content-Type: application/json; charset=latin-1"),
    "no media type": post(STOP, b"{}", "Accept: */*"),
    "charset": post(STOP, b"{}", "Content-Type: Application/JSON; charset=utf-8"),
    "encoding": post(STOP, b"{}", "Content-Type: application/json", "Content-Encoding: gzip"),
    "no encoding": post(STOP, b"{}", "Content-Type: application/json", "Content-Encoding: identity"),
    "expect": post(STOP, b"{}", "Content-Type: application/json", "Expect: 100-continue"),
    "chunked": lambda port: (
        request(f"POST {STOP} HTTP/1.1", port, "Content-Type: application/json", "Transfer-Encoding: chunked")
        + b"2\r\n{}\r\n0\r\n\r\n"
    ),
    "length and chunks": lambda port: request(
        f"POST {STOP} HTTP/1.1",
        port,
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
        body=b"0\r\n\r\n",
    ),
    "two lengths": post(STOP, b"{}", "Content-Type: application/json", "Content-Length: 2"),
    "signed length": lambda port: request(f"POST {STOP} HTTP/1.1", port, "Content-Length: +0"),
    "space before the colon": get("/v1/runtime", "X-Odd : 1"),
    "bare line feeds": lambda port: get("/v1/runtime")(port).replace(b"\r\n", b"\n"),
    "empty line within": lambda port: b"\r\n\r\nGET /v1/runtime HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
    "large body": post(STOP, b'{"reason":"' + b"x" * 100_000 + b'"}'),
    "very large body": post(STOP, b'{"reason":"' + b"x" * 1_000_000 + b'"}'),
    "thousands at once": lambda port: b"".join([get("/v1/runtime")(port)] * 3_000),
}


async def test_the_answer_is_that_of_aiohttp_alone(both: Both) -> None:
    for case, make in CASES.items():
        ours = await talk(both.ours, make(both.ours))
        bare = await talk(both.bare, make(both.bare))
        assert ours.startswith(b"HTTP/1."), case
        assert ours == bare, case


@pytest.mark.parametrize("case", ["worker", "stop with a body", "expect", "chunked"])
async def test_the_answer_is_the_same_wherever_the_bytes_are_cut(both: Both, case: str) -> None:
    whole = CASES[case](both.ours)
    expected = await talk(both.ours, whole)
    for cut in range(1, len(whole), 17):
        assert await talk(both.ours, whole[:cut], whole[cut:]) == expected, whole[:cut]


@pytest.mark.parametrize(("before", "behind"), [(b"", b"\r\n"), (b"\r\n", b""), (b"\r\n\r\n", b"\r\n\r\n")])
async def test_a_request_repeated_with_empty_lines_around_it_gets_the_same_answers(
    both: Both, before: bytes, behind: bytes
) -> None:
    await talk(both.ours, CASES["stop with a body"](both.ours))
    for case in ("worker", "stop with a body", "no such kind"):
        ours = await talk(both.ours, *[before + CASES[case](both.ours) + behind] * 4)
        bare = await talk(both.bare, *[before + CASES[case](both.bare) + behind] * 4)
        assert ours.count(b"HTTP/1.1 ") == 5, case
        assert ours == bare, case


async def test_a_request_repeated_with_a_doubled_header_gets_the_same_answers(both: Both) -> None:
    double = post(STOP, b'{"reason":"x"}', "Content-Type: application/json", "Content-Type: application/json")
    await talk(both.ours, double(both.ours))
    ours = await talk(both.ours, *[double(both.ours)] * 4)
    assert ours.count(b"HTTP/1.1 200 OK") == 5
    assert ours == await talk(both.bare, *[double(both.bare)] * 4)


async def test_requests_that_come_together_are_answered_in_their_order(both: Both) -> None:
    cases = ["worker", "stop", "stop with a body", "no such worker", "unknown path", "transcript", "runtime"]
    one_by_one = [CASES[case](both.ours) for case in cases]
    await talk(both.ours, *one_by_one)
    assert await talk(both.ours, b"".join(one_by_one)) == await talk(both.ours, *one_by_one)


async def test_a_connection_that_aiohttp_has_taken_over_goes_on(both: Both) -> None:
    mixed = [CASES[case](both.ours) for case in ("worker", "encoded worker id", "worker", "bad json", "worker")]
    answers = await talk(both.ours, *mixed)
    assert answers.count(b"HTTP/1.1 200 OK") == 5
    assert answers.count(b"HTTP/1.1 400 Bad Request") == 1


async def test_whoever_does_not_read_his_answers_gets_no_more_made_until_he_does(
    both: Both, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await runtime.create_worker(CreateWorkerRequest(intent=TaskIntent("x" * 8_000)))
    made: list[WorkerRef] = []

    def detail(ref: WorkerRef, *, principal: Principal) -> WorkerDetail:
        assert principal == ADMIN
        made.append(ref)
        return worker

    monkeypatch.setattr(runtime, "worker", detail)
    reader, writer = await dial(both.ours)
    asked, count = get(f"/v1/workers/{WORKER}", f"X-Long: {'x' * 6_000}")(both.ours), 4_000
    sending = asyncio.ensure_future(sent(writer, asked, count))
    async with asyncio.timeout(60):
        before = -1
        while len(made) > before:
            before = len(made)
            for _ in range(10):
                await passed(both.ours)
        assert 0 < len(made) < count
        for _ in range(count):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK")
            await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", head)[0]))
        await sending
    writer.close()


async def sent(writer: asyncio.StreamWriter, data: bytes, count: int) -> None:
    for _ in range(count):
        writer.write(data)
        await writer.drain()


@pytest.mark.usefixtures("quick")
async def test_a_body_that_is_slow_to_come_is_waited_for_and_an_idle_connection_is_not(
    runtime: Runtime, clock: Clock
) -> None:
    await runtime.create_worker(CreateWorkerRequest())
    async with serving(runtime, {"header_timeout_s": 20.0}) as served:
        slow_reader, slow = await dial(served.port)
        whole = CASES["stop with a body"](served.port)
        slow.write(whole[:-5])
        idle_reader, idle = await dial(served.port)
        await passed(served.port)
        clock.skip(20.0)
        async with asyncio.timeout(60):
            assert await idle_reader.read() == b""
            slow.write(whole[-5:])
            assert (await slow_reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        idle.close()
        slow.close()


class Held(EchoBackend):
    """Accepts an input when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def dispatch(self, dispatch: Dispatch) -> BackendAnswer:
        self.asked.set()
        await self.go_on.wait()
        return await super().dispatch(dispatch)


@pytest.mark.usefixtures("quick")
async def test_an_answer_that_is_due_at_the_end_is_given_and_then_the_connection_closed() -> None:
    backend = Held()
    async with Runtime(MemoryStore(), backend) as runtime:
        worker = await runtime.create_worker()
        async with serving(runtime) as served:
            asking = asyncio.ensure_future(ask(served.port, post_input(served.port)))
            await backend.asked.wait()
            closing = asyncio.ensure_future(served.server.close())
            await asyncio.sleep(0)
            backend.go_on.set()
            async with asyncio.timeout(60):
                assert (await asking).startswith(b"HTTP/1.1 200 OK\r\n")
                await closing
        assert runtime.worker(worker.worker_ref).transcript_len >= 1


@pytest.mark.usefixtures("quick")
async def test_an_answer_that_takes_longer_than_the_drain_is_given_up() -> None:
    backend = Held()
    async with Runtime(MemoryStore(), backend) as runtime:
        await runtime.create_worker()
        async with serving(runtime, {"drain_timeout_s": 0.1}) as served:
            asking = asyncio.ensure_future(ask(served.port, post_input(served.port)))
            await backend.asked.wait()
            async with asyncio.timeout(60):
                await served.server.close()
                assert await asking == b""


@pytest.mark.usefixtures("quick")
async def test_an_input_whose_sender_is_gone_is_stored_all_the_same() -> None:
    backend = Held()
    async with Runtime(MemoryStore(), backend) as runtime:
        worker = await runtime.create_worker()
        async with serving(runtime) as served:
            _, writer = await dial(served.port)
            writer.write(post_input(served.port))
            await backend.asked.wait()
            writer.close()
            await passed(served.port)
            backend.go_on.set()
            async with asyncio.timeout(60):
                while not runtime.worker(worker.worker_ref).transcript_len:
                    await asyncio.sleep(0)


@pytest.mark.usefixtures("quick")
def test_a_sender_that_resets_the_connection_before_its_answer_leaves_no_error_behind() -> None:
    failures: list[dict[str, object]] = []

    async def reset_amid_a_request() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        backend = Held()
        async with Runtime(MemoryStore(), backend) as runtime:
            worker = await runtime.create_worker()
            async with serving(runtime) as served:
                with socket.create_connection(("127.0.0.1", served.port)) as client:
                    client.sendall(post_input(served.port))
                    await backend.asked.wait()
                    client.sendall(last(served.port))  # for which the reading of this connection is paused
                    await passed(served.port)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                backend.go_on.set()
                async with asyncio.timeout(60):
                    while not runtime.worker(worker.worker_ref).transcript_len:
                        await asyncio.sleep(0)
                await passed(served.port)
        gc.collect()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(reset_amid_a_request())
    assert not failures


def post_input(port: int) -> bytes:
    return post(f"/v1/workers/{WORKER}/input", b'{"kind":"user","content":"hello"}')(port)


async def ask(port: int, data: bytes) -> bytes:
    reader, writer = await dial(port)
    try:
        writer.write(data)
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.usefixtures("quick")
async def test_a_backend_that_refuses_is_told_in_the_usual_words(both: Both) -> None:
    class Refusing(EchoBackend):
        async def dispatch(self, dispatch: Dispatch) -> BackendAnswer:
            return BackendAnswer("busy", "later")

    async with Runtime(MemoryStore(), Refusing()) as runtime:
        await runtime.create_worker()
        async with serving(runtime) as served:
            answer = await talk(served.port, post_input(served.port))
    assert answer.startswith(b"HTTP/1.1 409 Conflict\r\n")
    assert b'"worker_execution_rejected","message":"later"' in answer


async def test_a_request_that_was_let_in_before_is_not_let_in_once_the_guard_has_closed(runtime: Runtime) -> None:
    server = HttpServer(Api(runtime, token=TOKEN))
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    port = listener.getsockname()[1]
    await server.start([listener])
    reader, writer = await dial(port)
    try:
        statuses = []
        for _ in range(3):
            writer.write(get("/v1/runtime")(port))
            async with asyncio.timeout(60):
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", head)[0]))
            statuses.append(int(head.split()[1]))
            if len(statuses) == 2:
                server.api.guard.close()
    finally:
        writer.close()
        await server.close()

    assert statuses == [200, 200, 503]


async def test_a_body_that_is_whole_only_once_the_guard_has_closed_is_not_taken(runtime: Runtime) -> None:
    await runtime.create_worker(CreateWorkerRequest())
    async with serving(runtime) as served:
        whole = CASES["stop with a body"](served.port)
        reader, writer = await dial(served.port)
        writer.write(whole[:-5])
        await passed(served.port)

        served.server.api.guard.close()
        writer.write(whole[-5:])

        async with asyncio.timeout(60):
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        writer.close()


@pytest.mark.parametrize("admitted", [True, False], ids=["with the token", "without"])
async def test_empty_lines_leave_nothing_behind(both: Both, admitted: bool) -> None:
    reader, writer = await dial(both.ours)
    if admitted:
        writer.write(get("/v1/runtime")(both.ours))
        await reader.readuntil(b"}")
    size, piece = 2**21, b"\r\n" * 2**14
    tracemalloc.start()
    try:
        for _ in range(size // len(piece)):
            writer.write(piece)
            await writer.drain()
        writer.write(last(both.ours))
        async with asyncio.timeout(60):
            answer = await reader.read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert peak < size / 2
    writer.close()
