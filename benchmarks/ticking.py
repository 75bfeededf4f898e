"""A program for the `process` backend that prints the ticks of a Series as `system_item`s when they are due."""

import asyncio
import json
import sys

from benchmarks.agents import END
from benchmarks.processes import python
from benchmarks.ticks import Series


def ticker() -> list[str]:
    """Return the argv of the program."""
    return python("benchmarks.ticking")


async def _print(series: Series) -> None:
    async for item in series.ticks():
        print(json.dumps({"event": "system_item", "data": {"item": item}}, separators=(",", ":")), flush=True)


if __name__ == "__main__":
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "stop":
            break
        if ordered := Series.parse(str(message.get("content"))):
            asyncio.run(_print(ordered))
            print(END, flush=True)
