"""Agents that are started before their Workers are known."""

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtimed.core.ports import Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import Entry
from runtimed.execution.acp import warm_pool
from runtimed.execution.workspace import Workspaces, remove_spare, remove_spares
from runtimed.model.identity import WorkerId, worker_id
from runtimed.model.worker import CreateWorkerRequest, NamedReference
from tests.execution.acp.conftest import ACCEPTED, DEADLINE_S, Folders, Harness, NewHarness, RecordingSink, Roll

LONG_S = 3600.0


async def until(met: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not met():
            await asyncio.sleep(0.01)


class Host:
    """A backend that keeps agents ready, and the Workers that it is asked to run. Its agents enroll."""

    def __init__(self, harness: Harness, folder: Path) -> None:
        self.backend = harness.backend
        self.harness = harness
        self.folder = folder
        self.roll = Roll(folder)
        self.sinks: dict[WorkerId, RecordingSink] = {}

    @property
    def spares(self) -> list[Path]:
        """The folders of agents that have no Worker yet."""
        return list(self.folder.glob("warm-*"))

    async def keep_warm(self, idle_s: float = LONG_S, count: int = 1) -> None:
        self.backend.keep_warm(idle_s)
        await until(lambda: self.backend.ready == count)

    async def spawn(self, number: int = 1, history: tuple[Entry, ...] | None = None, **request: Any) -> BackendAnswer:
        name = worker_id(number)
        self.sinks[name] = RecordingSink()
        answer: BackendAnswer = await self.backend.spawn(
            Spawn(name, CreateWorkerRequest(**request), history), self.sinks[name]
        )
        return answer

    def agent_of(self, number: int = 1) -> str:
        """The name of the agent that has the session of a Worker."""
        saved = json.loads((self.folder / worker_id(number) / "session.json").read_text())
        return str(saved["session_id"]).removeprefix("session-")


@pytest.fixture
def new_host(new_harness: NewHarness, tmp_path: Path) -> Callable[..., Host]:
    def new(script: dict[str, Any] | None = None, *, warm: int = 1, **profile: Any) -> Host:
        enrolling = {"start": [["enroll"]], **(script or {})}
        return Host(new_harness(enrolling, warm=warm, env={"KEY": "k"}, **profile), tmp_path)

    return new


async def test_a_new_worker_gets_the_agent_that_was_started_ahead_and_another_one_takes_its_place(
    new_host: Callable[..., Host],
) -> None:
    host = new_host({"session/prompt": [[["call_python", "text(os.getcwd())"], ["end"]]]})
    await host.keep_warm()
    (warm,) = host.roll.names

    assert await host.spawn() == ACCEPTED

    assert host.agent_of() == warm
    await until(lambda: host.backend.ready == 1)
    assert len(host.roll.names) == 2
    assert await host.spawn(2) == ACCEPTED
    assert host.agent_of(2) == host.roll.names[1]


async def test_a_warm_agent_has_the_folder_the_environment_and_the_mark_that_a_cold_one_has(
    new_host: Callable[..., Host],
) -> None:
    host = new_host({"session/prompt": [[["call_python", "text(os.getcwd())"], ["end"]]]})
    assert await host.spawn() == ACCEPTED
    await host.keep_warm()
    host.harness.worker_id = worker_id(2)

    assert await host.harness.spawn() == ACCEPTED
    sink = await host.harness.run()

    home = host.folder / worker_id(2) / "home"
    cold, warm = host.roll.notes[:2]
    assert host.agent_of(2) == warm["name"]
    assert sink.text == str(home)
    assert host.harness.heard("session/new")[-1]["cwd"] == str(home)
    assert {**warm["env"], "PWD": ""} == {**cold["env"], "PWD": ""}
    assert warm["env"]["KEY"] == "k"
    assert (host.folder / worker_id(2)).stat().st_mode & 0o077 == 0


async def test_a_warm_agent_has_the_limits_of_its_profile(new_host: Callable[..., Host]) -> None:
    grow = ["call_python", "x = [bytearray(1 << 20) for _ in range(500)]; import time; time.sleep(1000)"]
    host = new_host({"session/prompt": [[["text", "a"], grow]]}, max_memory_bytes=100 << 20)
    await host.keep_warm()
    (warm,) = host.roll.names
    assert await host.harness.spawn() == ACCEPTED

    sink = await host.harness.run()

    assert [reason for reason, _ in sink.losses] == ["oom"]
    assert host.agent_of() == warm


async def test_as_many_agents_are_kept_as_the_profile_says(new_host: Callable[..., Host]) -> None:
    host = new_host(warm=3)
    await host.keep_warm(count=3)

    answers = await asyncio.gather(*(host.spawn(number) for number in range(1, 5)))

    assert answers == [ACCEPTED] * 4
    assert {host.agent_of(number) for number in range(1, 5)} > set(host.roll.names[:3])
    await until(lambda: host.backend.ready == 3)


async def test_an_agent_that_died_is_not_handed_out_and_is_replaced(new_host: Callable[..., Host]) -> None:
    host = new_host()
    await host.keep_warm()
    (dead,) = host.roll.names
    host.roll.end(dead)
    await until(lambda: host.roll.is_gone(dead))

    assert await host.spawn() == ACCEPTED

    assert host.agent_of() != dead
    await until(lambda: host.backend.ready == 1)
    assert len(host.spares) == 1


async def test_nothing_is_left_of_an_agent_that_died_while_another_one_was_ended(
    new_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    removing, go_on = threading.Event(), threading.Event()

    def remove_later(workspaces: Workspaces, folder: Path) -> None:
        removing.set()
        assert go_on.wait(DEADLINE_S)
        remove_spare(workspaces, folder)

    monkeypatch.setattr(warm_pool, "remove_spare", remove_later)
    host = new_host(warm=2)
    await host.keep_warm(count=2)
    first, second = host.roll.names
    host.roll.end(first)
    await until(removing.is_set)
    host.roll.end(second)
    await until(lambda: host.backend.ready == 0)
    assert await host.spawn() == ACCEPTED

    go_on.set()

    await until(lambda: host.backend.ready == 2)
    assert len(host.spares) == 2


FIRST_TIME = """
made = script_path.parent / "made"
if not made.exists():
    made.touch()
    """


@pytest.mark.parametrize("failing", ["os._exit(3)", "error(-32000, 'not now')"])
async def test_a_warm_agent_that_opens_no_session_is_replaced_by_a_cold_one(
    new_host: Callable[..., Host], failing: str
) -> None:
    opening = [["call_python", FIRST_TIME + failing], ["answer", {"sessionId": "session-7"}]]
    host = new_host({"session/new": opening})
    await host.keep_warm()
    (warm,) = host.roll.names

    assert await host.spawn() == ACCEPTED

    assert host.agent_of() == "7"
    assert host.roll.is_gone(warm)
    assert host.sinks[worker_id(1)].alerts == []


async def test_a_worker_with_workspaces_mounts_or_a_past_is_started_cold(new_host: Callable[..., Host]) -> None:
    host = new_host()
    await host.keep_warm()
    (warm,) = host.roll.names
    reference = NamedReference("docs", "mount:docs")

    await host.spawn(1, workspace_refs=(reference,))
    await host.spawn(2, mount_refs=(reference,))
    await host.spawn(3, history=())

    assert warm not in {host.agent_of(number) for number in (1, 2, 3)}
    assert host.backend.ready == 1


async def test_agents_that_wait_too_long_are_ended_and_the_next_worker_fills_the_pool_again(
    new_host: Callable[..., Host],
) -> None:
    host = new_host()
    host.backend.keep_warm(0.2)
    await until(lambda: host.roll.names)
    (warm,) = host.roll.names
    await until(lambda: host.roll.is_gone(warm) and not host.spares)

    assert await host.spawn() == ACCEPTED

    assert host.agent_of() == host.roll.names[1]
    await until(lambda: len(host.roll.names) == 3)


async def test_a_start_that_fails_is_tried_again_later(
    new_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(warm_pool, "FIRST_RETRY_S", 0.01)
    host = new_host({"start": [["leave", 1, "no licence"]]})
    host.backend.keep_warm(LONG_S)
    await until(lambda: "no licence" in str([vars(record).get("reason") for record in caplog.records]))
    host.harness.rewrite({"start": [["enroll"]]})

    await until(lambda: host.backend.ready == 1)

    assert len(host.spares) == 1


async def test_nothing_is_left_of_a_pool_that_is_closed(new_host: Callable[..., Host]) -> None:
    host = new_host(warm=2)
    await host.keep_warm(count=2)
    agents = host.roll.names

    await host.backend.close()

    assert all(map(host.roll.is_gone, agents))
    assert host.spares == []
    assert host.backend.ready == 0


def test_the_folders_that_a_killed_daemon_left_are_removed(tmp_path: Path) -> None:
    (tmp_path / "warm-1234" / "home").mkdir(parents=True)
    (tmp_path / worker_id(1)).mkdir()

    remove_spares(Folders(tmp_path))

    assert (tmp_path / worker_id(1)).exists()
    assert list(tmp_path.glob("warm-*")) == []


async def test_an_agent_that_asks_before_it_has_a_session_is_refused(new_host: Callable[..., Host]) -> None:
    told = 'state["told"] = [call("fs/read_text_file", {"path": "/x"}), call("session/request_permission", {})]'
    greeting = ["answer", {"protocolVersion": 1}]
    say = 'text(json.dumps([each["error"]["message"] for each in state["told"]]))'
    script = {
        "initialize": [["call_python", told], greeting],
        "session/prompt": [[["call_python", say], ["end"]]],
    }
    host = new_host(script, capabilities=("read",))
    await host.keep_warm()

    assert await host.harness.spawn() == ACCEPTED
    sink = await host.harness.run()

    assert json.loads(sink.text) == ["there is no session yet"] * 2
