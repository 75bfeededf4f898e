"""The first problem in a body, with the path of its field."""

from typing import Any

from cattrs import BaseValidationError, ClassValidationError, ForbiddenExtraKeysError

_NAMES = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string"}
_NAMES |= {list: "an array", dict: "an object"}


class FieldProblem(ValueError):
    """A problem in a value.

    Attributes:
        problem: What is wrong, and what is accepted.
        path: The path of the field, relative to the value that was read.
    """

    def __init__(self, problem: str, path: str = "") -> None:
        """Create the error for a problem at a path."""
        super().__init__(problem)
        self.problem = problem
        self.path = path

    def within(self, name: str) -> "FieldProblem":
        """Return the same problem, relative to the value that holds this one as `name`."""
        return FieldProblem(self.problem, join(name, self.path))


def expected(what: str, value: Any) -> FieldProblem:
    """Return the problem of a value with the wrong JSON type."""
    return FieldProblem(f"expected {what}, got {_NAMES.get(type(value), type(value).__name__)}")


def join(path: str, rest: str) -> str:
    """Join two parts of a path, such as `profile.kind` or `items[0].name`."""
    if not path or not rest:
        return path or rest
    return f"{path}{rest}" if rest.startswith("[") else f"{path}.{rest}"


def first_problem(error: BaseException) -> FieldProblem:
    """Return the first problem in an error that cattrs raised."""
    if isinstance(error, FieldProblem):
        return error
    if isinstance(error, ForbiddenExtraKeysError):
        return FieldProblem("unknown field", min(error.extra_fields))
    if isinstance(error, BaseValidationError):
        return _in_group(error)
    if isinstance(error, KeyError):
        return FieldProblem("required, but missing")
    return FieldProblem("not accepted")


def _in_group(error: BaseValidationError) -> FieldProblem:
    inner = error.exceptions[0]
    if isinstance(error, ClassValidationError):
        named = [(exc, note.name) for exc, note in error.group_exceptions()[0]]
    else:
        named = []
    for exc, name in named:
        if exc is inner:
            return first_problem(exc).within(name)
    return first_problem(inner)
