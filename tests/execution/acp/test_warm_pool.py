"""Agents that are started, with an open session, before their Workers are known."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtimed.core.ports import Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import Entry
from runtimed.execution.acp import agent, inbox, warm_pool
from runtimed.execution.workspace import Workspaces, make_spare, remove_spare, remove_spares
from runtimed.model.identity import WorkerId, worker_id
from runtimed.model.mcp_server import McpServer
from runtimed.model.worker import CreateWorkerRequest, NamedReference
from tests.execution.acp.conftest import ACCEPTED, DEADLINE_S, Harness, NewHarness, RecordingSink, Roll
from tests.execution.conftest import Folders

LONG_S = 3600.0
COMMANDS = {"sessionUpdate": "available_commands_update", "availableCommands": [{"name": "plan", "description": "d"}]}
ANOTHER_SESSION = """
state.setdefault("name", session)
state["opened"] = state.get("opened", 0) + 1
session = f"{state['name']}-{state['opened']}"
globals()["session"] = session
state.setdefault("first", session)
answer({"sessionId": session})
if session == state["first"]:
    send("early")
"""
CLOSING = """
update = {"sessionUpdate": "closing"}
write({"jsonrpc": "2.0", "method": "session/update", "params": {"sessionId": state["first"], "update": update}})
answer({})
"""
ISSUES = McpServer("issues", command=("sh", "-c", "exit"))
DOCS = McpServer("docs", command=("sh", "-c", "exit"))


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
        taken = {path.resolve() for path in self.folder.glob("worker-*")}
        return [path for path in self.folder.glob("warm-*") if path not in taken]

    @property
    def told(self) -> list[str]:
        """The methods that agents were told, in order."""
        lines = (self.folder / "heard.jsonl").read_text().splitlines()
        return [message["method"] for message in map(json.loads, lines) if "method" in message]

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


async def test_the_session_of_a_warm_agent_is_open_before_there_is_a_worker_and_stays_the_same_after_a_restart(
    new_host: Callable[..., Host],
) -> None:
    host = new_host({"capabilities": {"loadSession": True}}, mcp_servers=(ISSUES,))
    await host.keep_warm()
    (spare,) = host.spares
    (warm,) = host.roll.names
    (opened,) = host.harness.heard("session/new")

    assert await host.harness.spawn() == ACCEPTED
    assert host.told[:2] == ["initialize", "session/new"]
    assert host.harness.home.resolve() == spare / "home"
    await host.harness.run()
    assert [told["sessionId"] for told in host.harness.heard("session/prompt")] == [f"session-{warm}"]
    assert await host.harness.restart(("hi",)) == ACCEPTED

    (loaded,) = host.harness.heard("session/load")
    assert loaded == {**opened, "sessionId": f"session-{warm}"}
    assert opened["cwd"] == str(spare / "home")
    assert [server["name"] for server in opened["mcpServers"]] == ["issues"]


async def test_what_an_agent_says_before_it_has_a_worker_comes_first_in_order_and_up_to_a_limit(
    new_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_WAITING", 5)
    say = ["call_python", "for number in range(8): send('early', number=number)"]
    host = new_host(
        {
            "session/new": [say, ["call_python", "answer({'sessionId': session})"], ["update", COMMANDS]],
            "session/prompt": [[["update", {"sessionUpdate": "late"}], ["end"]]],
        }
    )
    await host.keep_warm()

    assert await host.harness.spawn() == ACCEPTED
    sink = await host.harness.run()

    kinds = [item["kind"] for item in sink.items]
    assert kinds[-2:] == ["available_commands_update", "late"]
    numbers = [item["content"]["number"] for item in sink.items[:-2]]
    assert numbers == list(range(8))[-len(numbers) :]
    assert 0 < len(numbers) < 8


async def test_a_worker_with_mcp_servers_of_its_own_gets_a_session_of_its_own_on_the_warm_agent(
    new_host: Callable[..., Host],
) -> None:
    host = new_host(
        {
            "capabilities": {"sessionCapabilities": {"close": {}, "delete": {}}},
            "session/new": [["call_python", ANOTHER_SESSION]],
            "session/close": [["call_python", CLOSING]],
            "session/delete": [["answer", {}]],
            "session/prompt": [[["text", "hello"], ["end"]]],
        },
        mcp_servers=(ISSUES,),
    )
    await host.keep_warm()
    (warm,) = host.roll.names

    assert await host.harness.spawn(mcp_servers=(DOCS,)) == ACCEPTED
    sink = await host.harness.run()

    assert host.agent_of() == f"{warm}-2"
    first, own = host.harness.heard("session/new")[:2]
    assert [[server["name"] for server in told["mcpServers"]] for told in (first, own)] == [
        ["issues"],
        ["issues", "docs"],
    ]
    assert host.told[:5] == ["initialize", "session/new", "session/new", "session/close", "session/delete"]
    (deleted,) = host.harness.heard("session/delete")
    assert deleted == {"sessionId": f"session-{warm}-1"}
    assert sink.text == "hello"
    assert sink.items == []


async def test_an_agent_that_knows_one_session_only_shares_it_with_a_worker_with_mcp_servers_of_its_own(
    new_host: Callable[..., Host],
) -> None:
    host = new_host({"capabilities": {"sessionCapabilities": {"delete": {}}}})
    await host.keep_warm()

    assert await host.harness.spawn(mcp_servers=(DOCS,)) == ACCEPTED
    sink = await host.harness.run()

    assert sink.text == "hello"
    assert "session/delete" not in host.told


async def test_a_worker_whose_mcp_servers_are_those_of_the_profile_uses_the_session_that_is_open(
    new_host: Callable[..., Host],
) -> None:
    host = new_host(mcp_servers=(ISSUES,))
    await host.keep_warm()
    (warm,) = host.roll.names

    assert await host.harness.spawn(mcp_servers=(McpServer("issues", command=("true",)),)) == ACCEPTED

    assert host.agent_of() == warm


async def test_the_folder_of_a_warm_agent_that_is_removed_is_made_anew_with_its_name_and_its_session(
    new_host: Callable[..., Host],
) -> None:
    host = new_host()
    await host.keep_warm()
    (spare,) = host.spares
    assert await host.harness.spawn() == ACCEPTED
    shutil.rmtree(spare)

    sink = await host.harness.run()

    assert sink.ends == ["finished"]
    assert ["was gone" in told for told in sink.alerts] == [True]
    assert sorted(path.name for path in spare.iterdir()) == ["home", "session.json"]
    assert host.agent_of() == host.roll.names[0]


async def test_a_warm_agent_has_the_folder_the_environment_and_the_mark_that_a_cold_one_has(
    new_host: Callable[..., Host],
) -> None:
    host = new_host({"session/prompt": [[["call_python", "text(os.getcwd())"], ["end"]]]})
    assert await host.spawn() == ACCEPTED
    await host.keep_warm()
    host.harness.worker_id = worker_id(2)

    assert await host.harness.spawn() == ACCEPTED
    sink = await host.harness.run()

    home = (host.folder / worker_id(2)).resolve() / "home"
    cold, warm = host.roll.notes[:2]
    assert host.agent_of(2) == warm["name"]
    assert sink.text == str(home)
    assert host.harness.heard("session/new")[1]["cwd"] == str(home)
    assert {**warm["env"], "PWD": ""} == {**cold["env"], "PWD": ""}
    assert warm["env"].get("PWD", str(home)) == str(home)
    assert warm["env"]["KEY"] == "k"
    assert home.parent.stat().st_mode & 0o077 == 0


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
    await until(lambda: host.backend.ready == 0)

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
async def test_a_warm_agent_that_takes_no_session_config_is_replaced_by_a_cold_one(
    new_host: Callable[..., Host], failing: str
) -> None:
    setting = [["call_python", FIRST_TIME + failing], ["answer", {}]]
    host = new_host({"session/set_config_option": setting}, session_config={"mode": "plan"})
    await host.keep_warm()
    (warm,) = host.roll.names

    assert await host.harness.spawn() == ACCEPTED

    assert [told["sessionId"] for told in host.harness.heard("session/set_config_option")] == [
        f"session-{warm}",
        f"session-{host.agent_of()}",
    ]
    assert host.agent_of() != warm
    assert host.roll.is_gone(warm)
    assert host.harness.sink.alerts == []
    assert (await host.harness.run()).ends == ["finished"]


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


async def test_an_agent_that_ends_by_itself_is_logged_and_replaced_later_and_later(
    new_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(warm_pool, "FIRST_RETRY_S", 0.01)
    leaving = [["call_python", "answer({'sessionId': session})"], ["leave", 1, "the licence has expired"]]
    host = new_host({"session/new": leaving})

    host.backend.keep_warm(LONG_S)
    await until(lambda: len(host.roll.names) > 4)

    logged = [vars(record) for record in caplog.records if "warm agent" in record.getMessage()]
    assert all("the licence has expired" in str(fields["reason"]) for fields in logged)
    assert [fields["retry_s"] for fields in logged][:4] == [0.01, 0.02, 0.04, 0.08]


async def test_an_agent_that_refuses_a_session_ahead_is_ended_and_tried_again_and_workers_are_started_cold(
    new_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(warm_pool, "FIRST_RETRY_S", 0.01)
    host = new_host({"session/new": [["error", -32603, "no model"]]})
    host.backend.keep_warm(LONG_S)
    await until(lambda: len(host.roll.names) > 1)
    assert "no model" in str([vars(record).get("reason") for record in caplog.records])

    host.harness.rewrite({"start": [["enroll"]]})
    assert await host.spawn() == ACCEPTED
    await until(lambda: host.backend.ready == 1)

    first = host.roll.names[0]
    assert host.roll.is_gone(first)
    assert len(host.spares) == 1


@pytest.mark.parametrize("deleting", [[["answer", {}]], [["error", -32603, "no"]], [["hang"]], [["leave", 1]]])
async def test_a_warm_agent_that_nobody_used_deletes_its_session_if_it_is_quick(
    new_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch, deleting: list[Any]
) -> None:
    monkeypatch.setattr(agent, "DISCARD_DEADLINE_S", 1.0)
    able: dict[str, Any] = {"sessionCapabilities": {"delete": {}}}
    host = new_host({"capabilities": able, "session/delete": deleting}, warm=2)
    await host.keep_warm(count=2)
    agents = host.roll.names

    await host.backend.close()

    told = {params["sessionId"] for params in host.harness.heard("session/delete")}
    assert told == {f"session-{name}" for name in agents}
    assert all(map(host.roll.is_gone, agents))
    assert host.spares == []


async def test_nothing_is_left_of_a_pool_that_is_closed(new_host: Callable[..., Host]) -> None:
    host = new_host(warm=2)
    await host.keep_warm(count=2)
    agents = host.roll.names

    await host.backend.close()

    assert all(map(host.roll.is_gone, agents))
    assert host.spares == []
    assert host.backend.ready == 0


def test_the_folders_that_a_killed_daemon_left_are_removed(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    (tmp_path / worker_id(1)).mkdir()
    _, adopted = make_spare(folders), make_spare(folders)
    folders.adopt(worker_id(2), adopted)

    remove_spares(folders)

    assert sorted(path.name for path in tmp_path.glob("w*")) == [adopted.name, worker_id(1), worker_id(2)]
    assert (adopted / "home").is_dir()


async def test_an_agent_that_asks_before_it_has_a_worker_is_refused_and_its_questions_are_cancelled(
    new_host: Callable[..., Host],
) -> None:
    form = '{"mode": "form", "message": "m", "requestedSchema": {"type": "object", "properties": {}}}'
    told = f"""
told = [call("session/request_permission", {{}}), call("elicitation/create", {form})]
told += [call("fs/read_text_file", {{"path": "/x"}}), call("terminal/create", {{"command": "true"}})]
state["told"] = [each.get("result") or each["error"]["message"] for each in told]
answer({{"sessionId": session}})
"""
    script = {
        "session/new": [["call_python", told]],
        "session/prompt": [[["call_python", "text(json.dumps(state['told']))"], ["end"]]],
    }
    host = new_host(script, capabilities=("read", "shell"))
    await host.keep_warm()

    assert await host.harness.spawn() == ACCEPTED
    sink = await host.harness.run()

    refused = "there is no Worker yet"
    assert json.loads(sink.text) == [{"outcome": {"outcome": "cancelled"}}, {"action": "cancel"}, refused, refused]
    assert sink.questions == []
