"""`Idempotency-Key`: what is repeated runs once. Each test runs on both ways through the server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from runtimed.core import BackendAnswer, EventSink, Runtime, Spawn
from runtimed.core.limits import Limits
from runtimed.core.ports import Store
from runtimed.core.state.idempotency_log import KEPT_MS
from runtimed.execution import FunctionBackend
from runtimed.model.idempotency import IdempotencyKey
from runtimed.model.interaction import WorkerInput
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore
from tests.http.conftest import Served, serving

DEADLINE_S = 20
JSON = {"Content-Type": "application/json"}
WORKERS = "/v1/workers"

Answer = tuple[int, Any]


class Backend(FunctionBackend):
    """Runs end once `go_on` is set. A spawn waits for `may_spawn`, and is answered with `spawned`."""

    def __init__(self) -> None:
        super().__init__(self._do)
        self.go_on = asyncio.Event()
        self.may_spawn = asyncio.Event()
        self.may_spawn.set()
        self.spawned = BackendAnswer("accepted")
        self.given: list[WorkerInput] = []

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        await self.may_spawn.wait()
        if self.spawned.outcome != "accepted":
            return self.spawned
        await super().spawn(spawn, sink)
        return self.spawned

    async def _do(self, message: WorkerInput, _sink: EventSink) -> None:
        self.given.append(message)
        await self.go_on.wait()


class Clock:
    """A clock that a test puts forward."""

    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def unix_ms(self) -> int:
        return self.now_ms


@attrs.define(eq=False)
class Client:
    """A served Runtime, and how a test talks to it."""

    served: Served
    backend: Backend

    async def post(self, path: str, body: Any, key: str | None = None, **headers: str) -> Answer:
        """The status of a request, and its whole answer, or the code of its error."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {**JSON, **headers, **({"Idempotency-Key": key} if key is not None else {})}
        async with self.served.client.post(f"{self.served.url}{path}", data=data, headers=sent) as response:
            answer = await response.json()
        return response.status, answer if response.status == 200 else answer["error"]["code"]

    async def create(self, body: Any = None, key: str | None = None) -> Any:
        status, answer = await self.post(WORKERS, body or {}, key)
        assert status == 200, answer
        return answer["worker"]

    async def entries(self, worker_id: str) -> list[str]:
        async with self.served.client.get(f"{self.served.url}{WORKERS}/{worker_id}/transcript") as response:
            return [item["content"] for item in (await response.json())["transcript"]["items"]]

    async def finish(self, worker_id: str) -> None:
        """Let the current run end."""
        self.backend.go_on.set()
        ref = self.served.runtime.ref(worker_id)
        await until(lambda: self.served.runtime.worker(ref).execution.run_state == "idle")
        self.backend.go_on.clear()


@asynccontextmanager
async def clients(store: Store, quick: bool, **options: Any) -> AsyncIterator[Client]:
    backend = Backend()
    async with (
        Runtime(store, backend, **options) as runtime,
        serving(runtime, {"quick_requests": quick}) as served,
    ):
        yield Client(served, backend)


@pytest.fixture
async def client(quick: bool) -> AsyncIterator[Client]:
    async with clients(MemoryStore(), quick) as found:
        yield found


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"kind": "user", "content": text, **more}


def path_of(worker: Any) -> str:
    return f"{WORKERS}/{worker['worker_id']}/input"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_repeated_input_is_given_once_and_answered_as_the_first(client: Client) -> None:
    worker = await client.create()
    first = await client.post(path_of(worker), said("once"), "key-1")
    again = await client.post(path_of(worker), said("once"), "key-1")
    await client.finish(worker["worker_id"])
    later = await client.post(path_of(worker), said("once"), "key-1")

    assert first[0] == 200
    assert first == again == later
    assert await client.entries(worker["worker_id"]) == ["once"]
    assert [message.content for message in client.backend.given] == ["once"]


async def test_a_repeated_queued_input_is_queued_once(client: Client) -> None:
    worker = await client.create()
    await client.post(path_of(worker), said("long"))
    first = await client.post(path_of(worker), said("next", when_busy="queue"), "key-1")
    again = await client.post(path_of(worker), said("next", when_busy="queue"), "key-1")

    assert first == again
    assert first[1]["ack"]["queued"] is True
    assert await client.entries(worker["worker_id"]) == ["long", "next"]


async def test_a_repeated_create_makes_one_worker_and_shows_it_as_it_is_now(client: Client) -> None:
    worker = await client.create({"name": "one"}, "key-1")
    await client.post(path_of(worker), said("hello"))
    again = await client.create({"name": "one"}, "key-1")

    assert again["worker_id"] == worker["worker_id"]
    assert (worker["transcript_len"], again["transcript_len"]) == (0, 1)
    assert len(client.served.runtime.workers()) == 1


async def test_a_repeat_after_an_upgrade_finds_the_key_that_version_0_1_stored(client: Client) -> None:
    key = IdempotencyKey.of("admin", "POST", WORKERS, "key-1", body=b"{}")
    made = await client.served.runtime.create_worker(key=key)

    again = await client.create({}, "key-1")

    assert again["worker_id"] == made.worker_id
    assert len(client.served.runtime.workers()) == 1


async def test_another_body_with_the_same_key_is_a_conflict_whatever_differs(client: Client) -> None:
    worker = await client.create({}, "key-1")
    await client.post(path_of(worker), said("once"), "key-1")

    spaced = json.dumps(said("once")).replace(":", ": ").encode()
    assert await client.post(path_of(worker), said("twice"), "key-1") == (409, "idempotency_conflict")
    assert await client.post(path_of(worker), spaced + b" ", "key-1") == (409, "idempotency_conflict")
    assert await client.post(WORKERS, {"name": "other"}, "key-1") == (409, "idempotency_conflict")
    assert await client.entries(worker["worker_id"]) == ["once"]


async def test_a_key_belongs_to_its_path(client: Client) -> None:
    one, two = await client.create(), await client.create()
    first = await client.post(path_of(one), said("same"), "key-1")
    second = await client.post(path_of(two), said("same"), "key-1")

    assert (first[0], second[0]) == (200, 200)
    assert first[1]["ack"]["worker_ref"] != second[1]["ack"]["worker_ref"]


async def test_a_request_that_was_refused_leaves_no_key(client: Client) -> None:
    worker = await client.create()
    await client.post(path_of(worker), said("long"))
    assert await client.post(path_of(worker), said("later"), "key-1") == (409, "worker_execution_rejected")
    assert await client.post(WORKERS, {"name": " "}, "key-2") == (400, "invalid_request")

    await client.finish(worker["worker_id"])
    assert (await client.post(path_of(worker), said("another"), "key-1"))[0] == 200
    assert (await client.post(WORKERS, {"name": "good"}, "key-2"))[0] == 200


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "ümlaut"])
async def test_a_malformed_key_is_refused_and_named(client: Client, key: str) -> None:
    worker = await client.create()
    for path in (WORKERS, path_of(worker)):
        async with client.served.client.post(
            f"{client.served.url}{path}", data=b"{}", headers={**JSON, "Idempotency-Key": key}
        ) as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (400, "invalid_request")
            assert error["message"].startswith("Idempotency-Key: expected")


async def test_two_keys_are_none(client: Client) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "a"), *JSON.items()]
    async with client.served.client.post(f"{client.served.url}{WORKERS}", data=b"{}", headers=headers) as response:
        assert response.status == 400
    assert client.served.runtime.workers() == ()


async def test_a_repeat_waits_for_the_first_and_gets_its_answer(client: Client) -> None:
    client.backend.may_spawn.clear()
    first, again = (asyncio.create_task(client.create({}, "key-1")) for _ in range(2))
    await until(client.served.runtime.workers)
    other = await client.post(WORKERS, {"name": "other"}, "key-1")
    assert other == (409, "idempotency_conflict")
    assert [task.done() for task in (first, again)] == [False, False]

    client.backend.may_spawn.set()
    assert await first == await again
    assert len(client.served.runtime.workers()) == 1


async def test_a_repeat_of_a_create_whose_worker_is_deleted_makes_no_other(client: Client) -> None:
    worker = await client.create({}, "key-1")
    ref = client.served.runtime.ref(worker["worker_id"])
    await client.served.runtime.stop_worker(ref)
    await client.served.runtime.delete_worker(ref)

    assert await client.post(WORKERS, {}, "key-1") == (404, "worker_not_found")


async def test_a_large_body_is_compared_as_a_whole(client: Client) -> None:
    worker, text = await client.create(), "x" * 200_000
    first = await client.post(path_of(worker), said(text), "key-1")
    assert await client.post(path_of(worker), said(text), "key-1") == first
    assert await client.post(path_of(worker), said(text + "y"), "key-1") == (409, "idempotency_conflict")


async def test_a_restart_keeps_keys_for_a_day_and_in_bounds(tmp_path: Path, quick: bool) -> None:
    clock, few = Clock(), Limits(max_idempotency_keys=2)
    async with clients(SqliteStore(tmp_path / "store"), quick, clock=clock) as before:
        worker = await before.create({}, "made")
        acks = []
        for number in range(2):
            acks.append(await before.post(path_of(worker), said(f"{number}"), f"input-{number}"))
            await before.finish(worker["worker_id"])

    async with clients(SqliteStore(tmp_path / "store"), quick, clock=clock, limits=few) as after:
        for number in range(2):
            assert await after.post(path_of(worker), said(f"{number}"), f"input-{number}") == acks[number]
        assert (await after.create({}, "made"))["worker_id"] != worker["worker_id"]
        assert await after.post(path_of(worker), said("1"), "input-1") == acks[1]
        assert await after.entries(worker["worker_id"]) == ["0", "1"]

        clock.now_ms += KEPT_MS
        assert (await after.post(path_of(worker), said("1"), "input-1"))[0] == 200
        assert await after.entries(worker["worker_id"]) == ["0", "1", "1"]


async def test_the_initial_input_is_given_once_the_worker_is_spawned(client: Client) -> None:
    request = {"name": "one", "initial_input": said("begin")}
    worker = await client.create(request, "key-1")
    again = await client.create(request, "key-1")

    assert (worker["transcript_len"], worker["execution"]["run_state"]) == (1, "busy")
    assert "initial_input" not in worker
    assert again["worker_id"] == worker["worker_id"]
    await client.finish(worker["worker_id"])
    assert (await client.create(request, "key-1"))["execution"]["run_state"] == "idle"
    assert await client.entries(worker["worker_id"]) == ["begin"]
    assert [message.content for message in client.backend.given] == ["begin"]


async def test_the_initial_input_needs_no_key(client: Client) -> None:
    worker = await client.create({"initial_input": said("begin")})
    assert await client.entries(worker["worker_id"]) == ["begin"]


async def test_the_initial_input_may_be_a_control_that_is_no_white_space(client: Client) -> None:
    worker = await client.create({"initial_input": said("\x1f")})

    assert await client.entries(worker["worker_id"]) == ["\x1f"]


async def test_the_initial_input_is_refused_with_the_spawn(client: Client) -> None:
    client.backend.spawned = BackendAnswer("rejected", "not today")
    request = {"initial_input": said("begin")}
    worker = await client.create(request, "key-1")
    client.backend.spawned = BackendAnswer("accepted")
    again = await client.create(request, "key-1")

    for found in (worker, again):
        assert found["transcript_len"] == 0
        assert found["execution"]["last_result"]["operation"] == "spawn"
        assert found["execution"]["run_state"] == "rejected"


async def test_an_initial_input_that_the_backend_refuses_shows_in_the_execution(client: Client) -> None:
    image = {"kind": "image", "mime_type": "image/png", "data": "aGVsbG8="}
    worker = await client.create({"initial_input": said("look", attachments=[image])}, "key-1")

    result = worker["execution"]["last_result"]
    assert (result["operation"], result["outcome"]) == ("input", "rejected")
    assert result["message"].startswith("attachments[0]: this Worker takes no image")
    assert worker["execution"]["run_state"] == "idle"
    assert client.backend.given == []


@pytest.mark.parametrize(
    ("initial", "code"),
    [
        (said("  "), "invalid_request"),
        (said("x", attachments=[{"kind": "image", "mime_type": "png", "data": "aGVsbG8="}]), "invalid_request"),
        ({"kind": "user"}, "invalid_json"),
    ],
)
async def test_a_malformed_initial_input_creates_nothing(client: Client, initial: Any, code: str) -> None:
    assert await client.post(WORKERS, {"initial_input": initial}) == (400, code)
    assert client.served.runtime.workers() == ()


async def test_a_crash_between_a_create_and_its_initial_input_is_mended_by_the_repeat(
    tmp_path: Path, quick: bool
) -> None:
    request = {"initial_input": said("begin")}
    async with clients(SqliteStore(tmp_path / "store"), quick) as before:
        before.backend.may_spawn.clear()
        cut = asyncio.create_task(before.create(request, "key-1"))
        await until(before.served.runtime.workers)
        await asyncio.to_thread(_copy, tmp_path / "store", tmp_path / "crashed")
        before.backend.may_spawn.set()
        await cut

    async with clients(SqliteStore(tmp_path / "crashed"), quick) as after:
        worker, again = [await after.create(request, "key-1") for _ in range(2)]
        assert worker["worker_id"] == again["worker_id"] == "worker-00000001"
        assert await after.entries(worker["worker_id"]) == ["begin"]
        assert [message.content for message in after.backend.given] == ["begin"]


def _copy(store: Path, to: Path) -> None:
    """What a kill would leave."""
    to.mkdir(mode=0o700)
    for file in store.iterdir():
        if file.is_file() and not file.name.endswith("-shm"):
            (to / file.name).write_bytes(file.read_bytes())
            (to / file.name).chmod(0o600)
