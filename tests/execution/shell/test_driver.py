"""What a Worker's shell does with scripts of every kind."""

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.session.text_output import MAX_TEXT_BLOCK
from runtimed.execution.shell.driver import STATE_LOST
from runtimed.execution.shell.shell import Shell
from runtimed.execution.workspace import Home
from runtimed.model.event import Alert, Payload, RunEnd, TextDelta, TextDone, ToolCallDone, ToolResult
from tests.execution.conftest import Harness, NewHarness


async def test_a_run_tells_of_its_script_its_output_and_its_status(shell: Harness) -> None:
    run = await shell.run("echo hello; echo trouble >&2; false")
    assert [name for name in run.names if name != "text_delta"] == [
        "invoke_start",
        "tool_call_start",
        "tool_call_done",
        "text_done",
        "tool_result",
        "run_end",
    ]
    assert run.text == run.entries[0] == "hello\ntrouble\n"
    call = next(event for event in run.events if isinstance(event, ToolCallDone))
    assert json.loads(call.arguments) == {"script": "echo hello; echo trouble >&2; false"}
    assert run.events[-2] == ToolResult(call.id, "exit status 1", is_error=True, exit_status=1)


async def test_a_run_without_output_has_no_text(shell: Harness) -> None:
    run = await shell.run("true")
    assert run.names == ["invoke_start", "tool_call_start", "tool_call_done", "tool_result", "run_end"]
    assert run.status == 0


async def test_directory_variables_and_functions_last(shell: Harness) -> None:
    await shell.run("mkdir inner; cd inner; place=here; told() { echo told $place; }; set -- a b")
    run = await shell.run('told; basename "$PWD"; echo $#')
    assert run.text == "told here\ninner\n2\n"


async def test_a_shell_lives_in_a_private_folder_of_its_worker(shell: Harness) -> None:
    run = await shell.run("pwd; stat -c %a . .. ../scripts/script")
    assert run.text == f"{shell.folder}/home\n700\n700\n644\n"


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("echo 'unclosed", 2),
        ("if true", 2),
        ("echo )", 2),
        ("cat <<X\nunfinished", 0),
        ("-x", 127),
        ("\n", 0),
        ("# nothing", 0),
        ("return 4; echo not", 4),
        ("break", 0),
        ("continue", 0),
        ("PATH=/nowhere; nothing", 127),
        ("IFS=x", 0),
        ("set -x", 0),
        ("(exit 9)", 9),
        ("exec >/dev/null", 0),
        ("exec <&- >&- 2>&-", 0),
        ("exec 3>&- 4>&- 5>&-", 0),
        ("read() { :; }; printf() { :; }; eval() { :; }", 0),
        ("sleep 1000 &", 0),
        ("yes | head -c 3000000", 0),
        ("cat; read line", 1),
        ("trap 'echo over' EXIT", 0),
        ('cd /; cd "$OLDPWD"; rmdir ../home', 0),
    ],
)
async def test_a_script_can_not_keep_the_next_one_from_running(shell: Harness, script: str, status: int) -> None:
    assert (await shell.run(script)).status == status
    run = await shell.run("set +x; echo still here; echo aloud >&2")
    assert run.entries[-1].endswith("still here\naloud\n")
    assert run.status == 0


@pytest.mark.parametrize(
    ("script", "ended", "place"),
    [
        ("exit 3", "ended with status 3", "/"),
        ("exit", "ended with status 0", "/"),
        ("kill $$; sleep 1000", "was ended by SIGTERM", None),
        ("kill -KILL $$; sleep 1000", "was ended by SIGKILL", None),
        ("kill -KILL 0; sleep 1000", "was ended by SIGKILL", None),
        ("set -e; (exit 6); echo not", "ended with status 6", "/"),
        ("set -e; false && true", "ended with status 1", "/"),
        ("exec sh -c 'exit 5'", "ended with status 5", None),
        ("sleep 1000 & exit 4", "ended with status 4", "/"),
        ("break 2", "ended with status 0", "/"),
    ],
)
async def test_a_script_that_ends_the_shell_says_so_in_its_own_run(
    shell: Harness, script: str, ended: str, place: str | None
) -> None:
    run = await shell.run(f"cd /; gone=yes; echo last words; {script}")
    after = await shell.run("pwd; echo ${gone:-no}")

    assert run.text == "last words\n"
    assert run.names[-4:] == ["text_done", "alert", "tool_result", "run_end"]
    assert run.alerts == [f"the shell {ended}; {STATE_LOST}"]
    assert "alert" not in after.names
    assert after.text.endswith("\nno\n")
    assert place is None or after.text == f"{place}\nno\n"


async def test_a_shell_that_is_killed_leaves_the_directory_where_its_script_began(shell: Harness) -> None:
    await shell.run("mkdir inner; cd inner")
    await shell.run("cd /; kill -KILL $$; sleep 1000")
    assert (await shell.run('basename "$PWD"')).text == "inner\n"


@pytest.mark.parametrize("name", ["two words", "it's", "-", 'a"b', "line\nfeed", "$(echo no)", "*"])
async def test_the_next_shell_begins_in_a_directory_of_any_name(shell: Harness, name: str) -> None:
    run = await shell.run(f"mkdir ./{shlex.quote(name)}; cd ./{shlex.quote(name)}; pwd; exit 1")
    assert (await shell.run("pwd")).text == run.text == f"{shell.folder}/home/{name}\n"


async def test_a_last_directory_that_is_gone_is_told_and_the_next_script_begins_at_home(shell: Harness) -> None:
    await shell.run('mkdir inner; cd inner; rmdir "$PWD"; exit 1')
    run = await shell.run("pwd; echo $#")
    assert run.names[:2] == ["invoke_start", "alert"]
    assert run.alerts == ["the last directory cannot be entered: the script starts in the home"]
    assert run.text == f"{shell.folder}/home\n0\n"


TOOLS = ("mkfifo", "ln", "rm", "printf", "rmdir")
SHELLS = pytest.mark.parametrize("program", ["bash", "sh"])


def are_more_than(count: int, events: list[Payload]) -> bool:
    return len(events) > count


StartShell = Callable[[str], Awaitable[Harness]]


@pytest.fixture
def with_shell(new_harness: NewHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StartShell:
    """Starts a Worker whose PATH has one shell alone."""

    async def start(program: str) -> Harness:
        for name in (program, "sh", "sleep", "cat", "mkdir", "unshare", "setsid", "setpriv", "true", *TOOLS):
            if place := shutil.which(name):
                with contextlib.suppress(FileExistsError):
                    await asyncio.to_thread((tmp_path / name).symlink_to, place)
        monkeypatch.setenv("PATH", str(tmp_path))
        harness = new_harness()
        assert await harness.spawn() == BackendAnswer("accepted")
        return harness

    return start


@SHELLS
@pytest.mark.parametrize(
    ("script", "alerts"),
    [
        ("set -n", [f"the shell ended with status 0; {STATE_LOST}"]),
        ("continue 2", []),
        ("command() { :; }", []),
        ("command() { :; }; continue 2", []),
        ("readonly _", []),
    ],
)
async def test_a_script_that_upsets_what_runs_it_ends_its_run_as_any_other(
    with_shell: StartShell, program: str, script: str, alerts: list[str]
) -> None:
    shell = await with_shell(program)

    run = await shell.run(script)
    after = await shell.run("echo still here")

    assert (run.status, run.alerts) == (0, alerts)
    assert after.text.startswith("still here\n")  # bash complains of a `_` that it can't set
    assert (after.status, after.alerts) == (0, [])


@SHELLS
@pytest.mark.parametrize(
    "planted",
    [
        "mkfifo ../left",
        "mkdir ../left",
        "ln -s home/precious ../left",
        "ln precious ../left",
        "ln -s /dev/full ../left",
        "ulimit -f 0",
    ],
)
async def test_no_file_and_no_limit_keeps_a_shell_from_telling_its_directory(
    with_shell: StartShell, program: str, planted: str
) -> None:
    shell = await with_shell(program)
    await shell.run(f"echo precious >precious; rm -f ../left; mkdir inner; {planted}; cd inner")
    await shell.run("true")

    killed = await shell.run("exit 1")
    after = await shell.run("pwd; cat ../precious")

    assert killed.status == 1
    assert after.text == f"{shell.folder}/home/inner\nprecious\n"


@SHELLS
@pytest.mark.parametrize(
    "planted", ["PWD=begun", "PWD=7", "PWD=/nowhere/$(printf '%05000d' 0)", "cd /; PWD=$PWD$(printf '%05000d' 0)/"]
)
async def test_what_a_script_puts_in_pwd_is_no_status_and_no_part_of_a_path(
    with_shell: StartShell, program: str, planted: str
) -> None:
    shell = await with_shell(program)
    await shell.run("mkdir inner; cd inner")

    run = await shell.run(planted)
    await shell.run("kill -KILL $$; sleep 1000")
    after = await shell.run("pwd")

    assert run.status == 0
    assert (after.text, after.alerts) == (f"{shell.folder}/home/inner\n", [])


@SHELLS
async def test_an_exit_in_a_function_leaves_at_least_the_directory_where_the_script_began(
    with_shell: StartShell, program: str
) -> None:
    shell = await with_shell(program)
    await shell.run("mkdir inner; cd inner")

    run = await shell.run("die() { exit 3; }; mkdir more; cd more; die")
    after = await shell.run("pwd")

    inner = f"{shell.folder}/home/inner"
    assert run.status == 3
    assert after.text in {f"{inner}\n", f"{inner}/more\n"}


@SHELLS
@pytest.mark.parametrize("option", ["set -e", "set -u", "set -eu", "set -o errexit; set -o nounset"])
async def test_an_option_that_ends_the_shell_at_a_failure_ends_with_its_script(
    with_shell: StartShell, program: str, option: str
) -> None:
    shell = await with_shell(program)
    await shell.run(f"cd /; kept=yes; {option}")
    failed = await shell.run("false; echo $nothing; false")
    after = await shell.run("echo $PWD $kept ${BASH_VERSION:+bash}")

    assert failed.status == 1
    assert failed.alerts == after.alerts == []
    assert after.text.split() == ["/", "yes", *["bash"] * (program == "bash")]


@SHELLS
async def test_set_e_stops_the_script_that_set_it(with_shell: StartShell, program: str) -> None:
    shell = await with_shell(program)
    run = await shell.run("cd /; set -e; echo one; (exit 6); echo two")
    after = await shell.run("false; pwd")

    assert (run.text, run.status) == ("one\n", 6)
    assert len(run.alerts) == 1
    assert (after.text, after.status, after.alerts) == ("/\n", 0, [])


@SHELLS
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("if true; then\r\n  echo yes\r\nfi\r\necho end\r\n", "yes\nend\n"),
        ("echo no line feed\r", "no line feed\n"),
        ("cat <<X\r\ntext\r\nX\r\n", "text\n"),
        ("case a in\r\na) echo a;;\r\nesac\r\n", "a\n"),
        ("\ufeffecho marked\n", "marked\n"),
        ("\ufeff# first\r\necho both\r\n", "both\n"),
        ("printf 'a\rb\\n'", "a\rb\n"),
        ("\ufeff", ""),
    ],
)
async def test_a_script_written_on_windows_runs_as_with_line_feeds_alone(
    with_shell: StartShell, program: str, script: str, said: str
) -> None:
    run = await (await with_shell(program)).run(script)
    assert (run.text, run.status) == (said, 0)
    call = next(event for event in run.events if isinstance(event, ToolCallDone))
    assert json.loads(call.arguments) == {"script": script}


@SHELLS
async def test_a_script_after_a_folder_made_anew_has_its_own_first_line(with_shell: StartShell, program: str) -> None:
    shell = await with_shell(program)
    await shell.run('cd /; rm -rf "$OLDPWD"')

    run = await shell.run("\ufeffnothing\r\necho marked\r\n")

    assert re.search(r"\b1: .*nothing: .*\nmarked\n$", run.text)
    assert run.status == 0


async def test_a_run_that_is_interrupted_before_its_script_begins_does_not_begin_it(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = new_harness()
    await harness.spawn()
    freed = asyncio.Event()

    async def renewed(_: Home, _enclosure: object, *, stays: bool) -> None:
        await freed.wait()

    monkeypatch.setattr(Home, "renewed", renewed)
    await harness.begin("touch begun")
    await harness.sink.until(lambda events: events)
    interrupt = asyncio.create_task(harness.backend.interrupt(harness.worker_id))
    await asyncio.sleep(0)
    freed.set()

    assert await interrupt == BackendAnswer("accepted")

    monkeypatch.undo()
    await harness.sink.until(lambda events: events[-1] == RunEnd("rolled_back"))
    run = await harness.run("ls")
    assert (run.text, run.alerts) == ("", [])


async def test_an_unset_variable_under_set_u_ends_the_shell_with_an_error(shell: Harness) -> None:
    run = await shell.run("set -u; echo $nothing")
    assert run.status
    assert "unbound variable" in run.text


async def test_a_shell_that_dies_between_runs_is_replaced_too(shell: Harness) -> None:
    await shell.run("(until [ -e go ]; do sleep 0.01; done; kill -KILL $$) &")
    await asyncio.to_thread((shell.folder / "home" / "go").touch)
    await shell.traces.until(lambda pids: not pids)
    run = await shell.run("echo fresh")
    assert run.names[:2] == ["invoke_start", "alert"]
    assert run.alerts == [f"the shell was ended by SIGKILL; {STATE_LOST}"]
    assert run.text == "fresh\n"


async def test_what_a_background_job_prints_between_runs_is_a_text_of_its_own_at_once(shell: Harness) -> None:
    run = await shell.run("(until [ -e go ]; do sleep 0.01; done; printf later) & echo now")
    assert run.text == "now\n"
    heard = len(shell.sink.events)
    await asyncio.to_thread((shell.folder / "home" / "go").touch)
    await shell.sink.until(lambda events: events[heard:] == [TextDelta("later"), TextDone("later")])
    assert (await shell.run("true")).names[0] == "invoke_start"


async def test_an_input_is_accepted_once_what_was_printed_before_it_is_told(shell: Harness) -> None:
    await shell.run(
        "(until [ -e go ]; do sleep 0.01; done; head -c 5000 /dev/zero; echo >../done; sleep 1000) & true"
    )
    heard = len(shell.sink.events)
    await asyncio.to_thread((shell.folder / "home" / "go").touch)
    async with asyncio.timeout(30):
        while not await asyncio.to_thread((shell.folder / "done").exists):
            continue
    await shell.offer("true")
    told = shell.sink.events[heard:]
    assert "".join(event.text for event in told if isinstance(event, TextDelta)) == "\0" * 5000
    assert isinstance(told[-1], TextDone)


async def test_a_background_job_that_never_stops_talking_is_cut_before_an_input_is_accepted(shell: Harness) -> None:
    await shell.run("yes & sleep 0.1")
    for _ in range(3):
        heard = len(shell.sink.events)
        await shell.sink.until(partial(are_more_than, heard))
        assert await shell.offer("true") == BackendAnswer("accepted")
        assert isinstance(shell.sink.events[-1], TextDone)
        heard = len(shell.sink.events)
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert len(shell.sink.events) == heard
        shell.backend.withdraw(shell.worker_id, shell.last_input)


async def test_an_offer_ends_with_its_worker(shell: Harness) -> None:
    await shell.run("(until [ -e go ]; do sleep 0.01; done; echo more; echo >../done; sleep 1000) & true")
    shell.sink.hold()
    await asyncio.to_thread((shell.folder / "home" / "go").touch)
    async with asyncio.timeout(30):
        while not await asyncio.to_thread((shell.folder / "done").exists):
            continue

    offered = asyncio.create_task(shell.offer("true"))
    await asyncio.sleep(0)
    canceled = await shell.backend.cancel(shell.worker_id, None)

    assert canceled == BackendAnswer("accepted")
    assert await offered == BackendAnswer("errored", "nothing runs this Worker")


async def test_a_stop_is_not_held_up_by_an_input_that_was_offered(shell: Harness) -> None:
    await shell.run("yes & true")
    assert await shell.offer("true") == BackendAnswer("accepted")
    assert await shell.backend.stop(shell.worker_id, None) == BackendAnswer("accepted")


async def test_a_background_job_that_never_stops_talking_does_not_keep_a_run_from_ending(shell: Harness) -> None:
    run = await shell.run("yes & sleep 0.1")
    assert run.status == 0
    ended = await shell.run("kill $!")  # what the job wrote before may follow the end of the run
    assert [event for event in ended.events if isinstance(event, RunEnd)] == [RunEnd("finished")]


async def test_long_output_arrives_whole_in_entries_of_bounded_size(shell: Harness) -> None:
    run = await shell.run("head -c 5000000 /dev/zero | tr '\\0' é")
    assert len(run.text.encode()) >= 5_000_000
    assert "".join(run.entries) == run.text
    assert len(run.entries) > 4
    assert all(len(entry.encode()) <= MAX_TEXT_BLOCK for entry in run.entries)


async def test_a_shell_waits_while_nobody_takes_its_output(shell: Harness) -> None:
    await shell.begin("i=0; while [ $i -lt 3000 ]; do printf '%010000d' $i; i=$((i+1)); echo $i >count; done")
    await shell.sink.until(lambda events: isinstance(events[-1:] and events[-1], TextDelta))
    shell.sink.hold()
    count = shell.folder / "home" / "count"
    before, now = "", ""
    async with asyncio.timeout(30):
        while not now or before != now:
            before, now = now, await asyncio.to_thread(_contents, count)
            await asyncio.sleep(0.3)
    assert int(now) < 3_000
    shell.sink.free()
    await shell.sink.until(lambda events: events[-1:] == [RunEnd("finished")])
    assert sum(len(event.text) for event in shell.sink.events if isinstance(event, TextDelta)) == 30_000_000


def _contents(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def test_bytes_that_are_no_text_are_replaced_and_a_split_character_is_not(shell: Harness) -> None:
    parts = [r"a\377b\000c\033[1m\342", r"\202", r"\254\303"]
    run = await shell.run("; sleep 0.1; ".join(f"printf '{part}'" for part in parts))
    assert run.text == run.entries[0] == "a\ufffdb\0c\x1b[1m€\ufffd"


async def test_a_script_may_be_as_large_as_eight_mebibytes(shell: Harness) -> None:
    filler = "# " + "x" * ((8 << 20) - 20) + "\n"
    assert (await shell.run(filler + "echo reached")).text == "reached\n"


async def test_a_script_with_a_nul_is_refused(shell: Harness) -> None:
    answer = await shell.offer("echo a\0b")
    assert answer == BackendAnswer("rejected", "content: a script must be Unicode text without the NUL character")
    assert shell.sink.events == []
    assert (await shell.offer("echo \ud800")).outcome == "rejected"


async def test_a_system_input_is_not_for_a_shell(shell: Harness) -> None:
    answer = await shell.offer("be nice", kind="system")
    assert answer == BackendAnswer("unsupported", "kind: a shell takes user inputs only")


async def test_a_program_sees_the_allowed_variables_and_no_others(
    shell: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shell.run("exit")
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    monkeypatch.setenv("LC_TIME", "C")
    run = await shell.run("env")
    seen = dict(line.split("=", 1) for line in run.text.splitlines())
    allowed = {"PATH", "HOME", "LANG", "TERM", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR", "LC_TIME", "TRACE"}
    of_the_shell = {"PWD", "OLDPWD", "SHLVL", "_"}
    assert seen["TRACE"] == shell.traces.mark
    assert seen["LC_TIME"] == "C"
    assert seen.keys() - allowed - of_the_shell <= {"RUNTIMED_TREE"}
    assert seen["PATH"] == os.environ["PATH"]


async def test_a_program_inherits_no_descriptor_but_its_three_streams(shell: Harness) -> None:
    leaky = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaky, True)
    try:
        await shell.run("exit")
        run = await shell.run("ls /proc/self/fd; ls -l /proc/self/fd | grep -c pipe:; (ls /proc/self/fd)")
    finally:
        os.close(leaky)
    assert run.text.split() == ["0", "1", "2", "3", "2", "0", "1", "2", "3"]


async def test_a_shell_that_can_not_be_started_is_an_answer(new_harness: NewHarness) -> None:
    harness = new_harness()
    await asyncio.to_thread(harness.folder.touch)
    answer = await harness.spawn()
    assert answer.outcome == "errored"
    assert answer.message is not None
    assert answer.message.startswith("the shell could not be started: ")
    assert (await harness.offer("true")).outcome == "errored"


async def test_a_spawn_that_raises_leaves_no_worker_that_runs_already(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = new_harness()
    monkeypatch.setattr("runtimed.execution.session.run_machine.RunMachine.open", fail)
    with pytest.raises(RuntimeError, match="broken"):
        await harness.spawn()
    monkeypatch.undo()

    assert await harness.spawn() == BackendAnswer("accepted")
    assert (await harness.run("echo here")).text == "here\n"


async def test_a_backend_closes_every_worker_although_one_can_not_be_ended(
    new_harness: NewHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = new_harness()
    await harness.spawn()
    await harness.run("sleep 1000 &")
    end = Shell.end

    async def end_and_fail(ended: Shell, grace: float) -> None:
        await end(ended, grace)
        raise RuntimeError("broken")

    monkeypatch.setattr(Shell, "end", end_and_fail)

    await harness.backend.close()

    monkeypatch.undo()
    assert await harness.spawn() == BackendAnswer("accepted")


async def fail(*_: object) -> None:
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("kill -KILL $$", "the shell could not be started: the shell was ended by SIGKILL"),
        (
            "echo out of order >&2; exit 3",
            "the shell could not be started: the shell ended with status 3; stderr: out of order",
        ),
    ],
)
async def test_a_shell_that_ends_before_it_is_ready_is_told_with_its_end_and_what_it_said(
    new_harness: NewHarness,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    program: str,
    message: str,
) -> None:
    bash = tmp_path / "bin" / "bash"
    bash.parent.mkdir()
    await asyncio.to_thread(bash.write_text, f"#!/bin/sh\n{program}\n")
    bash.chmod(0o700)
    monkeypatch.setenv("PATH", f"{bash.parent}:{os.environ['PATH']}")
    answer = await new_harness().spawn()
    assert answer.outcome == "errored"
    assert answer.message is not None
    assert answer.message.startswith(message)
    logged = [
        record for record in caplog.records if record.name != "runtimed.execution.processes.cgroup"
    ]  # it sweeps
    assert [record.exc_info for record in logged] == [None]


async def test_a_shell_that_is_too_large_to_start_is_told_with_its_limit(
    new_harness: NewHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bash = tmp_path / "bin" / "bash"
    bash.parent.mkdir()
    greedy = "import time; held = bytearray(200 << 20); time.sleep(60)"
    await asyncio.to_thread(bash.write_text, f"#!{sys.executable}\n{greedy}\n")
    bash.chmod(0o700)
    monkeypatch.setenv("PATH", f"{bash.parent}:{os.environ['PATH']}")
    answer = await new_harness(limits={"max_memory_bytes": 64 << 20}).spawn()
    assert answer.message == (
        "the shell could not be started: "
        "the shell was ended: it used more memory than max_memory_bytes allows (67,108,864 bytes)"
    )


async def test_a_script_that_can_not_be_written_ends_its_run_with_an_error(shell: Harness) -> None:
    await asyncio.to_thread((shell.folder / "scripts" / "script").mkdir)
    run = await shell.run("echo not")
    assert run.names == ["invoke_start", "error", "run_end"]
    assert str(shell.folder) not in str(run)
    await asyncio.to_thread((shell.folder / "scripts" / "script").rmdir)
    assert (await shell.run("echo again")).text == "again\n"


async def test_a_link_in_place_of_the_script_is_not_followed(shell: Harness) -> None:
    await shell.run("echo precious >target; rm -f ../scripts/script; ln -s ../home/target ../scripts/script")
    assert (await shell.run("cat target")).text == "precious\n"


@pytest.mark.parametrize("script", ["echo 'unclosed", "return 3", "break", "exec >/dev/null", "nothing"])
async def test_a_machine_without_bash_gets_its_plain_shell(with_shell: StartShell, script: str) -> None:
    harness = await with_shell("sh")
    await harness.run(f"x=lasting\n{script}")
    assert (await harness.run("echo ${BASH_VERSION:-plain} $x")).text == "plain lasting\n"
    assert (await harness.run("exit 3")).status == 3


@pytest.mark.parametrize(
    ("script", "limits", "setting"),
    [
        ("for i in {1..40}; do sleep 1000 & done; wait", {"max_processes": 20}, "max_processes"),
        ("while :; do :; done", {"max_cpu_s": 0.3}, "max_cpu_s"),
        ("yes", {"max_output_bytes": 100_000}, "max_output_bytes"),
        ("sleep 1000", {"max_run_s": 1.5}, "max_run_s"),
    ],
)
async def test_a_shell_that_meets_a_limit_is_ended_and_the_next_run_gets_a_fresh_one(
    new_harness: NewHarness, script: str, limits: dict[str, Any], setting: str
) -> None:
    harness = new_harness(limits=limits)
    await harness.spawn()
    run = await harness.run(script)
    told = [event.message for event in run.events if isinstance(event, Alert)]
    assert len(told) == 1
    assert setting in told[0]
    assert run.status
    after = await harness.run("echo fresh")
    assert (after.text, after.alerts) == ("fresh\n", [])
