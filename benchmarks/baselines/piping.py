"""`cat` of a file through an asyncio pipe reader: `python -m benchmarks.baselines.piping FILE chunks|lines`.

It is a fair baseline for the output of a program: the shortest way from a program into an event loop. It keeps
everything it reads, in chunks or line by line, and prints the seconds from the start of `cat` to its end. It fails
unless it read the whole file.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import loop

CHUNK = 2**16


async def _pipe(file: Path, way: str) -> None:
    began = time.monotonic()
    program = await asyncio.create_subprocess_exec("cat", str(file), stdout=asyncio.subprocess.PIPE)
    output = program.stdout
    assert output is not None
    ways: dict[str, Callable[[], Awaitable[bytes]]] = {"chunks": lambda: output.read(CHUNK), "lines": output.readline}
    read, parts = ways[way], []
    while part := await read():
        parts.append(part)
    await program.wait()
    seconds = time.monotonic() - began
    if b"".join(parts) != await asyncio.to_thread(file.read_bytes):
        raise ValueError("something of the file is missing")
    print(seconds, flush=True)


if __name__ == "__main__":
    loop.run(_pipe(Path(sys.argv[1]), sys.argv[2]))
