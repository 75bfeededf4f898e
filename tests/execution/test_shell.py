"""What a Worker's shell does with scripts of every kind."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtimed.core.ports import Answer
from runtimed.execution.output import MAX_TEXT_BLOCK
from runtimed.model.event import Alert, RunEnd, TextDelta, ToolCallDone, ToolResult


async def test_a_run_tells_of_its_script_its_output_and_its_status(shell: Any) -> None:
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


async def test_a_run_without_output_has_no_text(shell: Any) -> None:
    run = await shell.run("true")
    assert run.names == ["invoke_start", "tool_call_start", "tool_call_done", "tool_result", "run_end"]
    assert run.status == 0


async def test_directory_variables_and_functions_last(shell: Any) -> None:
    await shell.run("mkdir inner; cd inner; place=here; told() { echo told $place; }; set -- a b")
    run = await shell.run('told; basename "$PWD"; echo $#')
    assert run.text == "told here\ninner\n2\n"


async def test_a_shell_lives_in_a_private_folder_of_its_worker(shell: Any) -> None:
    run = await shell.run("pwd; stat -c %a . .. ../script")
    assert run.text == f"{shell.folder}/home\n700\n700\n600\n"


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
async def test_a_script_can_not_keep_the_next_one_from_running(shell: Any, script: str, status: int) -> None:
    assert (await shell.run(script)).status == status
    run = await shell.run("set +x; echo still here; echo aloud >&2")
    assert run.entries[-1].endswith("still here\naloud\n")
    assert run.status == 0


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 3", 3),
        ("exit", 0),
        ("kill $$; sleep 1000", 143),
        ("kill -KILL $$; sleep 1000", 137),
        ("kill -KILL 0; sleep 1000", 137),
        ("set -e; (exit 6); echo not", 6),
        ("exec sh -c 'exit 5'", 5),
        ("sleep 1000 & exit 4", 4),
        ("break 2", 0),
    ],
)
async def test_a_script_that_ends_the_shell_is_reported_and_the_next_gets_a_fresh_one(
    shell: Any, script: str, status: int
) -> None:
    run = await shell.run(f"cd /; gone=yes; echo last words; {script}")
    assert (run.status, run.text) == (status, "last words\n")
    after = await shell.run('basename "$PWD"; echo ${gone:-no}')
    assert after.names[:2] == ["invoke_start", "alert"]
    assert after.events[1].message == (
        f"the shell had ended with status {status}; a fresh one starts: its directory and variables are new"
    )
    assert after.text == "home\nno\n"
    assert "alert" not in (await shell.run("true")).names


async def test_an_unset_variable_under_set_u_ends_the_shell_with_an_error(shell: Any) -> None:
    run = await shell.run("set -u; echo $nothing")
    assert run.status
    assert "unbound variable" in run.text


async def test_a_shell_that_dies_between_runs_is_replaced_too(shell: Any) -> None:
    await shell.run("(sleep 0.05; kill -KILL $$) &")
    await shell.traces.until(lambda pids: not pids)
    run = await shell.run("echo fresh")
    assert isinstance(run.events[1], Alert)
    assert run.text == "fresh\n"


async def test_output_of_background_jobs_is_heard_between_runs(shell: Any) -> None:
    run = await shell.run("(until [ -e go ]; do sleep 0.01; done; echo later) & echo now")
    assert run.text == "now\n"
    heard = len(shell.sink.events)
    async with asyncio.timeout(30):
        await asyncio.to_thread((shell.folder / "home" / "go").touch)
        await shell.sink.until(lambda events: events[heard:] == [TextDelta("later\n")])
    after = await shell.run("true")
    assert after.names[:2] == ["text_done", "invoke_start"]
    assert after.entries == ["later\n"]


async def test_a_background_job_that_never_stops_talking_does_not_keep_a_run_from_ending(shell: Any) -> None:
    run = await shell.run("yes & sleep 0.1")
    assert run.status == 0
    assert (await shell.run("kill $!")).events[-1] == RunEnd("finished")


async def test_long_output_arrives_whole_in_entries_of_bounded_size(shell: Any) -> None:
    run = await shell.run("head -c 5000000 /dev/zero | tr '\\0' é")
    assert len(run.text.encode()) >= 5_000_000
    assert "".join(run.entries) == run.text
    assert len(run.entries) > 4
    assert all(len(entry.encode()) <= MAX_TEXT_BLOCK for entry in run.entries)


async def test_a_shell_waits_while_nobody_takes_its_output(shell: Any) -> None:
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


async def test_bytes_that_are_no_text_are_replaced_and_a_split_character_is_not(shell: Any) -> None:
    parts = [r"a\377b\000c\033[1m\342", r"\202", r"\254\303"]
    run = await shell.run("; sleep 0.1; ".join(f"printf '{part}'" for part in parts))
    assert run.text == run.entries[0] == "a\ufffdb\0c\x1b[1m€\ufffd"


async def test_a_script_may_be_as_large_as_eight_mebibytes(shell: Any) -> None:
    filler = "# " + "x" * ((8 << 20) - 20) + "\n"
    assert (await shell.run(filler + "echo reached")).text == "reached\n"


async def test_a_script_with_a_nul_is_refused(shell: Any) -> None:
    answer = await shell.offer("echo a\0b")
    assert answer == Answer("rejected", "content: a script must be Unicode text without the NUL character")
    assert shell.sink.events == []
    assert (await shell.offer("echo \ud800")).outcome == "rejected"


async def test_a_system_input_is_not_for_a_shell(shell: Any) -> None:
    answer = await shell.offer("be nice", kind="system")
    assert answer == Answer("unsupported", "kind: a shell takes user inputs only")


async def test_a_program_sees_the_allowed_variables_and_no_others(
    shell: Any, monkeypatch: pytest.MonkeyPatch
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


async def test_a_program_inherits_no_descriptor_but_its_three_streams(shell: Any) -> None:
    leaky = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaky, True)
    try:
        await shell.run("exit")
        run = await shell.run("ls /proc/self/fd; ls -l /proc/self/fd | grep -c pipe:; (ls /proc/self/fd)")
    finally:
        os.close(leaky)
    assert run.text.split() == ["0", "1", "2", "3", "2", "0", "1", "2", "3"]


async def test_a_shell_that_can_not_be_started_is_an_answer(new_bench: Callable[..., Any]) -> None:
    bench = new_bench()
    await asyncio.to_thread(bench.folder.touch)
    answer = await bench.spawn()
    assert answer.outcome == "errored"
    assert answer.message.startswith("no shell could be started: ")
    assert (await bench.offer("true")).outcome == "errored"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("kill -KILL $$", "no shell could be started: the shell was ended by SIGKILL"),
        (
            "echo out of order >&2; exit 3",
            "no shell could be started: the shell ended with status 3; its last words: out of order",
        ),
    ],
)
async def test_a_shell_that_ends_before_it_is_ready_is_told_with_its_end_and_what_it_said(
    new_bench: Callable[..., Any],
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
    answer = await new_bench().spawn()
    assert answer.outcome == "errored"
    assert answer.message.startswith(message)
    assert [record.exc_info for record in caplog.records] == [None]


async def test_a_shell_that_is_too_large_to_start_is_told_with_its_limit(
    new_bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bash = tmp_path / "bin" / "bash"
    bash.parent.mkdir()
    greedy = "import time; held = bytearray(200 << 20); time.sleep(60)"
    await asyncio.to_thread(bash.write_text, f"#!{sys.executable}\n{greedy}\n")
    bash.chmod(0o700)
    monkeypatch.setenv("PATH", f"{bash.parent}:{os.environ['PATH']}")
    answer = await new_bench(limits={"max_memory_bytes": 64 << 20}).spawn()
    assert answer.message == (
        "no shell could be started: "
        "the shell was ended: it took more memory than max_memory_bytes allows (67,108,864 bytes)"
    )


async def test_a_script_that_can_not_be_written_ends_its_run_with_an_error(shell: Any) -> None:
    await asyncio.to_thread((shell.folder / "script").mkdir)
    run = await shell.run("echo not")
    assert run.names == ["invoke_start", "error", "run_end"]
    assert str(shell.folder) not in str(run)
    await asyncio.to_thread((shell.folder / "script").rmdir)
    assert (await shell.run("echo again")).text == "again\n"


async def test_a_link_in_place_of_the_script_is_not_followed(shell: Any) -> None:
    await shell.run("echo precious >target; rm -f ../script; ln -s home/target ../script")
    assert (await shell.run("cat target")).text == "precious\n"


@pytest.mark.parametrize("script", ["echo 'unclosed", "return 3", "break", "exec >/dev/null", "nothing"])
async def test_a_machine_without_bash_gets_its_plain_shell(
    new_bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    tools = {name: shutil.which(name) for name in ("sh", "sleep", "unshare", "setsid", "setpriv", "true")}
    for name, place in tools.items():
        if place is not None:
            await asyncio.to_thread((tmp_path / name).symlink_to, place)
    monkeypatch.setenv("PATH", str(tmp_path))
    bench = new_bench()
    assert await bench.spawn() == Answer("accepted")
    await bench.run(f"x=lasting\n{script}")
    assert (await bench.run("echo ${BASH_VERSION:-plain} $x")).text == "plain lasting\n"
    assert (await bench.run("exit 3")).status == 3


@pytest.mark.parametrize(
    ("script", "limits", "setting"),
    [
        ("for i in {1..40}; do sleep 1000 & done; wait", {"max_processes": 20}, "max_processes"),
        ("while :; do :; done", {"max_cpu_s": 0.3}, "max_cpu_s"),
        ("yes", {"max_output_bytes": 100_000}, "max_output_bytes"),
        ("sleep 1000", {"max_run_s": 0.3}, "max_run_s"),
    ],
)
async def test_a_shell_that_meets_a_limit_is_ended_and_the_next_run_gets_a_fresh_one(
    new_bench: Callable[..., Any], script: str, limits: dict[str, Any], setting: str
) -> None:
    bench = new_bench(limits=limits)
    await bench.spawn()
    run = await bench.run(script)
    told = [event.message for event in run.events if isinstance(event, Alert)]
    assert len(told) == 1
    assert setting in told[0]
    assert run.status
    assert (await bench.run("echo fresh")).text == "fresh\n"
