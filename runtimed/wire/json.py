"""Strict parsing of JSON from outside: what RFC 8259 leaves to implementations is refused."""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import orjson

from runtimed.errors import printable
from runtimed.wire.problems import FieldProblem, join

MAX_DEPTH = 64
MAX_NUMBER_DIGITS = 400
MAX_VALUES = 10_000
LARGE_BYTES = 2**16
"""The size above which the values of a body are counted before it is parsed. Parsing millions takes long."""

MAX_TEXTS = 2 * MAX_VALUES
"""The most texts in a body: each is a value, or the name of one."""

REST_OF_TEXT = re.compile(rb'[^"\\]*(?:\\.[^"\\]*){0,4096}("?)', re.DOTALL)
"""Matches up to the end of a text, or past 4,096 escapes. It always matches, so it never backtracks."""


class _Repeated(dict[str, Any]):
    """An object in which the field `name` occurs twice."""

    name: str


def parse(body: bytes) -> Any:
    """Return the value of a JSON text in UTF-8. The time is linear in the size.

    Raises:
        FieldProblem: The body is not JSON in UTF-8, or has duplicate fields, NaN, infinities, lone surrogates,
            nesting deeper than MAX_DEPTH, numbers longer than MAX_NUMBER_DIGITS or more than MAX_VALUES values.
    """
    if len(body) > LARGE_BYTES and _has_too_many_values(body):
        raise FieldProblem(f"too many values: expected at most {MAX_VALUES}")
    texts = _texts(body)
    return _any(body) if texts is None else texts


def _has_too_many_values(body: bytes) -> bool:
    """Return whether there are more than MAX_VALUES commas between values, or MAX_TEXTS texts."""
    commas = texts = at = 0
    while commas <= MAX_VALUES and texts <= MAX_TEXTS:
        quotation_mark = body.find(b'"', at)
        commas += body.count(b",", at, quotation_mark if quotation_mark >= 0 else len(body))
        if quotation_mark < 0:
            break
        texts += 1
        at = _end_of_text(body, quotation_mark + 1)
    return commas > MAX_VALUES or texts > MAX_TEXTS


def _end_of_text(body: bytes, at: int) -> int:
    """Return the place after the text that contains the place `at`, or the end of the body."""
    while True:
        rest = REST_OF_TEXT.match(body, at)
        if rest is None or rest.end() == at:
            return len(body)
        if rest[1]:
            return rest.end()
        at = rest.end()


def _texts(body: bytes) -> dict[str, str] | None:
    """Parse an object whose values are all texts, twice as fast. Returns None for any other body.

    Most bodies are such objects. orjson drops the first of two fields with the same name. The result then has fewer
    texts than the body, and fewer quotation marks when it is encoded again. This shows only if no quotation mark in
    the body is written by its number (u0022).
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if (
        type(value) is not dict
        or not len(value) < MAX_VALUES
        or any(type(text) is not str for text in value.values())
    ):
        return None
    is_plain = b"\\u0022" not in body
    return value if is_plain and orjson.dumps(value).count(b'"') == body.count(b'"') else None


def _any(body: bytes) -> Any:
    """Parse any value, with exact errors."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FieldProblem(f"expected JSON in UTF-8; byte {error.start} is not") from None
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise FieldProblem(
            f"expected JSON; {error.msg[0].lower()}{error.msg[1:]} at line {error.lineno} column {error.colno}"
        ) from None
    except RecursionError:
        raise FieldProblem(f"nested too deeply: expected at most {MAX_DEPTH} levels") from None
    check(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeated, seen = _Repeated(found), set()
    for name, _ in pairs:
        if name in seen:
            repeated.name = name
        seen.add(name)
    return repeated


def _integer(digits: str) -> int:
    if len(digits) > MAX_NUMBER_DIGITS:
        raise FieldProblem(f"a number is too long: expected at most {MAX_NUMBER_DIGITS} digits")
    return int(digits)


def _decimal(digits: str) -> float:
    if len(digits) > MAX_NUMBER_DIGITS:
        raise FieldProblem(f"a number is too long: expected at most {MAX_NUMBER_DIGITS} digits")
    return float(digits)


def _constant(name: str) -> NoReturn:
    raise FieldProblem(f"expected JSON; {name} is not a JSON number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_decimal, parse_constant=_constant
)


class _Place:
    """A value and its parent. The path is built only for an error."""

    __slots__ = ("depth", "name", "parent", "value")

    def __init__(self, value: Any, parent: "_Place | None" = None, name: str = "") -> None:
        self.value = value
        self.parent = parent
        self.name = name
        self.depth: int = parent.depth + 1 if parent else 0

    def path(self) -> str:
        return join(self.parent.path(), self.name) if self.parent else ""


def check(value: Any) -> None:
    """Check every value in a parsed body.

    Raises:
        FieldProblem: There are duplicate fields, lone surrogates, too many values, or nesting that is too deep.
    """
    waiting = [_Place(value)]
    seen = 0
    while waiting:
        place = waiting.pop()
        seen += 1
        value = place.value
        if type(value) is str:
            _check_text(value, place)
        elif isinstance(value, dict | list):
            if seen + len(waiting) + len(value) > MAX_VALUES:
                raise FieldProblem(f"too many values: expected at most {MAX_VALUES}")
            if place.depth == MAX_DEPTH:
                raise FieldProblem(f"nested too deeply: expected at most {MAX_DEPTH} levels")
            waiting += reversed(list(_inner(place)))


def _inner(place: _Place) -> Iterator[_Place]:
    if type(place.value) is list:
        for index, inner in enumerate(place.value):
            yield _Place(inner, place, f"[{index}]")
        return
    if type(place.value) is _Repeated:
        raise FieldProblem("duplicate field", join(place.path(), printable(place.value.name)))
    for name, inner in place.value.items():
        _check_text(name, place)
        yield _Place(inner, place, name)


def _check_text(text: str, place: _Place) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FieldProblem("expected Unicode text, got a lone surrogate", place.path()) from None
