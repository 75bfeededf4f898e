"""Tokens at the pace of a model: their format, the agent that writes them, and their delays.

`python -m benchmarks.tokens` is an ACP agent. For a prompt that orders a Series it writes that many tokens at that
rate. Each token has its number and the CLOCK_MONOTONIC time at which it was written. With an argument its start takes
that many seconds.
"""

import json
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import attrs

from benchmarks.percentile import percentile
from benchmarks.processes import python
from benchmarks.ticks import Series

TOKEN = re.compile(r"<(\d+)@(\d+)>")
SESSION = "session-1"


def agent(start_s: float = 0.0) -> list[str]:
    """Return the argv of the agent, whose start takes this long besides that of its interpreter."""
    return python("benchmarks.tokens", *([str(start_s)] if start_s else []))


@attrs.define
class Heard:
    """The tokens of a series as they arrived.

    Attributes:
        series: The series that was ordered.
        delays: The delay of each token in nanoseconds.
        deltas: How many text deltas carried them.
    """

    series: Series
    delays: list[int] = attrs.field(factory=list)
    deltas: int = 0

    def take(self, text: str, now: int) -> None:
        """Record one text delta. Raises ValueError if a token is missing, repeated or out of order."""
        self.deltas += 1
        for number, written in TOKEN.findall(text):
            if int(number) != len(self.delays):
                raise ValueError(f"token {number} came where {len(self.delays)} was due")
            self.delays.append(now - int(written))

    def checked(self) -> "Heard":
        """Return self. Raises ValueError unless all tokens arrived."""
        if len(self.delays) != self.series.count:
            raise ValueError(f"{len(self.delays)} of {self.series.count} tokens arrived")
        return self

    def percentile_ms(self, percent: int) -> float:
        """Return a percentile of the delays."""
        return percentile(sorted(self.delays), percent) / 1e6


def _answer(message: dict[str, Any]) -> None:
    results: dict[str, dict[str, Any]] = {
        "initialize": {"protocolVersion": 1, "agentCapabilities": {}},
        "session/new": {"sessionId": SESSION},
        "session/prompt": {"stopReason": "end_turn"},
    }
    method = message.get("method")
    if method == "session/prompt":
        _speak(message["params"]["prompt"])
    if "id" in message:
        _write({"jsonrpc": "2.0", "id": message["id"], "result": results.get(str(method), {})})


def _speak(prompt: Sequence[dict[str, Any]]) -> None:
    series = Series.parse(prompt[-1]["text"])
    if series is None:
        return
    began = time.monotonic()
    for number in range(series.count):
        time.sleep(max(0.0, began + number / series.rate - time.monotonic()))
        content = {"type": "text", "text": f"<{number}@{time.monotonic_ns()}> "}
        update = {"sessionUpdate": "agent_message_chunk", "content": content}
        params = {"sessionId": SESSION, "update": update}
        _write({"jsonrpc": "2.0", "method": "session/update", "params": params})


def _write(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    time.sleep(float(sys.argv[1]) if sys.argv[1:] else 0.0)
    for line in sys.stdin:
        _answer(json.loads(line))
