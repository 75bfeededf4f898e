"""The files and commands that an agent asks for."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from runtimed.execution import Profile
from runtimed.execution.acp import client, files, outbox, terminals
from runtimed.execution.acp.terminals import Terminals
from runtimed.execution.processes import containment
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.model.identity import WorkerId
from tests.execution.acp.conftest import Harness, NewHarness

DEADLINE_S = 30.0
ALL = ("read", "write", "shell")


async def told(harness: Harness, *requests: tuple[str, dict[str, Any]], **spawn: Any) -> list[dict[str, Any]]:
    """What the agent is answered to these requests, made one after another within one run."""
    steps = [["tell", method, params] for method, params in requests]
    harness.rewrite({"session/prompt": [[step for tell in steps for step in (tell, ["text", "\n"])] + [["end"]]]})
    assert (await harness.spawn(**spawn)).outcome == "accepted"
    sink = await harness.run()
    assert sink.ends == ["finished"], sink.losses
    return [json.loads(line) for line in sink.text.splitlines()]


def read(path: object, **more: Any) -> tuple[str, dict[str, Any]]:
    return "fs/read_text_file", {"path": str(path), **more}


def write(path: object, content: str) -> tuple[str, dict[str, Any]]:
    return "fs/write_text_file", {"path": str(path), "content": content}


def create(command: str, *args: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return "terminal/create", {"command": command, "args": list(args), **more}


def terminal(method: str) -> tuple[str, dict[str, Any]]:
    return f"terminal/{method}", {"terminalId": "$terminal"}


async def test_a_file_is_written_with_the_folders_that_lead_to_it_and_read_in_part(
    new_harness: NewHarness,
) -> None:
    harness = new_harness(capabilities=ALL)
    path = harness.home / "src" / "deep" / "a.txt"
    answers = await told(
        harness,
        write(path, "much more than what follows"),
        write(path, "one\ntwo\nthree\n"),
        read(path),
        read(path, line=2, limit=1),
        read(path, line=3),
        read(path, line=0, limit=0),
        read(path, line=9),
    )
    assert answers[:2] == [{"result": {}}, {"result": {}}]
    assert [answer["result"]["content"] for answer in answers[2:]] == [
        "one\ntwo\nthree\n",
        "two\n",
        "three\n",
        "",
        "",
    ]
    assert path.read_text() == "one\ntwo\nthree\n"


async def test_what_was_not_granted_is_not_there(new_harness: NewHarness) -> None:
    harness = new_harness(capabilities=())
    asked = [read("/x"), write("/x", ""), create("true"), ("mcp/connect", {}), ("_vendor/thing", {})]
    answers = await told(harness, *asked)
    assert [answer["error"]["code"] for answer in answers] == [-32601] * 5


async def test_nothing_outside_of_the_workers_folder_is_read_or_written(
    new_harness: NewHarness, tmp_path: Path
) -> None:
    harness = new_harness(capabilities=ALL)
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    harness.home.mkdir(parents=True)
    (harness.home / "link").symlink_to(secret)
    (harness.home / "up").symlink_to(tmp_path)
    (harness.home / "loop").symlink_to(harness.home / "loop")
    (harness.home / "new").symlink_to(tmp_path / "planted")
    outside = [
        secret,
        harness.home / "link",
        harness.home / "up" / "secret",
        f"{harness.home}/../../secret",
        f"{harness.home}/up/../secret",
        f"{harness.home}-beside/x",
        harness.folder / "session.json",
        "/etc/passwd",
        "/proc/self/environ",
    ]
    answers = await told(
        harness,
        *(read(path) for path in outside),
        *(write(path, "x") for path in (*outside, harness.home / "new", harness.home / "up" / "planted")),
        create("pwd", cwd=str(tmp_path)),
        read(harness.home / "loop"),
        write(harness.home / "loop", "x"),
        read("relative/path"),
        read(f"{harness.home}/a\0b"),
        read(harness.home),
        read(harness.home / "nothing"),
    )
    assert [answer for answer in answers if "error" not in answer] == []
    for answer in answers[: 2 * len(outside) + 3]:
        assert "is outside of the folders of this Worker" in answer["error"]["message"]
    assert "s3cret" not in json.dumps(answers)
    assert secret.read_text() == "s3cret"
    assert not (tmp_path / "planted").exists()


async def test_a_link_that_stays_inside_is_followed(new_harness: NewHarness) -> None:
    harness = new_harness(capabilities=ALL)
    harness.home.mkdir(parents=True)
    (harness.home / "real").write_text("text")
    (harness.home / "link").symlink_to("real")
    (answer,) = await told(harness, read(harness.home / "link"))
    assert answer["result"]["content"] == "text"


async def test_a_named_pipe_or_a_device_is_no_file(new_harness: NewHarness) -> None:
    harness = new_harness(capabilities=ALL)
    harness.home.mkdir(parents=True)
    os.mkfifo(harness.home / "pipe")
    answers = await told(harness, read(harness.home / "pipe"), write(harness.home / "pipe", "x"))
    assert "is not a regular file" in answers[0]["error"]["message"]
    assert "error" in answers[1]


async def test_an_agent_uses_the_folders_of_its_workspaces_and_no_others(
    new_harness: NewHarness, tmp_path: Path
) -> None:
    mapped, other = tmp_path / "mapped", tmp_path / "other"
    for folder in (mapped, other):
        folder.mkdir()
        (folder / "a").write_text(folder.name)
    harness = new_harness(capabilities=ALL)
    answers = await told(
        harness,
        read(mapped / "a"),
        write(mapped / "b", "new"),
        create("pwd", cwd=str(mapped)),
        terminal("wait_for_exit"),
        terminal("output"),
        read(other / "a"),
        folders=(mapped,),
    )
    assert answers[0]["result"]["content"] == "mapped"
    assert (mapped / "b").read_text() == "new"
    assert answers[4]["result"]["output"] == f"{mapped}\n"
    assert "outside" in answers[5]["error"]["message"]


@pytest.mark.parametrize("able", [True, False])
async def test_an_agent_starts_in_its_first_workspace_and_is_told_of_the_others_where_it_can_be(
    new_harness: NewHarness, tmp_path: Path, able: bool
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    capabilities: dict[str, Any] = {
        "sessionCapabilities": {"resume": {}, **({"additionalDirectories": {}} if able else {})}
    }
    harness = new_harness({"capabilities": capabilities})

    await harness.spawn(folders=(first, second))

    (told,) = harness.heard("session/new")
    assert told["cwd"] == str(first)
    assert told.get("additionalDirectories") == ([str(second)] if able else None)


async def test_sizes_are_bounded(new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_TEXT_CHARACTERS", 10)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 100)
    harness = new_harness(capabilities=ALL)
    harness.home.mkdir(parents=True)
    (harness.home / "lines").write_text("four\n" * 4)
    (harness.home / "line").write_text("x" * 50)
    (harness.home / "large").write_text("x" * 101)
    answers = await told(
        harness,
        read(harness.home / "lines"),
        read(harness.home / "lines", line=2, limit=2),
        read(harness.home / "line"),
        read(harness.home / "large", line=1, limit=1),
        write(harness.home / "long", "x" * 11),
    )
    assert "ask for fewer lines" in answers[0]["error"]["message"]
    assert answers[1]["result"]["content"] == "four\nfour\n"
    assert "more than 10 characters" in answers[2]["error"]["message"]
    assert "larger than 100 bytes" in answers[3]["error"]["message"]
    assert "longer than 10 characters" in answers[4]["error"]["message"]
    assert not (harness.home / "long").exists()


async def test_parameters_that_are_none_are_refused(new_harness: NewHarness) -> None:
    harness = new_harness(capabilities=ALL)
    answers = await told(harness, ("fs/read_text_file", {"path": 5}), ("terminal/output", {}), create("", "x"))
    assert [answer["error"]["code"] for answer in answers[:2]] == [-32602] * 2


async def test_a_command_runs_in_the_workers_folder_with_its_environment(new_harness: NewHarness) -> None:
    harness = new_harness(capabilities=ALL, env={"FROM_PROFILE": "1"})
    answers = await told(
        harness,
        create(
            "sh", "-c", "pwd; echo $FROM_PROFILE $OWN; echo wrong >&2; exit 3", env=[{"name": "OWN", "value": "2"}]
        ),
        terminal("wait_for_exit"),
        terminal("output"),
        terminal("release"),
        terminal("output"),
    )
    assert answers[1]["result"] == {"exitCode": 3}
    assert answers[2]["result"] == {
        "output": f"{harness.home}\n1 2\nwrong\n",
        "truncated": False,
        "exitStatus": {"exitCode": 3},
    }
    assert answers[3] == {"result": {}}
    assert "there is no terminal" in answers[4]["error"]["message"]


async def test_a_command_that_no_program_can_be_is_refused(
    new_harness: NewHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness = new_harness(capabilities=ALL)
    answers = await told(
        harness,
        create("a\0b"),
        create("true", env=[{"name": "A=B", "value": ""}]),
        create("true", env=[{"name": "A", "value": "\0"}]),
        create("true", cwd="nowhere"),
    )
    assert [answer["error"]["code"] for answer in answers] == [-32000] * 4
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_command_without_arguments_is_a_line_for_the_shell(new_harness: NewHarness) -> None:
    harness = new_harness(capabilities=ALL)
    answers = await told(harness, create("echo one && echo two"), terminal("wait_for_exit"), terminal("output"))
    assert answers[2]["result"]["output"] == "one\ntwo\n"


async def test_a_command_can_be_killed_and_what_it_said_stays(new_harness: NewHarness) -> None:
    harness = new_harness(capabilities=ALL)
    wait = f"until [ -e {harness.home}/said ]; do sleep 0.01; done"
    answers = await told(
        harness,
        create(f"echo begun; touch {harness.home}/said; sleep 1000"),
        create(wait),
        terminal("wait_for_exit"),
        ("terminal/kill", {"terminalId": "terminal-1"}),
        ("terminal/wait_for_exit", {"terminalId": "terminal-1"}),
        ("terminal/output", {"terminalId": "terminal-1"}),
    )
    assert answers[4]["result"] == {"signal": "SIGKILL"}
    assert answers[5]["result"] == {"output": "begun\n", "truncated": False, "exitStatus": {"signal": "SIGKILL"}}


async def test_only_the_end_of_a_long_output_is_kept_and_no_character_is_cut(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminals, "MAX_TERMINAL_OUTPUT", 100)
    harness = new_harness(capabilities=ALL)
    long = "python3 -c \"print('€' * 1000, end='')\""
    answers = await told(
        harness,
        create(long, outputByteLimit=10),
        terminal("wait_for_exit"),
        terminal("output"),
        create(long, outputByteLimit=10**9),
        terminal("wait_for_exit"),
        terminal("output"),
    )
    assert answers[2]["result"] == {"output": "€" * 3, "truncated": True, "exitStatus": {"exitCode": 0}}
    assert answers[5]["result"]["output"] == "€" * 33


async def test_a_command_is_held_to_the_cpu_time_of_the_profile(new_harness: NewHarness) -> None:
    harness = new_harness(capabilities=ALL, max_cpu_s=0.3)
    spin = create("while :; do :; done")
    answers = await told(harness, spin, terminal("wait_for_exit"))
    assert answers[1]["result"] == {"signal": "SIGKILL"}


async def test_terminals_are_bounded_and_end_with_the_worker(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(terminals, "MAX_TERMINALS", 2)
    harness = new_harness(capabilities=ALL)
    pid = f"echo $$ > {harness.home}/pid; setsid sleep 1000 & wait"
    answers = await told(harness, create(pid), create("sleep 1000"), create("true"))
    assert "release some" in answers[2]["error"]["message"]
    await harness.backend.cancel(harness.worker_id, None)
    assert await asyncio.to_thread(_running, str(tmp_path)) == []


@pytest.mark.parametrize("way", ["release", "close"])
async def test_a_terminal_whose_release_is_given_up_is_released_the_next_time(
    supervisor: Supervisor, way: str
) -> None:
    terminal = terminals.Terminals(
        Profile("acp", max_memory_bytes=0, max_processes=0), supervisor, WorkerId("worker-00000001")
    )
    name = await terminal.create(["sleep", "1000"], Path("/"), {}, None)
    exited = terminal.get(name)
    free = threading.Event()
    waiting = asyncio.create_task(supervisor.call(free.wait))
    releasing = asyncio.create_task(terminal.release(name) if way == "release" else terminal.close())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    releasing.cancel()
    await asyncio.wait({releasing})
    assert exited.status is None
    free.set()
    await waiting
    await terminal.close()
    assert exited.status == {"signal": "SIGKILL"}


LEFT = "while :; do echo on >> left; echo on; sleep 0.02; done & echo begun"


async def test_what_a_command_left_in_the_background_lives_until_its_session_ends(
    new_harness: NewHarness, tmp_path: Path
) -> None:
    harness = new_harness(capabilities=ALL)
    answers = await told(harness, create(LEFT), terminal("wait_for_exit"), terminal("release"))
    left = harness.home / "left"
    await _until(left.exists)
    seen = left.stat().st_size

    await _until(lambda: left.stat().st_size > seen)
    await harness.backend.stop(harness.worker_id, None)

    assert answers[1:] == [{"result": {"exitCode": 0}}, {"result": {}}]
    assert await asyncio.to_thread(_running, str(tmp_path)) == []


async def test_a_kill_ends_what_a_command_left_in_the_background_and_keeps_how_the_command_ended(
    new_harness: NewHarness,
) -> None:
    harness = new_harness(capabilities=ALL)

    answers = await told(
        harness, create("sleep 1000 & exit 7"), *map(terminal, ("wait_for_exit", "kill", "output", "release"))
    )

    assert answers[1]["result"] == {"exitCode": 7}
    assert answers[3]["result"] == {"output": "", "truncated": False, "exitStatus": {"exitCode": 7}}
    assert await asyncio.to_thread(_sleeping, str(harness.home)) == []


@pytest.fixture(params=[containment.best, containment.group])
async def terminals_(request: pytest.FixtureRequest) -> AsyncIterator[Terminals]:
    """The terminals of a session, with each way to keep processes together."""
    supervisor = Supervisor(request.param)
    made = Terminals(Profile("acp"), supervisor, WorkerId("worker-00000001"))
    yield made
    await made.close()
    await supervisor.close()


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], 137),
        (["exit", "3"], 127),
        (["nowhere-to-be-found"], 127),
    ],
)
async def test_a_command_that_leaves_nothing_behind_is_gone_with_what_kept_it(
    terminals_: Terminals, tmp_path: Path, argv: list[str], status: int
) -> None:
    name = await terminals_.create(argv, tmp_path, {}, None)

    ended = await terminals_.get(name).ended()

    assert ended == {"exitCode": status}
    await _until(lambda: _running(str(tmp_path)) == [])


async def test_what_released_terminals_left_in_the_background_is_bounded(
    terminals_: Terminals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminals, "MAX_LEFT", 2)
    for number in range(3):
        script = f"sleep 1000 & echo $! > {number}"
        name = await terminals_.create(["sh", "-c", script, str(number)], tmp_path, {}, None)
        await terminals_.get(name).ended()
        await terminals_.release(name)

    await _until(lambda: len(_sleeping(str(tmp_path))) == 2)


async def test_a_released_terminal_is_forgotten_once_its_background_has_ended(
    terminals_: Terminals, tmp_path: Path
) -> None:
    first = await terminals_.create(["sh", "-c", "sleep 1000 &"], tmp_path, {}, None)
    await terminals_.get(first).ended()
    await terminals_.release(first)
    await _until(lambda: _sleeping(str(tmp_path)))  # it may not have begun when its shell has ended
    (background,) = await asyncio.to_thread(_sleeping, str(tmp_path))
    os.kill(int(background.name), signal.SIGKILL)
    await _until(lambda: not background.exists())

    second = await terminals_.create(["true"], tmp_path, {}, None)
    await terminals_.get(second).ended()
    await terminals_.release(second)

    await _until(lambda: _running(str(tmp_path)) == [])


async def _until(met: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await asyncio.to_thread(met):
            await asyncio.sleep(0.01)


def _sleeping(mark: str) -> list[Path]:
    return [path for path in _running(mark) if _command(path).startswith("sleep\0")]


def _running(mark: str) -> list[Path]:
    return [path for path in Path("/proc").iterdir() if path.name.isdecimal() and mark in _command(path)]


def _command(process: Path) -> str:
    try:
        return f"{(process / 'cmdline').read_text(errors='replace')}{(process / 'cwd').readlink()}"
    except OSError:
        return ""


async def test_requests_at_once_are_bounded(new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_REQUESTS", 0)
    harness = new_harness(capabilities=ALL)
    (answer,) = await told(harness, read("/x"))
    assert "more than 0 requests at once" in answer["error"]["message"]


CROWD = """
for number in range(5):
    params = {"sessionId": session, "command": "sleep", "args": ["100"]}
    write({"jsonrpc": "2.0", "id": number, "method": "terminal/create", "params": params})
text(str(sum("result" in hear() for _ in range(5))))
"""


async def test_terminals_that_are_asked_for_at_once_are_bounded_too(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminals, "MAX_TERMINALS", 2)
    harness = new_harness({"session/prompt": [[["call_python", CROWD], ["end"]]]}, capabilities=("shell",))
    await harness.spawn()
    assert (await harness.run()).text == "2"


UNHEARD = """
import select
line = json.dumps({"jsonrpc": "2.0", "id": 5, "method": "unknown"}).encode() + b"\\n"
count = 0
while count < 50_000 and select.select([], [1], [], 1)[1]:
    count += os.write(1, line) == len(line)
for _ in range(count):
    hear()
text("made to wait" if count < 50_000 else "never made to wait")
"""


async def test_an_agent_that_takes_no_answers_is_not_read_until_it_does(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_UNTAKEN_BYTES", 1 << 20)
    harness = new_harness({"session/prompt": [[["call_python", UNHEARD], ["end"]]]})
    await harness.spawn()
    sink = await harness.run()
    assert (sink.text, sink.ends) == ("made to wait", ["finished"])


READER = """
import select
path = os.path.join(os.getcwd(), "big")
open(path, "w").write("old" * (1 << 20))
params = {"sessionId": session, "path": path}
for number in range(20):
    write({"jsonrpc": "2.0", "id": number, "method": "fs/read_text_file", "params": params})
select.select([stdin], [], [])
time.sleep(1)
open(path, "w").write("new")
text(" ".join(hear()["result"]["content"][:3] for _ in range(20)))
"""


async def test_files_are_read_as_their_answers_are_taken(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_UNTAKEN_BYTES", 1 << 20)
    harness = new_harness({"session/prompt": [[["call_python", READER], ["end"]]]}, capabilities=("read",))
    await harness.spawn()
    sink = await harness.run()
    assert sink.text.split() == ["old"] + ["new"] * 19


async def test_an_agent_that_ends_with_answers_untaken_is_lost(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_UNTAKEN_BYTES", 1 << 10)
    monkeypatch.setattr("runtimed.execution.acp.agent.EXIT_DEADLINE_S", 30.0)
    request = {"jsonrpc": "2.0", "id": 5, "method": "unknown"}
    leaving = "import threading; threading.Timer(1, os._exit, [3]).start()"
    asking = f"for _ in range(5000): write({request!r})"
    harness = new_harness({"session/prompt": [[["call_python", leaving], ["call_python", asking]]]})
    await harness.spawn()
    sink = await harness.run()
    assert [reason for reason, _ in sink.losses] == ["exit"]
