"""A program of the `process` backend that prints the ticks of a Series, each when it is due, as `system_item`s."""

import asyncio
import json
import sys

from benchmarks.agents import END
from benchmarks.processes import python
from benchmarks.ticks import Series


def ticker() -> list[str]:
    """The argv of the program."""
    return python("benchmarks.ticking")


async def _print(series: Series) -> None:
    async for item in series.ticks():
        print(json.dumps({"event": "system_item", "data": {"item": item}}, separators=(",", ":")), flush=True)


if __name__ == "__main__":
    for line in sys.stdin:
        told = json.loads(line)
        if told["type"] == "stop":
            break
        if ordered := Series.parse(str(told.get("content"))):
            asyncio.run(_print(ordered))
            print(END, flush=True)
