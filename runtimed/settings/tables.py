"""Structure tables of the configuration file into values, with errors that name the key."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import attrs
from cattrs import Converter

from runtimed.errors import ConfigurationError, printable
from runtimed.settings.values import MAX_NUMBER, MAX_SECONDS
from runtimed.wire.converter import is_kind, make_strict_converter
from runtimed.wire.problems import FieldProblem, expected, first_problem

T = TypeVar("T")


def table_converter() -> Converter:
    """Return a converter for the values in tables: numbers are at least 0, paths are absolute. It raises."""
    made = make_strict_converter(explaining=True)
    made.register_structure_hook(float, _positive)
    made.register_structure_hook(int, _count)
    made.register_structure_hook(Path, _path)
    made.register_structure_hook_func(is_kind(Mapping), _texts)
    return made


def read_table(place: str, fields: Any, kind: type[T], converter: Converter) -> T:
    """Return the value of a table.

    Args:
        place: The path of the table, for errors.
        fields: The table as TOML has it.
        kind: The class of the value; its fields are the keys that are accepted.
        converter: Structures the value.

    Raises:
        ConfigurationError: A key or a value is not accepted; the message names its path.
    """
    if type(fields) is not dict:
        raise ConfigurationError(f"{place}: {expected('a table', fields)}")
    check_keys(place, fields, (field.name for field in attrs.fields(kind)))  # type: ignore[arg-type] # attrs' own class
    try:
        return converter.structure(fields, kind)
    except Exception as error:
        problem = first_problem(error).within(place)
        raise ConfigurationError(f"{problem.path}: {problem.problem}") from error


def check_keys(place: str, fields: Mapping[str, Any], accepted: Iterable[str]) -> None:
    """Raise ConfigurationError for the first key that is not accepted."""
    known = tuple(accepted)
    for name in fields:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
            raise ConfigurationError(f"{place}.{printable(name)}: no such key; {hint}")


def _positive(value: Any, _type: Any) -> float:
    if type(value) not in {int, float} or not 0 <= value <= MAX_SECONDS:
        raise FieldProblem(f"expected a number, 0 to {MAX_SECONDS:.0f}")
    return float(value)


def _count(value: Any, _type: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise FieldProblem(f"expected a whole number, 0 to {MAX_NUMBER}")
    return value


def _path(value: Any, _type: Any) -> Path:
    if type(value) is not str or not value.startswith("/") or "\0" in value:
        raise FieldProblem("expected an absolute path")
    return Path(value)


def _texts(value: Any, _type: Any) -> dict[str, str]:
    if type(value) is not dict:
        raise expected("a table", value)
    for name, text in value.items():
        if type(text) is not str:
            raise FieldProblem("expected a string", name)
    return value
