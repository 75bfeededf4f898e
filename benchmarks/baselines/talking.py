"""A dialog with a program through asyncio: `python -m benchmarks.baselines.talking COUNT ARGV…`.

It is a fair baseline for a Worker's program: nothing is between. It prints two JSON arrays of COUNT times in
milliseconds: from the start of the program to its first line, and from an input line to the end of its answer.
"""

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE, Process

from benchmarks import loop


async def _start(argv: list[str]) -> tuple[Process, float]:
    began = time.monotonic()
    program = await asyncio.create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE)
    assert program.stdout is not None
    await program.stdout.readline()
    return program, (time.monotonic() - began) * 1_000


async def _answer_ms(program: Process) -> float:
    assert program.stdin is not None
    assert program.stdout is not None
    began = time.monotonic()
    program.stdin.write(b"hello\n")
    for _ in range(2):
        await program.stdout.readline()
    return (time.monotonic() - began) * 1_000


async def _talk(count: int, argv: list[str]) -> None:
    starts = []
    for _ in range(count):
        program, milliseconds = await _start(argv)
        starts.append(milliseconds)
        program.kill()
        await program.wait()
    program, _ = await _start(argv)
    answers = [await _answer_ms(program) for _ in range(count)]
    program.kill()
    await program.wait()
    print(json.dumps([starts, answers]), flush=True)


if __name__ == "__main__":
    loop.run(_talk(int(sys.argv[1]), sys.argv[2:]))
