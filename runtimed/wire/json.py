"""Reading JSON from outside: what RFC 8259 leaves open is refused here instead of guessed at."""

import json
from typing import Any, NoReturn

from runtimed.wire.problems import FieldProblem, join

MAX_DEPTH = 64
MAX_NUMBER_DIGITS = 400


class _Repeated(dict[str, Any]):
    """An object in which `name` stood twice."""

    name: str


def parse(body: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises FieldProblem for anything else: other encodings, duplicate fields, NaN and infinities, lone surrogates,
    nesting deeper than MAX_DEPTH and numbers longer than MAX_NUMBER_DIGITS.
    """
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
    _check(value, "", 0)
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


def _check(value: Any, path: str, depth: int) -> None:
    if type(value) is str:
        _check_text(value, path)
    elif depth == MAX_DEPTH and isinstance(value, dict | list):
        raise FieldProblem(f"nested too deeply: expected at most {MAX_DEPTH} levels")
    elif isinstance(value, dict):
        if type(value) is _Repeated:
            raise FieldProblem("duplicate field", join(path, printable(value.name)))
        for name, inner in value.items():
            _check_text(name, path)
            _check(inner, join(path, name), depth + 1)
    elif type(value) is list:
        for index, inner in enumerate(value):
            _check(inner, f"{path}[{index}]", depth + 1)


def _check_text(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FieldProblem("expected Unicode text, got a lone surrogate", path) from None


def printable(name: str) -> str:
    """A name out of a body, fit for a message: short, on one line, without control characters."""
    shown = name if len(name) <= 64 else name[:64] + "…"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)
