"""Permissions over REST, asked for by a backend of the test's own."""

import asyncio

import pytest

from runtimed.core import Runtime
from runtimed.execution import FunctionBackend
from runtimed.model.interaction import WorkerInput
from runtimed.model.permission import PermissionOption, Question, Ruling
from runtimed.store.memory import MemoryStore
from tests.http.conftest import serving

OPTIONS = (PermissionOption("yes", "Allow", "allow_once"), PermissionOption("no", "Reject", "reject_once"))


@pytest.fixture
async def asking():
    """A server, its Worker that asks for two permissions one after another, and the rulings that it got."""
    rulings: list[Ruling] = []

    async def ask(message, sink):
        for number in range(2):
            question = Question(f"{message.content} {number}", f"call-{number}", OPTIONS, 60.0)
            rulings.append(await sink.ask(question))

    async with Runtime(MemoryStore(), FunctionBackend(ask)) as runtime, serving(runtime) as served:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, WorkerInput("user", "write"))
        yield served, f"{served.url}/v1/workers/{worker.worker_id}", rulings


async def waiting(served, url, title):
    """The request with this title, once it waits."""
    async with asyncio.timeout(10):
        while True:
            async with served.client.get(f"{url}/permissions") as response:
                assert response.status == 200
                found = (await response.json())["permissions"]
            if found and found[0]["title"] == title:
                return found[0]
            await asyncio.sleep(0.01)


async def answer(served, url, request_id, body):
    async with served.client.post(f"{url}/permissions/{request_id}", json=body) as response:
        return response.status, await response.json()


async def test_a_request_is_listed_and_answered_and_the_next_one_comes(asking):
    served, url, rulings = asking
    first = await waiting(served, url, "write 0")
    assert first == {
        "request_id": first["request_id"],
        "title": "write 0",
        "tool_call_id": "call-0",
        "options": [
            {"option_id": "yes", "name": "Allow", "kind": "allow_once"},
            {"option_id": "no", "name": "Reject", "kind": "reject_once"},
        ],
        "expires_at": first["expires_at"],
    }
    status, body = await answer(served, url, first["request_id"], {"option_id": "yes"})
    expected = {"request_id": first["request_id"], "outcome": "selected", "by": "client", "option_id": "yes"}
    assert (status, body) == (200, {"permission": expected})
    second = await waiting(served, url, "write 1")
    status, body = await answer(served, url, second["request_id"], {"outcome": "cancelled"})
    expected = {"request_id": second["request_id"], "outcome": "cancelled", "by": "client"}
    assert (status, body) == (200, {"permission": expected})
    assert rulings[0] == Ruling("selected", "yes")


async def test_a_request_that_was_answered_is_not_found_any_more(asking):
    served, url, _ = asking
    first = await waiting(served, url, "write 0")
    await answer(served, url, first["request_id"], {"option_id": "yes"})
    status, body = await answer(served, url, first["request_id"], {"option_id": "no"})
    assert (status, body["error"]["code"]) == (404, "permission_not_found")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"option_id": "maybe"}, "invalid_request", "option_id: expected one of yes, no"),
        ({}, "invalid_request", 'expected either option_id, or the outcome "cancelled"'),
        (
            {"option_id": "yes", "outcome": "cancelled"},
            "invalid_request",
            'expected either option_id, or the outcome "cancelled"',
        ),
        ({"outcome": "selected"}, "invalid_json", "outcome: "),
        ({"option": "yes"}, "invalid_json", "option: unknown field"),
    ],
)
async def test_an_answer_that_is_none_is_refused_and_the_request_goes_on_waiting(asking, body, code, message):
    served, url, _ = asking
    first = await waiting(served, url, "write 0")
    status, found = await answer(served, url, first["request_id"], body)
    assert (status, found["error"]["code"]) == (400, code)
    assert found["error"]["message"].startswith(message)
    assert await waiting(served, url, "write 0") == first


async def test_requests_of_a_worker_that_is_not_there_are_not_found(asking):
    served, _, _ = asking
    url = f"{served.url}/v1/workers/worker-000000ff"
    async with served.client.get(f"{url}/permissions") as response:
        assert response.status == 404
    assert (await answer(served, url, "0", {"option_id": "yes"}))[0] == 404
