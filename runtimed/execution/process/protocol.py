"""The lines that a program of the `process` backend reads and writes: one JSON object each."""

import codecs
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import orjson

from runtimed.core.engine.event_sink import RESERVED
from runtimed.core.ports import Dispatch
from runtimed.core.state.runtime_items import RESERVED_KINDS
from runtimed.errors import printable
from runtimed.execution.network.refusals import NETWORK_REFUSED
from runtimed.execution.processes.lines import Chunk
from runtimed.model.event import InvokeStart, Payload, SystemItem, TextDelta
from runtimed.wire.converter import structure
from runtimed.wire.json import check
from runtimed.wire.problems import FieldProblem

INTERRUPT = b'{"type":"interrupt"}\n'
STOP = b'{"type":"stop"}\n'

MAX_STARTS = 8
"""At how many places of a line the reader looks for an event after text."""

MAX_QUOTED = 80

_EVENT = re.compile(rb'\{\s*"(?:event|data)"\s*:')
_ARRAY = re.compile(rb"^\[(?:[^\n]*\])?[ \t\r]*$", re.MULTILINE)
_OPENINGS = (b"{", b"[")
_ITEM = re.compile(rb'\[\s*(?:[\[{"\d-]|true|false|null)')
_ENDS = (b"]\n", b"]\r", b"[\n", b"[\r")
_MEMBER = re.compile(rb'\{\s*"[^"]*"\s*:')
_GOES_ON = (b",", b"{", b"[")
_EXPECTED = "expected events as JSON objects, each on a line of its own"


@attrs.frozen
class Refused:
    """A line that is a JSON object but not a valid event. `problem` names the field and what is expected there."""

    problem: str


def input_line(dispatch: Dispatch) -> bytes | None:
    """Return an input as a line for the program; None if its content is not Unicode text."""
    given = {
        "type": "input",
        "kind": dispatch.input.kind,
        "content": dispatch.input.content,
        "input_id": dispatch.input_id,
    }
    try:
        return orjson.dumps(given, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        return None


@attrs.frozen
class Ambiguous:
    """Output that is read as text, or as text and an event, although the program may have meant something else."""

    problem: str


class Reader:
    """Separates text from events in the output of a program.

    Each kind of ambiguous output is reported once: text in front of an event once in all, the others once a run.
    """

    def __init__(self) -> None:
        self._first = True
        self._opening = b""
        self._joined = True
        self._array = True
        self._pretty = True

    def begin(self) -> None:
        """Begin a run: arrays and objects over several lines are reported again."""
        self._array = self._pretty = True

    def read(self, chunk: Chunk) -> Iterator[bytes | Payload | Refused | Ambiguous]:
        """Split output into text and events.

        Returns:
            Text as bytes, events, and problems, in order; neighboring texts of one kind are joined.
        """
        data = self._without_bom(chunk.data)
        if chunk.partial or self._is_text(data):
            yield data
            return
        lines: list[bytes] = []
        texts: list[str] = []
        for line in io.BytesIO(data):
            event = _object(line)
            text = None if event is None else _text(event)
            if texts and text is None:
                yield TextDelta("".join(texts))
                texts.clear()
            if lines and event is not None:
                self._opening = b""
                yield b"".join(lines)
                lines.clear()
            if text is not None:
                texts.append(text)
            elif event is not None:
                yield _event(event)
            elif more := self._take_text(line, lines):
                yield b"".join(lines)
                lines.clear()
                yield from more
        if texts:
            yield TextDelta("".join(texts))
        if lines:
            yield b"".join(lines)

    def _without_bom(self, data: bytes) -> bytes:
        """Remove the byte order mark that a program may begin with."""
        if self._first and data:
            self._first = False
            return data.removeprefix(codecs.BOM_UTF8)
        return data

    def _is_text(self, data: bytes) -> bool:
        """Return whether these lines are certainly plain text."""
        if self._opening or b"{" in data:
            return False
        if not self._array or b"[" not in data:
            return True
        return not any(end in data for end in _ENDS) or _ARRAY.search(data) is None

    def _take_text(self, line: bytes, lines: list[bytes]) -> Sequence[Payload | Ambiguous]:
        """Add the text of a line that is not an event, and return what follows it."""
        if found := _split_text_and_event(line):
            text, event = found
            lines.append(text.removeprefix(codecs.BOM_UTF8))
            return (*self._warn_of_joined(text), event)
        lines.append(line)
        if self._opening or line.startswith(_OPENINGS):
            return self._warn_of_json(line)
        return ()

    def _warn_of_joined(self, text: bytes) -> Sequence[Ambiguous]:
        self._opening = b""
        if not self._joined or text == codecs.BOM_UTF8:
            return ()
        self._joined = False
        return (Ambiguous(f"text came before an event on the same line: {_quoted(text)}: {_EXPECTED}"),)

    def _warn_of_json(self, line: bytes) -> Sequence[Ambiguous]:
        """Report a line of text that looks like a part of an array or object, with the line before it."""
        opening, self._opening = self._opening, b""
        begun = opening + line
        if self._array and (_ITEM.match(begun) if opening else _is_array(line)):
            self._array = False
            return (Ambiguous(f"an array was read as text: {_quoted(begun)}: {_EXPECTED}"),)
        if self._pretty and _MEMBER.match(begun) and (opening or line.rstrip().endswith(_GOES_ON)):
            self._pretty = False
            return (Ambiguous(f"an object on several lines was read as text: {_quoted(begun)}: {_EXPECTED}"),)
        if (self._array or self._pretty) and len(line) <= MAX_QUOTED and line.strip() in _OPENINGS:
            self._opening = line
        return ()


def _text(value: dict[str, Any]) -> str | None:
    """Return the text of a text_delta without the converter, since it is the most frequent event; else None."""
    if value.get("event") != TextDelta.event or len(value) != 2:
        return None
    data = value.get("data")
    if type(data) is not dict or len(data) != 1:
        return None
    text = data.get("text")
    return text if type(text) is str else None


def _object(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a line, or None."""
    if line[:1] != b"{" and line.lstrip()[:1] != b"{":
        return None
    try:
        value: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return value


def _split_text_and_event(line: bytes) -> tuple[bytes, Payload] | None:
    """Return the text and the event of a line that ends with an event; tries MAX_STARTS places."""
    if b'"event"' not in line or not line.rstrip().endswith(b"}"):
        return None
    for found in itertools.islice(_EVENT.finditer(line), MAX_STARTS):
        try:
            value = orjson.loads(memoryview(line)[found.start() :])
        except orjson.JSONDecodeError:
            continue
        event = _event(value)
        if not isinstance(event, Refused):
            return line[: found.start()], event
    return None


def _is_array(line: bytes) -> bool:
    try:
        return line.rstrip().endswith(b"]") and isinstance(orjson.loads(line), list)
    except orjson.JSONDecodeError:
        return False


def _quoted(text: bytes) -> str:
    """Quote the beginning of some output in one line."""
    return printable(" ".join(text[:MAX_QUOTED].decode(errors="replace").split()))


def _event(value: dict[str, Any]) -> Payload | Refused:
    try:
        payload: Payload = structure(value, Payload)  # type: ignore[arg-type]
        if isinstance(payload, SystemItem):
            _check_item(payload.item)
    except FieldProblem as problem:
        return Refused(f"{printable(problem.path)}: {problem.problem}" if problem.path else problem.problem)
    if isinstance(payload, (*RESERVED, InvokeStart)):
        return Refused(f"event: only the Runtime emits {payload.event}")
    return payload


def _check_item(item: dict[str, Any]) -> None:
    kind = item.get("kind")
    if type(kind) is not str:
        raise FieldProblem("expected a string", "data.item.kind")
    if kind in RESERVED_KINDS or kind == NETWORK_REFUSED:
        raise FieldProblem(f"only the Runtime emits {kind}", "data.item.kind")
    try:
        check(item)
    except FieldProblem as problem:
        raise problem.within("data.item") from problem
