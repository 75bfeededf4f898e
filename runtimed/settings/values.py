"""Structure the values of settings: from flags, the environment and TOML."""

import re
from typing import Any, Literal, get_args

from cattrs import Converter
from typed_settings.converters import get_default_cattrs_converter

from runtimed.wire.converter import is_kind

ENVIRONMENT_PREFIX = "RUNTIMED_"
TOKEN_VARIABLE = f"{ENVIRONMENT_PREFIX}TOKEN"

MAX_NUMBER = 10**15
MAX_SECONDS = 1e9

NO_TEXT = {
    int: "a whole number, without quotes",
    float: "a number, without quotes",
    bool: "true or false, without quotes",
    tuple[str, ...]: "a list of texts, in brackets",
}
"""Kinds of values that are text in the environment, and never in a file."""

FLAGS = {"true": True, "false": False}
WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)
DECIMAL = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)


class InvalidValue(ValueError):
    """A value that is not accepted. Its repr is its message, because typed-settings passes on the repr."""

    def __repr__(self) -> str:
        return str(self)


def make_converter() -> Converter:
    """Return a converter for the values of settings. It raises InvalidValue."""
    made = get_default_cattrs_converter()
    made.register_structure_hook_func(is_kind(tuple), _list)
    made.register_structure_hook(int, _whole)
    made.register_structure_hook(float, _decimal)
    made.register_structure_hook(bool, _flag)
    made.register_structure_hook(str, _text)
    made.register_structure_hook_func(is_kind(Literal), _choice)
    made.register_structure_hook_func(is_kind(dict), _table)
    return made


def _whole(value: Any, _type: Any) -> int:
    if type(value) is str and WHOLE.fullmatch(value):
        value = int(value)
    if type(value) is not int or abs(value) > MAX_NUMBER:
        raise InvalidValue(f"expected a whole number, at most {MAX_NUMBER}")
    return value


def _decimal(value: Any, _type: Any) -> float:
    if type(value) is str and DECIMAL.fullmatch(value):
        value = float(value)
    if type(value) not in {int, float} or not abs(value) <= MAX_SECONDS:
        raise InvalidValue(f"expected a number, at most {MAX_SECONDS:.0f}")
    return float(value)


def _flag(value: Any, _type: Any) -> bool:
    if type(value) is str and value in FLAGS:
        return FLAGS[value]
    if type(value) is not bool:
        raise InvalidValue(f"expected {' or '.join(FLAGS)}")
    return value


def _list(value: Any, _type: Any) -> tuple[str, ...]:
    found = value.split(",") if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not all(isinstance(item, str) for item in found):
        raise InvalidValue("expected a list of texts")
    return tuple(item.strip() for item in found if item.strip())


def _text(value: Any, kind: type[str]) -> str:
    if not isinstance(value, str):
        raise InvalidValue("expected text")
    return kind(value)


def _choice(value: Any, kind: Any) -> Any:
    if value not in get_args(kind):
        raise InvalidValue(f"expected one of {', '.join(get_args(kind))}")
    return value


def _table(value: Any, _type: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise InvalidValue("expected a table in the configuration file")
    return value
