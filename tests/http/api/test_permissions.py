"""Permissions over REST, asked for by a backend of the test's own."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from runtimed.core import EventSink, Runtime
from runtimed.execution import FunctionBackend
from runtimed.model.identity import WorkerRef
from runtimed.model.interaction import WorkerInput
from runtimed.model.permission import PermissionOption, Question, Ruling
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore
from tests.http.conftest import Served, serving

DEADLINE_S = 10
OPTIONS = (PermissionOption("yes", "Allow", "allow_once"), PermissionOption("no", "Reject", "reject_once"))


Asking = tuple[Served, str, list[Ruling]]


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    """A server, its Worker that asks for two permissions one after another, and the rulings that it got."""
    rulings: list[Ruling] = []

    async def ask(message: WorkerInput, sink: EventSink) -> None:
        for number in range(2):
            question = Question(f"{message.content} {number}", f"call-{number}", OPTIONS, 60.0)
            rulings.append(await sink.ask(question))

    async with Runtime(MemoryStore(), FunctionBackend(ask)) as runtime, serving(runtime) as served:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, WorkerInput("user", "write"))
        yield served, f"{served.url}/v1/workers/{worker.worker_id}", rulings


async def waiting(served: Served, url: str, title: str) -> dict[str, Any]:
    """The request with this title, once it waits."""
    async with asyncio.timeout(10):
        while True:
            async with served.client.get(f"{url}/permissions") as response:
                assert response.status == 200
                found: list[dict[str, Any]] = (await response.json())["permissions"]
            if found and found[0]["title"] == title:
                return found[0]
            await asyncio.sleep(0.01)


async def answer(served: Served, url: str, request_id: str, body: Any) -> tuple[int, Any]:
    async with served.client.post(f"{url}/permissions/{request_id}", json=body) as response:
        return response.status, await response.json()


async def test_a_request_is_listed_and_answered_and_the_next_one_comes(
    asking: Asking,
) -> None:
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
    expected = {"request_id": first["request_id"], "outcome": "selected", "by": "token:default", "option_id": "yes"}
    assert (status, body) == (200, {"permission": expected})
    second = await waiting(served, url, "write 1")
    status, body = await answer(served, url, second["request_id"], {"outcome": "cancelled"})
    expected = {"request_id": second["request_id"], "outcome": "cancelled", "by": "token:default"}
    assert (status, body) == (200, {"permission": expected})
    assert rulings[0] == Ruling("selected", "yes")


async def test_a_request_that_was_answered_is_not_found_any_more(asking: Asking) -> None:
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
        ({"content": {}, "outcome": "cancelled"}, "invalid_request", "expected either option_id"),
        ({"content": {"a": 1}}, "invalid_request", "content: expected only with"),
        ({"content": []}, "invalid_json", "content: expected an object"),
        ({"option_id": "no", "reason": 7}, "invalid_json", "reason: expected a string"),
    ],
)
async def test_an_answer_that_is_none_is_refused_and_the_request_goes_on_waiting(
    asking: Asking, body: dict[str, Any], code: str, message: str
) -> None:
    served, url, _ = asking
    first = await waiting(served, url, "write 0")
    status, found = await answer(served, url, first["request_id"], body)
    assert (status, found["error"]["code"]) == (400, code)
    assert found["error"]["message"].startswith(message)
    assert await waiting(served, url, "write 0") == first


async def test_a_form_is_shown_with_its_schema_and_filled_with_a_content_and_a_denial_may_have_a_reason() -> None:
    schema = {"properties": {"branch": {"type": "string"}}, "required": ["branch"]}
    rulings: list[Ruling] = []

    async def ask(message: WorkerInput, sink: EventSink) -> None:
        question = Question("Which?", None, OPTIONS, 60.0, tool_kind="elicitation", schema=schema)
        rulings.extend([await sink.ask(question), await sink.ask(Question("Edit x", None, OPTIONS, 60.0))])

    async with Runtime(MemoryStore(), FunctionBackend(ask)) as runtime, serving(runtime) as served:
        ref = (await runtime.create_worker()).worker_ref
        url = f"{served.url}/v1/workers/{ref.worker_id}"
        await runtime.send_input(ref, WorkerInput("user", "go"))
        form = await waiting(served, url, "Which?")
        refused = await answer(served, url, form["request_id"], {"content": {"branch": 7}})
        filled = await answer(served, url, form["request_id"], {"content": {"branch": "main"}})
        edit = await waiting(served, url, "Edit x")
        denied = await answer(served, url, edit["request_id"], {"option_id": "no", "reason": "not on a Friday"})

    assert (form["tool_kind"], form["schema"]) == ("elicitation", schema)
    assert refused[0] == 400
    assert refused[1]["error"]["message"] == "content.branch: expected a string"
    assert (filled[0], filled[1]["permission"]["option_id"]) == (200, "yes")
    assert denied[1]["permission"]["reason"] == "not on a Friday"
    assert rulings == [
        Ruling("selected", "yes", content={"branch": "main"}),
        Ruling("selected", "no", "not on a Friday"),
    ]


async def test_requests_of_a_worker_that_is_not_there_are_not_found(asking: Asking) -> None:
    served, _, _ = asking
    url = f"{served.url}/v1/workers/worker-000000ff"
    async with served.client.get(f"{url}/permissions") as response:
        assert response.status == 404
    assert (await answer(served, url, "0", {"option_id": "yes"}))[0] == 404


async def ask_for_ever(message: WorkerInput, sink: EventSink) -> None:
    await sink.ask(Question(message.content, None, OPTIONS, 60.0))


async def asking_worker(runtime: Runtime, title: str) -> WorkerRef:
    """A Worker with one request that waits."""
    ref = (await runtime.create_worker()).worker_ref
    await runtime.send_input(ref, WorkerInput("user", title))
    async with asyncio.timeout(DEADLINE_S):
        while not runtime.permissions(ref):
            await asyncio.sleep(0.01)
    return ref


async def permissions_at(served: Served, path: str) -> tuple[int, Any]:
    async with served.client.get(f"{served.url}{path}") as response:
        return response.status, (await response.json()).get("permissions")


async def test_the_requests_of_all_workers_are_one_list_and_name_their_worker() -> None:
    async with Runtime(MemoryStore(), FunctionBackend(ask_for_ever)) as runtime, serving(runtime) as served:
        assert await permissions_at(served, "/v1/permissions") == (200, [])
        first, idle, second = [
            await asking_worker(runtime, "one"),
            (await runtime.create_worker()).worker_ref,
            await asking_worker(runtime, "two"),
        ]

        status, found = await permissions_at(served, "/v1/permissions")

        own = []
        for ref in (first, idle, second):
            _, requests = await permissions_at(served, f"/v1/workers/{ref.worker_id}/permissions")
            own += [{"worker_id": ref.worker_id, **request} for request in requests]
        assert (status, found) == (200, own)
        assert [one["title"] for one in found] == ["one", "two"]


async def test_a_damaged_worker_keeps_nobody_from_the_requests_of_the_others(tmp_path: Path) -> None:
    async with Runtime(SqliteStore(tmp_path / "store"), FunctionBackend(ask_for_ever)) as runtime:
        damaged = await asking_worker(runtime, "asked before the crash")
        await asyncio.to_thread(shutil.copytree, tmp_path / "store", tmp_path / "copy")
    connection = apsw.Connection(str(tmp_path / "copy" / "runtime.sqlite3"))
    connection.execute("DELETE FROM entry")
    connection.close()

    async with (
        Runtime(SqliteStore(tmp_path / "copy"), FunctionBackend(ask_for_ever)) as again,
        serving(again) as served,
    ):
        await asking_worker(again, "sound")
        status, found = await permissions_at(served, "/v1/permissions")
        assert (await permissions_at(served, f"/v1/workers/{damaged.worker_id}/permissions"))[0] == 500

    assert (status, [one["title"] for one in found]) == (200, ["sound"])
