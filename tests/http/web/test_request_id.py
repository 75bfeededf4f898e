"""The id of a request: in every response, and in every log line of the request."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator

import aiohttp
import pytest

from runtimed.core import Runtime
from runtimed.http import Api
from runtimed.logs import JsonFormatter, add_request_id
from tests.http.conftest import BEARER, TOKEN, OwnServer, Served

DEADLINE_S = 60
MADE = re.compile(r"[0-9a-f]{12}-[0-9]+")
JSON = {"Content-Type": "application/json"}

pytestmark = pytest.mark.usefixtures("quick")

ANSWERED: list[tuple[str, str, dict[str, str], bytes | None, int]] = [
    ("GET", "/v1/runtime", {}, None, 200),
    ("HEAD", "/v1/runtime", {}, None, 200),
    ("GET", "/livez", {}, None, 200),
    ("GET", "/openapi.json", {}, None, 200),
    ("GET", "/v1/events", {}, None, 200),
    ("GET", "/v1/events", {"Accept": "text/event-stream"}, None, 200),
    ("GET", "/v1/runtime?no=1", {}, None, 400),
    ("POST", "/v1/workers", JSON, b"{", 400),
    ("POST", "/v1/workers", JSON, b'{"intent":{"kind":"task","objective":" "}}', 400),
    ("GET", "/v1/runtime", {"Authorization": "Bearer wrong"}, None, 401),
    ("GET", "/v1/runtime", {"Origin": "http://localhost"}, None, 403),
    ("GET", "/v1/workers/worker-9", {}, None, 404),
    ("GET", "/nothing", {}, None, 404),
    ("PATCH", "/v1/runtime", {}, None, 405),
    ("POST", "/v1/workers", {"Content-Type": "text/plain"}, b"{}", 415),
    ("GET", "/v1/runtime", {"Host": "elsewhere.example"}, None, 421),
    ("GET", "/v1/runtime", {"X-Long": "x" * 9_000}, None, 431),
]


@pytest.mark.parametrize(("method", "path", "headers", "body", "status"), ANSWERED)
async def test_every_response_has_the_id_that_the_client_gave_or_a_new_one(
    served: Served, method: str, path: str, headers: dict[str, str], body: bytes | None, status: int
) -> None:
    found = []
    for given in ({}, {}, {"X-Request-Id": "deploy/7"}, {}):
        url = f"{served.url}{path}"
        async with served.client.request(method, url, headers={**headers, **given}, data=body) as answer:
            assert answer.status == status
            found.append(answer.headers.getall("X-Request-Id"))

    made = [ids[0] for ids in (*found[:2], found[3])]
    assert all(MADE.fullmatch(one) for one in made)
    assert len({*made}) == 3
    assert found[2] == ["deploy/7"] or status == 431  # what was in a head that is refused is not read


async def test_a_handshake_is_answered_with_the_id(served: Served) -> None:
    url = f"{served.url}/v1/events/ws"
    async with served.client.ws_connect(url, headers={"X-Request-Id": "watch"}) as socket:
        assert socket._response.headers["X-Request-Id"] == "watch"
    async with served.client.get(url, headers={"X-Request-Id": "no-handshake"}) as answer:
        assert (answer.status, answer.headers["X-Request-Id"]) == (400, "no-handshake")


@pytest.mark.parametrize(
    "given", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"GET / HTTP/3.0\r\n\r\n"]
)
async def test_what_is_no_http_is_answered_with_an_id(served: Served, given: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(given)
    async with asyncio.timeout(DEADLINE_S):
        answer = await reader.read()
    writer.close()

    [found] = re.findall(rb"X-Request-Id: (.*)\r\n", answer)
    assert MADE.fullmatch(found.decode())


@pytest.mark.parametrize("given", ["", "two words", "x" * 65, "café", "\t"])
async def test_an_id_that_is_not_1_to_64_visible_characters_is_replaced(served: Served, given: str) -> None:
    async with served.client.get(f"{served.url}/v1/runtime", headers={"X-Request-Id": given}) as answer:
        assert MADE.fullmatch(answer.headers["X-Request-Id"])


async def test_the_longest_id_is_kept_and_of_two_none(served: Served) -> None:
    async with served.client.get(f"{served.url}/v1/runtime", headers={"X-Request-Id": "x" * 64}) as answer:
        assert answer.headers["X-Request-Id"] == "x" * 64
    twice = [("X-Request-Id", "a"), ("X-Request-Id", "b")]
    async with served.client.get(f"{served.url}/v1/runtime", headers=twice) as answer:
        assert MADE.fullmatch(answer.headers["X-Request-Id"])


async def test_the_id_does_not_change_the_body_of_a_problem(served: Served) -> None:
    async with served.client.get(f"{served.url}/nothing", headers={"X-Request-Id": "mine"}) as answer:
        body = await answer.json()

    assert body.keys() == {"error"}
    assert body["error"].keys() == {"code", "message"}


@pytest.fixture
def logged() -> Iterator[list[dict[str, object]]]:
    """The records of the log as they are written in JSON, those of debug level included."""
    records: list[dict[str, object]] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(json.loads(JsonFormatter().format(record)))

    recorder, root = Recorder(), logging.getLogger("runtimed")
    recorder.addFilter(add_request_id)
    before = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(recorder)
    yield records
    root.removeHandler(recorder)
    root.setLevel(before)


async def test_the_log_lines_of_a_command_carry_the_id_of_its_request_and_of_no_other(
    served: Served, logged: list[dict[str, object]]
) -> None:
    async def create(number: int) -> None:
        headers = {"X-Request-Id": f"create-{number}"}
        async with served.client.post(f"{served.url}/v1/workers", json={}, headers=headers) as answer:
            assert answer.status == 200

    await asyncio.gather(*map(create, range(5)))

    commands = [line for line in logged if line["message"] == "command"]
    assert sorted(str(line["request_id"]) for line in commands) == [f"create-{number}" for number in range(5)]


async def test_an_observer_is_logged_with_the_id_of_its_handshake(
    served: Served, logged: list[dict[str, object]]
) -> None:
    async with served.client.post(f"{served.url}/v1/workers", json={}) as answer:
        worker_id = (await answer.json())["worker"]["worker_id"]
    headers = {"Accept": "text/event-stream", "X-Request-Id": "watch"}
    async with served.client.get(f"{served.url}/v1/events", headers=headers) as answer:
        await answer.content.readline()
    async with asyncio.timeout(DEADLINE_S):
        while not any(line["message"] == "an observer has disconnected" for line in logged):
            message = {"kind": "user", "content": "hello"}
            async with served.client.post(f"{served.url}/v1/workers/{worker_id}/input", json=message) as answer:
                assert answer.status in {200, 409}

    [line] = [line for line in logged if line["message"] == "an observer has disconnected"]
    assert line["request_id"] == "watch"


async def test_two_daemons_never_make_the_same_id(runtime: Runtime) -> None:
    found = set()
    for _ in range(2):
        async with OwnServer(Api(runtime, token=TOKEN)) as server, aiohttp.ClientSession(headers=BEARER) as client:
            for _ in range(3):
                async with client.get(server.make_url("/v1/runtime")) as answer:
                    found.add(answer.headers["X-Request-Id"])

    assert len(found) == 6
