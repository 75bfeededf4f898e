"""Turn the lines of an agent into JSON-RPC messages, and leave out all other lines."""

import json
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from runtimed.execution.acp.inbox import Inbox
from runtimed.execution.acp.outbox import Outbox
from runtimed.execution.acp.tool_content import as_text
from runtimed.execution.processes.line_process import LineProcess
from runtimed.execution.processes.lines import Chunk
from runtimed.execution.session.warnings import alert

MAX_MESSAGE_BYTES = 32 << 20
"""The longest line; a longer one is left out, with an alert."""

MAX_ODD_BYTES = 1 << 20
"""The longest line of almost valid JSON that is repaired: that is slow."""

_FIELDS = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})
"""An object without `"jsonrpc": "2.0"` is a message only if it has no other fields than these."""

log = logging.getLogger(__name__)


class Transport:
    """A stream of JSON-RPC messages over the standard streams of a program.

    Other lines are left out. The agent is not read while `inbox` or `outbox` has no room.

    Attributes:
        inbox: Learns what comes; another one may take over.
        hide: Takes secrets out of a text for the log.
        ended: The agent has written its last message, or reads no more.
        received: The bytes of all lines so far.
    """

    def __init__(self, program: LineProcess, inbox: Inbox, outbox: Outbox) -> None:
        self._program = program
        self.inbox = inbox
        self.hide: Callable[[str], str] = str
        self._outbox = outbox
        self._messages: deque[dict[str, Any]] = deque()
        self._long = 0
        self._is_unread = False
        self.ended = False
        self.received = 0

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message. An agent that does not read it counts as ended."""
        line = encoded(message)
        try:
            with self._outbox.holding(len(line)):
                await self._program.write(line)
        except OSError as error:
            log.info("an agent no longer reads its input", extra={"reason": error})
            self._is_unread = True
            self._outbox.close()
            self._program.wake()

    async def receive(self) -> dict[str, Any] | None:
        """Wait for the next message; None at the end."""
        while not self._messages:
            await self.inbox.room()
            await self._outbox.room()
            chunk = None if self._is_unread else await self._program.read()
            if chunk is None:
                self.ended = True
                self.inbox.wake()
                return None
            self.received += len(chunk.data)
            self.inbox.weigh(len(chunk.data))
            self._take(chunk)
        return self._messages.popleft()

    async def close(self) -> None:
        """Do nothing: the owner of the program ends it."""

    def _take(self, chunk: Chunk) -> None:
        if chunk.partial:
            self._long += len(chunk.data)
            return
        if self._long:
            left_out = (
                f"the agent wrote a line of {self._long} bytes, which was left out: at most {MAX_MESSAGE_BYTES}"
            )
            self.inbox.put(alert(left_out))
            self._long = 0
        for line in chunk.lines():
            message = _message(line)
            if message is not None:
                self._messages.append(message)
            elif line.strip() and log.isEnabledFor(logging.DEBUG):
                shown = self.hide(line.decode("utf-8", "replace"))
                log.debug("an agent wrote a line that is not a message", extra={"line": f"{shown!r:.200}"})


def encoded(message: Mapping[str, Any]) -> bytes:
    """Return a message as a line; values that JSON lacks become text."""
    return orjson.dumps(message, default=str) + b"\n"


def _message(line: bytes) -> dict[str, Any] | None:
    message = _parsed(line)
    if not isinstance(message, dict) or not _is_message(message):
        return None
    error = message.get("error")
    if error is not None:
        message["error"] = _error(error if isinstance(error, dict) else {"code": 0, "message": error})
        if message.get("result") is None:
            message.pop("result", None)
    return message


def _is_message(message: Mapping[str, Any]) -> bool:
    """Whether an object is a JSON-RPC message.

    Loggers write objects too, with an `id`, `method` or `error` of their own. Mistaken for an answer, one would end a
    request that is still running; mistaken for a request, it would be answered.
    """
    number, method = message.get("id"), message.get("method")
    if isinstance(number, bool) or not isinstance(number, int | str | None) or not isinstance(method, str | None):
        return False
    if message.get("jsonrpc") != "2.0" and not message.keys() <= _FIELDS:
        return False
    return method is not None or "result" in message or message.get("error") is not None


def _error(message: dict[str, Any]) -> dict[str, Any]:
    """Return an error that has a message, even if the agent sent none."""
    return {**message, "message": as_text(message.get("message"), "no reason was given")}


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


def _clean(message: Any) -> Any:
    """Replace values that can't be stored: halves of surrogate pairs, and integers of more than 64 bits."""
    if isinstance(message, str):
        return message.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(message, list):
        return [_clean(item) for item in message]
    if isinstance(message, dict):
        return {_clean(name): _clean(item) for name, item in message.items()}
    if isinstance(message, int) and not -(2**63) <= message < 2**64:
        return str(message)
    return message
