"""`GET /v1/workers/{worker_id}/wait`, with a backend that does what a test says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import pytest

from runtimed.core import Runtime
from runtimed.core.ports import EventSink
from runtimed.execution import FunctionBackend
from runtimed.feed import waits
from runtimed.model.identity import WorkerRef
from runtimed.model.interaction import WhenBusy, WorkerInput
from runtimed.model.permission import PermissionOption, Question
from runtimed.store.memory import MemoryStore
from tests.http.conftest import Served, serving

DEADLINE_S = 20
ALL = "idle,busy,stopped,permission,error"
OPTIONS = (PermissionOption("yes", "Allow", "allow_once"),)


@attrs.define(eq=False)
class Script:
    """A server, and a Worker whose runs do what their input says and end once `go_on` is set."""

    served: Served
    runtime: Runtime
    ref: WorkerRef
    go_on: asyncio.Event

    async def say(self, text: str, when_busy: WhenBusy = "reject") -> str:
        """Send an input, and return the cursor of its acknowledgement."""
        return (await self.runtime.send_input(self.ref, WorkerInput("user", text, when_busy))).cursor

    async def wait(self, wanted: str, cursor: str | None = None, timeout_s: int = DEADLINE_S) -> tuple[int, Any]:
        """The status of a wait, and what it answers or the code of its error."""
        query = {"for": wanted, "timeout_s": str(timeout_s), **({"cursor": cursor} if cursor else {})}
        url = f"{self.served.url}/v1/workers/{self.ref.worker_id}/wait"
        async with self.served.client.get(url, params=query) as response:
            body = await response.json()
        return response.status, body["wait"] if response.status == 200 else body["error"]["code"]

    async def matched(self, wanted: str, cursor: str | None = None) -> str:
        """The condition that a wait answers."""
        status, found = await self.wait(wanted, cursor)
        assert status == 200, found
        assert set(found) == {"matched", "cursor", "worker"}
        return str(found["matched"])

    async def begin(self, wanted: str, cursor: str | None = None) -> "asyncio.Task[str]":
        """A wait that the server has begun to serve."""
        before = len(self.waiting)
        task = asyncio.create_task(self.matched(wanted, cursor))
        await until(lambda: len(self.waiting) > before)
        return task

    @property
    def waiting(self) -> list[asyncio.Task[Any]]:
        """The tasks of waits in this process."""
        return [task for task in asyncio.all_tasks() if "Waits.wait" in repr(task.get_coro())]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    go_on = asyncio.Event()

    async def run(message: WorkerInput, sink: EventSink) -> None:
        if message.content == "ask":
            await sink.ask(Question("write", None, OPTIONS, 60.0))
        elif message.content == "fail":
            raise ValueError
        elif message.content != "quick":
            await go_on.wait()

    async with Runtime(MemoryStore(), FunctionBackend(run)) as runtime, serving(runtime) as served:
        yield Script(served, runtime, (await runtime.create_worker()).worker_ref, go_on)


async def test_the_present_state_counts_without_a_cursor(script: Script) -> None:
    assert await script.matched("busy,idle") == "idle"
    await script.say("long")
    assert await script.matched("busy,idle") == "busy"
    script.go_on.set()
    assert await script.matched("idle") == "idle"


async def test_a_wait_ends_as_soon_as_the_condition_comes(script: Script) -> None:
    await script.say("long")
    idle = await script.begin("idle")
    script.go_on.set()
    assert await idle == "idle"

    permission = await script.begin("permission,stopped")
    await script.say("ask")
    assert await permission == "permission"


async def test_a_state_that_has_passed_counts_from_the_cursor_on(script: Script) -> None:
    asked = await script.say("ask")
    await until(lambda: script.runtime.permissions(script.ref))
    [request] = script.runtime.permissions(script.ref)
    await script.runtime.answer_permission(script.ref, request.request_id, "yes")
    assert await script.matched("idle", asked) == "idle"

    assert await script.matched("permission", asked) == "permission"
    assert await script.matched("busy", asked) == "busy"
    assert await script.matched(ALL, asked) == "busy"
    assert (await script.wait("permission,error", timeout_s=1))[1] == "wait_timeout"


async def test_the_cursor_of_the_answer_is_that_of_the_event_after_which_the_condition_held(script: Script) -> None:
    acked = await script.say("quick")
    await script.matched("idle", acked)
    _, found = await script.wait("idle", acked)
    newest = script.runtime.worker(script.ref)

    assert acked < found["cursor"] <= newest.last_cursor
    assert found["worker"]["worker_id"] == script.ref.worker_id
    assert found["worker"]["execution"]["run_state"] == "idle"
    assert await script.matched("idle", found["cursor"]) == "idle"


async def test_a_worker_is_not_idle_between_queued_inputs(script: Script) -> None:
    first = await script.say("long")
    second = await script.say("quick", when_busy="queue")
    idle = await script.begin("idle", first)
    third = await script.say("quick", when_busy="queue")
    script.go_on.set()

    assert await idle == "idle"
    answers = [await script.wait("idle", cursor) for cursor in (first, second, third)]
    assert {found["cursor"] for _, found in answers} == {script.runtime.worker(script.ref).last_cursor}


async def test_a_run_that_failed_after_the_cursor_is_an_error_and_an_earlier_one_is_none(script: Script) -> None:
    failing = await script.say("fail")
    assert await script.matched("idle,error", failing) == "error"
    assert await script.matched("idle") == "idle"

    later = await script.say("quick")
    assert await script.matched("error,idle", later) == "idle"


@pytest.mark.parametrize("end", ["stop_worker", "cancel_worker"])
async def test_a_worker_that_is_over_is_stopped_and_nothing_else_can_come(script: Script, end: str) -> None:
    end_worker: Callable[[WorkerRef], Awaitable[object]] = getattr(script.runtime, end)
    stopped = await script.begin("stopped")
    await script.say("long")
    busy = await script.begin("permission")
    await end_worker(script.ref)

    assert await stopped == "stopped"
    with pytest.raises(AssertionError, match="wait_impossible"):
        await busy
    assert await script.wait("idle,busy,permission,error") == (409, "wait_impossible")
    assert await script.matched("idle,stopped") == "stopped"


async def test_a_wait_for_a_worker_that_is_deleted_ends(script: Script) -> None:
    other = Script(script.served, script.runtime, (await script.runtime.create_worker()).worker_ref, script.go_on)
    await other.runtime.stop_worker(other.ref)
    await other.runtime.delete_worker(other.ref)
    assert await other.wait("stopped") == (404, "worker_not_found")


async def test_a_wait_that_nothing_ends_times_out(script: Script) -> None:
    assert await script.wait("stopped", timeout_s=1) == (408, "wait_timeout")


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 400, "invalid_query"),
        ("?for=", 400, "invalid_query"),
        ("?for=idle,lazy", 400, "invalid_query"),
        ("?for=idle,", 400, "invalid_query"),
        ("?for=idle&timeout_s=0", 400, "invalid_query"),
        ("?for=idle&timeout_s=601", 400, "invalid_query"),
        ("?for=idle&until=over", 400, "invalid_query"),
        ("?for=idle&cursor=7", 400, "runtime.cursor_malformed"),
        ("?for=idle&cursor=wo_00000000000000ff", 410, "runtime.cursor_unknown_or_expired"),
    ],
)
async def test_a_wait_that_asks_for_what_is_not_there_is_refused(
    script: Script, query: str, status: int, code: str
) -> None:
    url = f"{script.served.url}/v1/workers/{script.ref.worker_id}/wait{query}"
    async with script.served.client.get(url) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (status, code)


async def test_waits_are_bounded_in_sum_and_a_client_that_leaves_frees_its_own(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "MAX_WAITS", 1)
    held = await script.begin("stopped")
    assert await script.wait("stopped", timeout_s=1) == (503, "unavailable")

    held.cancel()
    await asyncio.gather(held, return_exceptions=True)
    await until(lambda: not script.waiting)
    assert await script.matched("idle") == "idle"


async def test_a_wait_ends_when_the_runtime_does(script: Script) -> None:
    waiting = asyncio.create_task(script.wait("stopped"))
    await until(lambda: script.waiting)
    await script.served.server.close()
    assert await waiting == (503, "runtime.upstream_closed")
