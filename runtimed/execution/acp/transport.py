"""The lines of an agent as messages: only what the connection can take reaches it."""

import json
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

import orjson

from runtimed.execution.acp.content import told_text
from runtimed.execution.acp.inbox import Inbox
from runtimed.execution.acp.outbox import Outbox
from runtimed.execution.complaints import alert
from runtimed.execution.lines import Chunk
from runtimed.execution.program import LineProgram

MAX_MESSAGE_BYTES = 32 << 20
"""A longer line is left out, and an alert says so."""

MAX_ODD_BYTES = 1 << 20
"""The longest line that is read although it is not quite JSON: that takes its time."""

_FIELDS = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})
"""An object without `"jsonrpc": "2.0"` is a message only where it has no other fields than these."""

_log = logging.getLogger(__name__)


class Transport:
    """A stream of JSON-RPC messages over the standard streams of a program.

    Lines that are no JSON object, or not one that JSON-RPC knows, are left out. `inbox` makes the agent wait while
    its messages are not taken, and is told of lines that are too long, of the bytes that came, and of the end of all;
    `outbox` makes it wait while it takes none itself.
    `received` counts the bytes of all lines.
    """

    def __init__(self, program: LineProgram, inbox: Inbox, outbox: Outbox) -> None:
        self._program = program
        self._inbox = inbox
        self._outbox = outbox
        self._messages: deque[dict[str, Any]] = deque()
        self._long = 0
        self._deaf = False
        self.ended = False
        self.received = 0

    async def send(self, message: dict[str, Any]) -> None:
        """Give the agent a message. One that does not listen has come to its end."""
        line = encoded(message)
        try:
            with self._outbox.holding(len(line)):
                await self._program.write(line)
        except OSError as error:
            _log.info("an agent takes no input any more: %s", error)
            self._deaf = True
            self._outbox.close()
            self._program.wake()

    async def receive(self) -> dict[str, Any] | None:
        """The next message, or None at the end."""
        while not self._messages:
            await self._inbox.room()
            await self._outbox.room()
            chunk = None if self._deaf else await self._program.read()
            if chunk is None:
                self.ended = True
                self._inbox.wake()
                return None
            self.received += len(chunk.data)
            self._inbox.weigh(len(chunk.data))
            self._take(chunk)
        return self._messages.popleft()

    async def close(self) -> None:
        """Nothing: whoever started the program ends it."""

    def _take(self, chunk: Chunk) -> None:
        if chunk.partial:
            self._long += len(chunk.data)
            return
        if self._long:
            left_out = (
                f"the agent wrote a line of {self._long} bytes, which was left out: at most {MAX_MESSAGE_BYTES}"
            )
            self._inbox.put(alert(left_out))
            self._long = 0
        for line in chunk.lines():
            message = _message(line)
            if message is not None:
                self._messages.append(message)
            elif line.strip():
                _log.debug("an agent wrote a line that is no message: %.200r", line)


def encoded(message: Mapping[str, Any]) -> bytes:
    """A message as a line. What JSON has no word for is told by its text."""
    return orjson.dumps(message, default=str) + b"\n"


def _message(line: bytes) -> dict[str, Any] | None:
    told = _parsed(line)
    if not isinstance(told, dict) or not _is_message(told):
        return None
    error = told.get("error")
    if error is not None:
        told["error"] = _error(error if isinstance(error, dict) else {"code": 0, "message": error})
        if told.get("result") is None:
            told.pop("result", None)
    return told


def _is_message(told: Mapping[str, Any]) -> bool:
    """Whether an object is one of JSON-RPC.

    Loggers write objects too, with an `id`, a `method` or an `error` of their own. Taken for an answer, one would end
    a request that the agent still works on; taken for a request, it would be answered under an id of the agent's.
    """
    number, method = told.get("id"), told.get("method")
    if isinstance(number, bool) or not isinstance(number, int | str | None) or not isinstance(method, str | None):
        return False
    if told.get("jsonrpc") != "2.0" and not told.keys() <= _FIELDS:
        return False
    return method is not None or "result" in told or told.get("error") is not None


def _error(told: dict[str, Any]) -> dict[str, Any]:
    """The same with words for a message, whatever was there."""
    return {**told, "message": told_text(told.get("message"), "no reason was given")}


def _parsed(line: bytes) -> Any:
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        return orjson.loads(line)
    except ValueError:
        if len(line) > MAX_ODD_BYTES:
            return None
    try:
        return _clean(json.loads(line.decode(errors="replace")))
    except (ValueError, RecursionError):
        return None


def _clean(told: Any) -> Any:
    """The same without what can't be told on: halves of surrogate pairs, and integers of more than 64 bits."""
    if isinstance(told, str):
        return told.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(told, list):
        return [_clean(item) for item in told]
    if isinstance(told, dict):
        return {_clean(name): _clean(item) for name, item in told.items()}
    if isinstance(told, int) and not -(2**63) <= told < 2**64:
        return str(told)
    return told
