"""The lines that a program of the `process` backend reads and writes, each a JSON object."""

from collections.abc import Iterator
from typing import Any

import attrs
import orjson

from runtimed.core.ports import Dispatch
from runtimed.core.sink import RESERVED, RESERVED_ITEMS
from runtimed.errors import printable
from runtimed.execution.lines import Chunk
from runtimed.model.event import Payload, SystemItem, TextDelta
from runtimed.wire.converter import structure
from runtimed.wire.json import check
from runtimed.wire.problems import FieldProblem

INTERRUPT = b'{"type":"interrupt"}\n'
STOP = b'{"type":"stop"}\n'


@attrs.frozen
class Refused:
    """A line that is a JSON object and not accepted; `problem` names the field and what is expected there."""

    problem: str


def input_line(dispatch: Dispatch) -> bytes | None:
    """An input as the program gets it; None where it is no Unicode text."""
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


def parse(chunk: Chunk) -> Iterator[bytes | Payload | Refused]:
    """What a program has said: text, and events; text that follows on text, of the same kind, is joined with it."""
    if chunk.partial or b"{" not in chunk.data:
        yield chunk.data
        return
    lines: list[bytes] = []
    texts: list[str] = []
    for line in chunk.lines():
        said = _object(line)
        text = None if said is None else _text(said)
        if texts and text is None:
            yield TextDelta("".join(texts))
            texts.clear()
        if lines and said is not None:
            yield b"".join(lines)
            lines.clear()
        if said is None:
            lines.append(line)
        elif text is None:
            yield _event(said)
        else:
            texts.append(text)
    if texts:
        yield TextDelta("".join(texts))
    if lines:
        yield b"".join(lines)


def _text(value: dict[str, Any]) -> str | None:
    """The text of a text_delta, by far the most frequent event, without a converter; None for anything else."""
    if value.get("event") != TextDelta.event or len(value) != 2:
        return None
    data = value.get("data")
    if type(data) is not dict or len(data) != 1:
        return None
    text = data.get("text")
    return text if type(text) is str else None


def _object(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a line, or None where it is something else."""
    if line[:1] != b"{" and line.lstrip()[:1] != b"{":
        return None
    try:
        value: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return value


def _event(value: dict[str, Any]) -> Payload | Refused:
    try:
        payload: Payload = structure(value, Payload)  # type: ignore[arg-type]
        if isinstance(payload, SystemItem):
            _check_item(payload.item)
    except FieldProblem as problem:
        return Refused(f"{printable(problem.path)}: {problem.problem}" if problem.path else problem.problem)
    if isinstance(payload, RESERVED):
        return Refused(f"event: {payload.event} is for the Runtime to say")
    return payload


def _check_item(item: dict[str, Any]) -> None:
    kind = item.get("kind")
    if type(kind) is not str:
        raise FieldProblem("expected a string", "data.item.kind")
    if kind in RESERVED_ITEMS:
        raise FieldProblem(f"{kind} is for the Runtime to say", "data.item.kind")
    try:
        check(item)
    except FieldProblem as problem:
        raise problem.within("data.item") from problem
