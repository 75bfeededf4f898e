"""A client of a streaming upstream, by aiohttp: `python -m benchmarks.downloading`.

It takes {"url", "key", "size", "requests"} on stdin, and prints {"mb_per_s", "first_byte_ms"}: the rate of one large
response, and for each of the requests the time from its start to the first byte of the response.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

import aiohttp

from benchmarks import loop
from benchmarks.processes import Program, python

WARM_UP = 20
READ_BYTES = 2**18
QUESTION = b'{"model":"a model","input":"' + b"a word " * 300 + b'","stream":true}'


def download(url: str, key: str, size: int, requests: int, log: Path) -> tuple[float, float]:
    """Read from a server in another process. Returns the rate in MB/s and the median time to a first byte in ms."""
    with Program(python("benchmarks.downloading"), log) as program:
        program.say(json.dumps({"url": url, "key": key, "size": size, "requests": requests}))
        found = json.loads(program.read_line())
    return found["mb_per_s"], median(found["first_byte_ms"])


async def _measure(url: str, key: str, size: int, requests: int) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers, read_bufsize=READ_BYTES) as session:
        began, left = time.monotonic(), size
        async with session.get(f"{url}/bytes?size={size}") as response:
            response.raise_for_status()
            async for chunk in response.content.iter_any():
                left -= len(chunk)
        seconds = time.monotonic() - began
        if left:
            raise ValueError(f"{left} bytes are missing")
        firsts = [await _first_byte_s(session, f"{url}/events") for _ in range(WARM_UP + requests)][WARM_UP:]
    found = {"mb_per_s": size / seconds / 1e6, "first_byte_ms": [first * 1e3 for first in firsts]}
    print(json.dumps(found), flush=True)


async def _first_byte_s(session: aiohttp.ClientSession, url: str) -> float:
    began = time.monotonic()
    async with session.post(url, data=QUESTION, headers={"Content-Type": "application/json"}) as response:
        response.raise_for_status()
        await response.content.readany()
        seconds = time.monotonic() - began
        await response.read()
    return seconds


if __name__ == "__main__":
    loop.run(_measure(**json.load(sys.stdin)))
