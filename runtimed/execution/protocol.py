"""The lines that a program of the `process` backend reads and writes, each a JSON object."""

from collections.abc import Iterator
from typing import Any

import attrs
import orjson

from runtimed.core.ports import Dispatch
from runtimed.core.sink import RESERVED, RESERVED_ITEMS
from runtimed.execution.lines import Chunk
from runtimed.model.event import Payload, SystemItem
from runtimed.wire.converter import structure
from runtimed.wire.json import check, printable
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
    """What a program has said: text, in which lines that follow each other are joined, and events."""
    if chunk.partial or b"{" not in chunk.data:
        yield chunk.data
        return
    text: list[bytes] = []
    for line in chunk.lines():
        said = _object(line)
        if said is None:
            text.append(line)
            continue
        if text:
            yield b"".join(text)
            text.clear()
        yield _event(said)
    if text:
        yield b"".join(text)


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
