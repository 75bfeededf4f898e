"""The tokens of an agent on its bare pipe: `python -m benchmarks.baselines.prompting COUNT RATE ARGV…`.

It is a fair baseline for what an observer receives: asyncio only reads and decodes the agent's lines. It prints a
JSON array: the delay of each token in nanoseconds, then the seconds of its own processor time.
"""

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from typing import Any

from benchmarks import loop
from benchmarks.ticks import Series
from benchmarks.tokens import SESSION, Heard


def _tell(agent: Process, number: int, method: str, params: dict[str, Any]) -> None:
    assert agent.stdin is not None
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    agent.stdin.write(json.dumps(message).encode() + b"\n")


async def _hear(agent: Process) -> dict[str, Any]:
    assert agent.stdout is not None
    message: dict[str, Any] = json.loads(await agent.stdout.readline())
    return message


async def _prompt(series: Series, argv: list[str]) -> None:
    agent = await asyncio.create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE)
    for number, method in enumerate(("initialize", "session/new")):
        _tell(agent, number, method, {})
        await _hear(agent)
    heard, before = Heard(series), time.process_time()
    prompt = [{"type": "text", "text": series.order()}]
    _tell(agent, 2, "session/prompt", {"sessionId": SESSION, "prompt": prompt})
    while "id" not in (message := await _hear(agent)):
        heard.take(message["params"]["update"]["content"]["text"], time.monotonic_ns())
    seconds = time.process_time() - before
    agent.kill()
    await agent.wait()
    print(json.dumps([heard.checked().delays, seconds]), flush=True)


if __name__ == "__main__":
    loop.run(_prompt(Series(int(sys.argv[1]), int(sys.argv[2])), sys.argv[3:]))
