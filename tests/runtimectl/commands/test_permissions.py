"""`runtimectl permissions`, against a Runtime whose Workers request permissions."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from runtimed.core import EventSink, Runtime
from runtimed.execution import FunctionBackend
from runtimed.model.interaction import WorkerInput
from runtimed.model.permission import PermissionOption, Question, Ruling
from runtimed.model.worker import WorkerDetail
from runtimed.store.memory import MemoryStore
from tests.http.conftest import TOKEN, serving
from tests.runtimectl.conftest import Ctl, ServeRaw

OPTIONS = (
    PermissionOption("yes", "Allow", "allow_once"),
    PermissionOption("always", "Always", "allow_always"),
    PermissionOption("no", "Reject", "reject_once"),
    PermissionOption("never", "Reject this too", "reject_once"),
)


class Asking:
    """A Runtime whose Workers request permissions, and `runtimectl` to answer."""

    runtime: Runtime
    url: str

    def __init__(self) -> None:
        self.rulings: list[Ruling] = []
        self.ruled: str | None = None
        self.timeout_s = 60.0
        self.schema: dict[str, Any] | None = None

    async def ask(self, message: WorkerInput, sink: EventSink) -> None:
        question = Question(message.content, None, OPTIONS, self.timeout_s, self.ruled, schema=self.schema)
        self.rulings.append(await sink.ask(question))

    async def worker(self) -> WorkerDetail:
        """Return a Worker that waits for an answer."""
        worker = await self.runtime.create_worker()
        await self.runtime.send_input(worker.worker_ref, WorkerInput("user", "write a file"))
        await self.asked(worker)
        return worker

    async def asked(self, worker: WorkerDetail) -> str:
        """Return the id of a Worker's request, once it is open."""
        async with asyncio.timeout(60):
            while not self.runtime.permissions(worker.worker_ref):
                await asyncio.sleep(0.01)
        return self.request(worker)

    def request(self, worker: WorkerDetail) -> str:
        (permission,) = self.runtime.permissions(worker.worker_ref)
        return permission.request_id

    async def start(self, *args: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "runtimectl", "--url", self.url, *args),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def ctl(self, *args: str) -> tuple[int | None, str, str]:
        process = await self.start(*args)
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def asking(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asking]:
    monkeypatch.setenv("RUNTIMECTL_TOKEN", TOKEN)
    made = Asking()
    async with Runtime(MemoryStore(), FunctionBackend(made.ask)) as runtime, serving(runtime) as served:
        made.runtime, made.url = runtime, served.url
        yield made


async def test_the_requests_of_one_worker_or_of_all_are_listed(asking: Asking) -> None:
    first, second = await asking.worker(), await asking.worker()
    code, out, _ = await asking.ctl("permissions", "list")
    heading, *rows = out.splitlines()
    assert code == 0
    assert heading.split() == ["WORKER", "REQUEST", "TITLE", "OPTIONS", "EXPIRES"]
    assert [row.split()[:2] for row in rows] == [[one.worker_id, asking.request(one)] for one in (first, second)]
    assert "yes (allow_once), always (allow_always)" in rows[0]
    code, out, _ = await asking.ctl("permissions", "list", second.worker_id, "-o", "json")
    (found,) = json.loads(out)["permissions"]
    assert (found["worker_id"], found["request_id"]) == (second.worker_id, asking.request(second))


def test_the_requests_of_all_workers_take_one_request(ctl: Ctl, serve_raw: ServeRaw) -> None:
    asked: list[bytes] = []
    waiting = {"worker_id": "worker-00000002", "request_id": "3f0a91c2", "title": "write", "options": []}

    def handle(connection: socket.socket) -> None:
        asked.append(connection.recv(4096).split()[1])
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps({"permissions": [waiting]}).encode())

    found = ctl("permissions", "list", "-o", "json", "--url", serve_raw(handle))

    assert (found.returncode, json.loads(found.stdout)) == (0, {"permissions": [waiting]})
    assert asked == [b"/v1/permissions"]


@pytest.mark.parametrize(
    ("option", "outcome", "option_id"),
    [("yes", "selected", "yes"), ("allow_always", "selected", "always"), ("cancel", "cancelled", None)],
)
async def test_a_request_is_answered_by_its_prefix_and_an_option_a_kind_or_cancel(
    asking: Asking, option: str, outcome: str, option_id: str | None
) -> None:
    worker = await asking.worker()
    request = asking.request(worker)
    code, out, _ = await asking.ctl("permissions", "answer", worker.worker_id, request[:3], option, "-o", "json")
    assert code == 0
    answered = json.loads(out)["permission"]
    assert (answered["request_id"], answered["outcome"], answered.get("option_id")) == (request, outcome, option_id)
    async with asyncio.timeout(60):
        while not asking.rulings:
            await asyncio.sleep(0.01)
    assert (asking.rulings[0].outcome, asking.rulings[0].option_id) == (outcome, option_id)


async def test_an_unknown_option_or_an_ambiguous_kind_is_a_usage_error(asking: Asking) -> None:
    worker = await asking.worker()
    answer = ("permissions", "answer", worker.worker_id, asking.request(worker))
    code, out, err = await asking.ctl(*answer, "maybe")
    assert (code, out) == (2, "")
    assert "expected one of yes (allow_once)" in err
    code, _, err = await asking.ctl(*answer, "reject_once")
    assert code == 2
    assert "ambiguous: no, never" in err
    assert asking.request(worker)


async def test_an_answer_may_have_a_reason_and_fills_a_form(asking: Asking) -> None:
    asking.schema = {"properties": {"branch": {"type": "string"}}, "required": ["branch"]}
    worker = await asking.worker()
    answer = ("permissions", "answer", worker.worker_id, asking.request(worker), "yes")

    empty = await asking.ctl(*answer)
    no_json = await asking.ctl(*answer, "--content", "[1")
    filled = await asking.ctl(*answer, "--content", '{"branch": "main"}', "--reason", "as always", "-o", "json")

    assert empty[0] == 5
    assert "content.branch: expected a value" in empty[2]
    assert no_json[0] == 2
    assert "--content: expected a JSON object" in no_json[2]
    assert json.loads(filled[1])["permission"]["reason"] == "as always"
    async with asyncio.timeout(60):
        while not asking.rulings:
            await asyncio.sleep(0.01)
    assert asking.rulings == [Ruling("selected", "yes", "as always", {"branch": "main"})]


async def test_a_request_that_is_not_open_is_not_found(asking: Asking) -> None:
    worker = await asking.worker()
    code, _, err = await asking.ctl("permissions", "answer", worker.worker_id, "xyz", "yes")
    assert code == 3
    assert "has no open request 'xyz'" in err


async def test_a_wait_shows_the_request_and_an_answer_command_that_grants_nothing_unedited(asking: Asking) -> None:
    worker = await asking.runtime.create_worker()
    waiting = await asking.start("workers", "input", worker.worker_id, "write a file", "--wait")
    assert waiting.stderr is not None
    async with asyncio.timeout(60):
        said = (await waiting.stderr.readline()).decode()
    request = asking.request(worker)
    assert said == (
        f"runtimectl: {worker.worker_id} requests permission: write a file; answer with: "
        f"runtimectl permissions answer {worker.worker_id} {request} OPTION "
        "(OPTION: yes, always, no, never or cancel)\n"
    )
    await asking.runtime.answer_permission(worker.worker_ref, request, "yes")
    _, rest = await waiting.communicate()
    assert (waiting.returncode, rest) == (0, b"")


async def test_a_wait_does_not_show_requests_that_the_profile_answers(asking: Asking) -> None:
    asking.ruled = "yes"
    worker = await asking.runtime.create_worker()
    code, _, err = await asking.ctl("workers", "input", worker.worker_id, "write a file", "--wait")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("answer", ["no", "never", None], ids=["rejected", "rejected this too", "cancelled"])
async def test_a_wait_for_a_run_whose_permission_is_denied_exits_9(asking: Asking, answer: str | None) -> None:
    worker = await asking.runtime.create_worker()
    waiting = await asking.start("workers", "input", worker.worker_id, "write a file", "--wait", "-q")
    request = await asking.asked(worker)

    await asking.runtime.answer_permission(worker.worker_ref, request, answer)

    _, err = await waiting.communicate()
    assert waiting.returncode == 9
    assert err.decode() == "runtimectl: a permission was denied: write a file\n"


async def test_a_wait_for_a_run_whose_permission_expires_exits_9(asking: Asking) -> None:
    asking.timeout_s = 0.2
    worker = await asking.runtime.create_worker()
    code, _, err = await asking.ctl("workers", "input", worker.worker_id, "write a file", "--wait", "-q")
    assert (code, err) == (9, "runtimectl: a permission expired unanswered: write a file\n")


async def test_a_wait_for_a_run_whose_permission_the_profile_denies_exits_9(asking: Asking) -> None:
    asking.ruled = "no"
    worker = await asking.runtime.create_worker()
    code, _, err = await asking.ctl("workers", "input", worker.worker_id, "write a file", "--wait")
    assert (code, err) == (9, "runtimectl: a permission was denied: write a file\n")


async def test_a_permission_withdrawn_by_a_cancel_is_not_reported_as_denied(asking: Asking) -> None:
    worker = await asking.runtime.create_worker()
    waiting = await asking.start("workers", "input", worker.worker_id, "write a file", "--wait", "-q")
    await asking.asked(worker)

    await asking.runtime.cancel_worker(worker.worker_ref, "enough")

    _, err = await waiting.communicate()
    assert waiting.returncode == 1
    assert "enough" in err.decode()
