"""`Worker.run` returns the result of a run that finished, and raises every other one."""

import asyncio
import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtimectl import AsyncClient, Client
from runtimectl.errors import ApiError, RunFailed
from runtimectl.library.worker import Worker
from runtimectl.result import PermissionCounts
from runtimed.model.event import Usage
from runtimed.model.permission import Permission
from tests.runtimectl.conftest import Daemon, wait_until

OPTIONS = [
    {"optionId": "yes", "name": "Allow", "kind": "allow_once"},
    {"optionId": "no", "name": "Reject", "kind": "reject_once"},
]
ASKING = [["ask", {"toolCallId": "call-1", "title": "write a file"}, OPTIONS]]
SCHEMA = {"type": "object", "properties": {"branch": {"type": "string"}}, "required": ["branch"]}
FORM = ["tell", "elicitation/create", {"mode": "form", "message": "Which branch?", "requestedSchema": SCHEMA}]
FILLED = {"result": {"action": "accept", "content": {"branch": "main"}}}


@pytest.fixture
def shell(client: Client) -> Worker:
    return client.create_worker(profile="builtin:shell", capabilities=["shell"])


@pytest.fixture
def agent(
    agent_config: Callable[[dict[str, Any]], Path], start_daemon: Callable[..., Daemon], token_file: Path
) -> Callable[[list[Any]], Worker]:
    """Makes a Worker whose agent does what the steps of each prompt say."""

    def make(prompts: list[Any]) -> Worker:
        config = agent_config({"session/prompt": prompts})
        daemon = start_daemon("--config", str(config), "--token-file", str(token_file))
        return Client(daemon.url, token_file=str(token_file)).create_worker(profile="builtin:agent")

    return make


def test_a_command_finishes_with_any_exit_status(shell: Worker) -> None:
    result = shell.run("echo hello; exit 7")

    assert (result.outcome, result.exit_status, result.text) == ("finished", 7, "hello\n")
    assert (result.worker_id, result.reason, result.permissions) == (shell.id, None, PermissionCounts(0, 0, 0))
    assert shell.wait("idle", cursor=result.cursor).worker.last_cursor >= result.cursor


def test_a_run_that_takes_too_long_is_interrupted_and_the_worker_goes_on(shell: Worker) -> None:
    with pytest.raises(RunFailed) as failed:
        shell.run("echo begun; sleep 600", timeout=4)

    assert failed.value.result.outcome == "timed_out"
    assert failed.value.result.text == "begun\n"
    assert str(failed.value) == "timed_out: the run took longer than 4 s"
    assert shell.run("echo again").text == "again\n"


def test_a_run_that_somebody_interrupts_is_interrupted(shell: Worker) -> None:
    def interrupt() -> None:
        shell.wait("busy")
        shell.interrupt()

    threading.Thread(target=interrupt).start()
    with pytest.raises(RunFailed) as failed:
        shell.run("sleep 600")

    assert failed.value.result.outcome == "interrupted"


def test_an_input_during_a_run_is_refused(shell: Worker) -> None:
    shell.input("sleep 600")

    with pytest.raises(ApiError) as refused:
        shell.run("echo too early")

    assert (refused.value.code, refused.value.status) == ("worker_execution_rejected", 409)


def test_permissions_are_decided_by_a_function_and_counted(agent: Callable[[list[Any]], Worker]) -> None:
    worker = agent([[*ASKING, ["end"]]])
    asked: list[Permission] = []

    def decide(permission: Permission) -> str:
        asked.append(permission)
        return "no"

    result = worker.run("go", on_permission=decide)

    assert [permission.title for permission in asked] == ["write a file"]
    assert (result.outcome, result.permissions) == ("finished", PermissionCounts(1, 1, 0))
    assert '"no"' in result.text


def test_a_form_is_filled_by_what_the_function_returns_or_by_an_answer(agent: Callable[[list[Any]], Worker]) -> None:
    worker = agent([[FORM, ["end"]]] * 2)

    result = worker.run("go", on_permission=lambda _: {"branch": "main"})
    worker.input("go on")
    worker.wait("permission")
    [request] = worker.permissions()
    with pytest.raises(ApiError) as refused:
        worker.answer(request.request_id, None, content={"branch": 7})
    resolved = worker.answer(request.request_id, None, content={"branch": "main"})
    worker.wait("idle")

    assert json.loads(result.text) == FILLED
    assert (result.outcome, result.permissions) == ("finished", PermissionCounts(1, 0, 0))
    assert "content.branch: expected a string" in refused.value.message
    assert (resolved.outcome, resolved.option_id) == ("selected", "accept")
    assert json.loads(worker.transcript()[-1].content) == FILLED


def test_a_run_that_fails_has_its_reason_and_what_was_said_before(agent: Callable[[list[Any]], Worker]) -> None:
    worker = agent([[["text", "almost"], ["error", -32000, "the model is down"]], [*ASKING, ["leave", 3]]])

    with pytest.raises(RunFailed) as failed:
        worker.run("go")
    assert (failed.value.result.outcome, failed.value.result.text) == ("failed", "almost")
    assert "the model is down" in str(failed.value)

    with pytest.raises(RunFailed) as failed:
        worker.run("go", on_permission=lambda _: "no")
    assert failed.value.result.outcome == "denied"
    assert failed.value.result.reason == "a permission was denied: write a file"


def test_the_usage_of_an_agent_is_in_the_result(agent: Callable[[list[Any]], Worker]) -> None:
    worker = agent(
        [
            [
                ["text", "hi"],
                [
                    "end_with",
                    {"stopReason": "end_turn", "usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}},
                ],
            ]
        ]
    )

    usage = worker.run("go").usage

    assert isinstance(usage, Usage)
    assert (usage.input_tokens, usage.output_tokens) == (3, 4)


def test_a_run_that_a_kill_of_the_daemon_cuts_is_lost(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    store = ("--store", f"fs:{tmp_path}/store")
    daemon = start_daemon(*store)
    with Client.from_env() as client:
        worker = client.create_worker(profile="builtin:shell", capabilities=["shell"])

        def kill() -> None:
            wait_until(lambda: worker.detail().execution.run_state == "busy", "the run")
            daemon.end(signal.SIGKILL)
            start_daemon(*store)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(RunFailed) as failed:
            worker.run("sleep 600")
        killer.join()

    assert failed.value.result.outcome == "lost"


async def test_the_asynchronous_run_does_the_same(daemon: Daemon, token_file: Path) -> None:
    async with AsyncClient(daemon.url, token_file=str(token_file)) as client:
        first = await client.create_worker(profile="builtin:shell", capabilities=["shell"])
        second = await client.create_worker(profile="builtin:shell", capabilities=["shell"])

        results = await asyncio.gather(first.run("echo one; false"), second.run("echo two"))
        with pytest.raises(RunFailed) as failed:
            await first.run("sleep 600", timeout=1)

    assert [(result.text, result.exit_status) for result in results] == [("one\n", 1), ("two\n", 0)]
    assert failed.value.result.outcome == "timed_out"


async def test_the_function_that_decides_may_be_a_coroutine_function(
    agent: Callable[[list[Any]], Worker], token_file: Path
) -> None:
    worker = await asyncio.to_thread(agent, [[*ASKING, FORM, ["end"]], ASKING])

    async def decide(permission: Permission) -> str | dict[str, str]:
        await asyncio.sleep(0)
        return {"branch": "main"} if permission.schema else permission.options[0].option_id

    async def give_up(_permission: Permission) -> str:
        raise TimeoutError("of the caller")

    async with AsyncClient.from_env() as client:
        result = await client.worker(worker.id).run("go", on_permission=decide)

        with pytest.raises(TimeoutError, match="of the caller"):
            await client.worker(worker.id).run("go", on_permission=give_up)

    assert result.permissions == PermissionCounts(2, 0, 0)
    assert json.dumps(FILLED["result"]["content"]) in result.text
