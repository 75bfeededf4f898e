"""What the adapters rely on when they talk with a program in lines."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from runtimed.execution.processes.environment import environment
from runtimed.execution.processes.line_process import TAIL_BYTES, Command, LineProcess, Unresponsive
from runtimed.execution.processes.lines import Chunk
from runtimed.execution.processes.supervisor import Supervisor
from tests.execution.conftest import Traces

Start = Callable[..., Awaitable[LineProcess]]


@pytest.fixture
async def start(supervisor: Supervisor, traces: Traces) -> AsyncIterator[Start]:
    """Starts a bash script as a program; in the end nothing of it may be left."""
    made: list[LineProcess] = []

    async def start(script: str, **options: Any) -> LineProcess:
        env = environment({"TRACE": traces.mark})
        command = Command(("bash", "-c", script), Path("/"), env)
        made.append(await LineProcess.start(supervisor, command, **options))
        return made[-1]

    yield start
    for program in made:
        await program.stop(0)
    assert await traces.pids() == []


async def _all(program: LineProcess) -> bytes:
    said = b""
    async with asyncio.timeout(30):
        while chunk := await program.read():
            said += chunk.data
    return said


async def test_lines_go_in_and_come_out(start: Start) -> None:
    program = await start('while read -r line; do echo "heard $line"; done')
    await program.write(b"one\n")
    assert await program.read() == Chunk(b"heard one\n")
    await program.write(b"two\n")
    assert await program.read() == Chunk(b"heard two\n")
    assert program.status is None


async def test_all_output_is_there_before_its_end(start: Start) -> None:
    program = await start("head -c 1000000 /dev/zero; echo last; exit 3")
    assert await _all(program) == bytes(1_000_000) + b"last\n"
    assert await program.ended() == program.status == 3
    assert await program.read() is None


async def test_a_grandchild_that_holds_the_pipe_ends_with_the_program(start: Start) -> None:
    program = await start("(trap '' TERM HUP; setsid sleep 1000) & sleep 1000 & echo gone")
    assert await _all(program) == b"gone\n"
    assert await program.ended() == 0


async def test_a_program_that_closes_its_output_may_end_by_itself(start: Start) -> None:
    program = await start("echo last; exec >&-; read -r; exit 4")
    assert await program.read() == Chunk(b"last\n")
    await program.write(b"go on\n")
    assert await program.read() is None
    assert program.status == 4


async def test_a_program_that_closes_its_output_in_a_run_and_lives_on_is_ended(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.execution.processes.line_process.STDOUT_CHECK_S", 0.1)
    program = await start("echo up; read -r; trap '' TERM HUP; printf last; exec >&-; sleep 1000; sleep 1000")
    assert await program.read() == Chunk(b"up\n")  # before it begins nothing has its output open
    await program.begin_run()
    await program.write(b"\n")
    assert await _all(program) == b"last"
    assert program.excess == "unresponsive"


async def test_a_program_whose_descendants_may_still_speak_goes_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.execution.processes.line_process.STDOUT_CHECK_S", 0.1)
    script = "echo up; read -r; exec 3<&0; (setsid sh -c 'sleep 1; echo spoken; read go <&3') & exec >&-; wait"
    program = await start(script)
    assert await program.read() == Chunk(b"up\n")  # before it begins nothing has its output open
    await program.begin_run()
    await program.write(b"\n")
    async with asyncio.timeout(30):
        chunk = await program.read()
    assert chunk is not None
    assert chunk.data == b"spoken\n"

    monkeypatch.setattr(
        "runtimed.execution.processes.line_process.STDOUT_CHECK_S", 60.0
    )  # it may take its time to end
    await program.write(b"\n")

    assert await _all(program) == b""
    assert (program.status, program.excess) == (0, None)


async def test_a_stop_leaves_its_grace_to_a_program_that_has_closed_its_output(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.execution.processes.line_process.STDOUT_CHECK_S", 0.3)
    program = await start("exec >&-; echo closed >&2; read -r; sleep 1; exit 4")
    async with asyncio.timeout(30):
        while program.stderr_tail() != "closed":
            await asyncio.sleep(0.01)
    await program.begin_run()
    await program.stop(60, b"farewell\n")
    assert (program.status, program.excess) == (4, None)


async def test_a_line_of_a_hundred_megabytes_comes_in_pieces(start: Start) -> None:
    program = await start("head -c 100000000 /dev/zero; echo; echo short", max_line_bytes=1 << 20)
    chunks = []
    async with asyncio.timeout(60):
        while chunk := await program.read():
            chunks.append((len(chunk.data), chunk.partial))
    assert sum(size for size, partial in chunks if partial) == 100_000_001
    assert max(size for size, _ in chunks) < 2 << 20
    assert chunks[-1] == (6, False)


async def test_what_is_not_taken_is_not_read(start: Start) -> None:
    program = await start("echo 0 >&2; for i in {1..100}; do yes | head -c 100000; echo $i >&2; done")
    assert await program.read() is not None
    before = ""
    async with asyncio.timeout(30):
        while not (now := program.stderr_tail()) or now != before:
            before = now
            await asyncio.sleep(0.3)
    assert int(now.split()[-1]) < 50
    await _all(program)
    assert program.stderr_tail().endswith("100")


async def test_a_program_that_does_not_read_its_input_is_found_unresponsive(start: Start) -> None:
    program = await start("sleep 1000")
    with pytest.raises(Unresponsive, match=r"read no input for 0.2 seconds"):
        await program.write(bytes(10_000_000), deadline_s=0.2)
    with pytest.raises(BrokenPipeError):
        await program.write(b"after half a line nothing more can be said\n")


async def test_a_program_that_reads_slowly_gets_all(start: Start) -> None:
    program = await start("for i in 1 2 3 4; do sleep 0.1; head -c 250000 >/dev/null; done; head -c 5")
    await program.write(bytes(1_000_000) + b"after", deadline_s=30)
    assert await _all(program) == b"after"


async def test_writing_waits_for_its_turn(start: Start) -> None:
    program = await start("sleep 0.1; cat")
    lines = [str(number).encode() * 30_000 + b"\n" for number in range(1, 6)]
    writing = [asyncio.create_task(program.write(line)) for line in lines]
    read = b""
    while len(read) < sum(map(len, lines)):
        chunk = await program.read()
        assert chunk is not None
        read += chunk.data
    await asyncio.gather(*writing)
    assert read == b"".join(lines)


async def test_a_program_that_is_gone_takes_no_input(start: Start) -> None:
    program = await start("exit 0")
    await program.ended()
    with pytest.raises(BrokenPipeError):
        await program.write(b"anybody there?\n")


async def test_a_wake_ends_the_wait_and_loses_nothing(start: Start) -> None:
    program = await start("read -r; echo hello")
    reading = asyncio.create_task(program.read())
    await asyncio.sleep(0)
    program.wake()
    assert await reading == Chunk(b"")
    program.wake()
    assert await program.read() == Chunk(b"")
    await program.write(b"go\n")
    assert await program.read() == Chunk(b"hello\n")


async def test_the_end_of_what_is_written_to_standard_error_is_kept(start: Start) -> None:
    program = await start("head -c 3000000 /dev/zero | tr '\\0' x >&2; printf '\\033[31mred\\r\\377\\n' >&2; exit 1")
    await program.ended()
    words = program.stderr_tail()
    assert words.endswith("x\ufffd[31mred\ufffd\ufffd")
    assert TAIL_BYTES - 10 < len(words.encode()) < TAIL_BYTES + 10


async def test_a_stop_says_farewell_and_ends_the_input(start: Start, tmp_path: Path) -> None:
    program = await start(f"cat >{tmp_path}/heard; echo over >>{tmp_path}/heard; head -c 300000 /dev/zero")
    await program.stop(60, b"farewell\n")
    assert program.status == 0
    assert await asyncio.to_thread((tmp_path / "heard").read_text) == "farewell\nover\n"


async def test_a_program_that_ignores_the_end_of_its_input_is_asked_to_end(start: Start, tmp_path: Path) -> None:
    script = f"trap 'echo asked >{tmp_path}/heard; exit 5' TERM; echo up; while :; do sleep 0.01; done"
    program = await start(script)
    await program.read()
    await program.stop(8)
    assert program.status == 5
    assert await asyncio.to_thread((tmp_path / "heard").read_text) == "asked\n"


@pytest.mark.parametrize(
    "script",
    [
        "trap '' TERM HUP INT; echo up; while :; do sleep 0.01; done",
        "echo up; kill -STOP $$",
        "(trap '' TERM; setsid sleep 1000) & echo up; trap '' TERM; sleep 1000; sleep 1000",
        "echo up; trap '' TERM; yes",
    ],
    ids=["deaf", "stopped", "deaf grandchild holding the pipes", "talking"],
)
async def test_a_program_that_ignores_everything_is_killed(start: Start, script: str) -> None:
    program = await start(script)
    await program.read()
    await program.stop(0.2, b"please\n")
    assert program.status


async def test_a_stop_during_a_write_ends_both(start: Start) -> None:
    program = await start("trap '' TERM; while :; do sleep 0.01; done")
    writing = asyncio.create_task(program.write(bytes(10_000_000)))
    await asyncio.sleep(0.05)
    await program.stop(0.1, b"farewell\n")
    with pytest.raises(BrokenPipeError):
        await writing


async def test_a_kill_during_a_stop_does_not_wait_for_its_grace(start: Start) -> None:
    program = await start("trap '' TERM; while :; do sleep 0.01; done")
    stopping = asyncio.create_task(program.stop(1000))
    await asyncio.sleep(0.05)
    await program.stop(0)
    await stopping


async def test_output_may_be_read_after_a_kill(start: Start) -> None:
    program = await start("echo before; sleep 1000")
    first = await program.read()
    await program.kill()
    assert first == Chunk(b"before\n")
    assert await program.read() is None


async def test_a_program_that_can_not_be_started_leaves_no_descriptor(supervisor: Supervisor) -> None:
    before = await asyncio.to_thread(os.listdir, "/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        await LineProcess.start(supervisor, Command(("true",), Path("/nowhere"), {}))
    assert len(await asyncio.to_thread(os.listdir, "/proc/self/fd")) == len(before)
