"""Check what a client fills the form of a permission request with. Pure.

A form is a JSON Schema of an object whose properties are strings, numbers, booleans or lists of choices. A `pattern`
and a `format` are for the backend to check.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runtimed.errors import InvalidRequest, printable

MAX_LISTED = 20
"""The most names or choices that an error lists."""


def check_content(schema: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a form.

    Args:
        schema: The schema of the form.
        content: Values by the names of the form's properties.

    Raises:
        InvalidRequest: A value is missing, unknown or not accepted; the message names it.
    """
    properties = _properties(schema)
    for name in content:
        if name not in properties:
            known = f"expected only {_listed(properties)}" if properties else "the form has no properties"
            raise InvalidRequest(f"content.{printable(name)}: {known}")
    for name in required(schema):
        if name not in content:
            raise InvalidRequest(f"content.{printable(name)}: expected a value: the form requires it")
    for name, found in content.items():
        if expected := _problem(properties[name], found):
            raise InvalidRequest(f"content.{printable(name)}: expected {expected}")
    return dict(content)


def defaults(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the defaults of a form, or None if a required property has none that is accepted."""
    given = {name: each["default"] for name, each in _properties(schema).items() if "default" in each}
    try:
        return check_content(schema, given)
    except InvalidRequest:
        return None


def required(schema: Mapping[str, Any]) -> list[str]:
    """Return the names of the properties that must have a value."""
    given, properties = schema.get("required"), _properties(schema)
    return [name for name in given if name in properties] if isinstance(given, list) else []


def _properties(schema: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    given = schema.get("properties")
    found = given.items() if isinstance(given, dict) else ()
    return {name: each for name, each in found if isinstance(each, dict)}


def _problem(schema: Mapping[str, Any], found: object) -> str | None:
    """Return what a property accepts, if it does not accept this value."""
    check = _CHECKS.get(str(schema.get("type")))
    return None if check is None else check(schema, found)


def _string(schema: Mapping[str, Any], found: object) -> str | None:
    if not isinstance(found, str):
        return "a string"
    choices = _choices(schema)
    if choices is not None and found not in choices:
        return f"one of {_listed(choices)}"
    return _out_of_bounds(len(found), schema.get("minLength"), schema.get("maxLength"), "characters")


def _integer(schema: Mapping[str, Any], found: object) -> str | None:
    if isinstance(found, bool) or not isinstance(found, int):
        return "a whole number"
    return _out_of_bounds(found, schema.get("minimum"), schema.get("maximum"), "")


def _number(schema: Mapping[str, Any], found: object) -> str | None:
    if isinstance(found, bool) or not isinstance(found, int | float):
        return "a number"
    return _out_of_bounds(found, schema.get("minimum"), schema.get("maximum"), "")


def _boolean(_schema: Mapping[str, Any], found: object) -> str | None:
    return None if isinstance(found, bool) else "a boolean"


def _array(schema: Mapping[str, Any], found: object) -> str | None:
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        return "an array of strings"
    items = schema.get("items")
    choices = _choices(items) if isinstance(items, dict) else None
    if choices is not None and not set(choices).issuperset(found):
        return f"only {_listed(choices)}"
    return _out_of_bounds(len(found), schema.get("minItems"), schema.get("maxItems"), "items")


_CHECKS: dict[str, Callable[[Mapping[str, Any], object], str | None]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "array": _array,
}


def _choices(schema: Mapping[str, Any]) -> list[str] | None:
    """Return the values that a schema lists, plain or with titles; None if it lists none."""
    if isinstance(given := schema.get("enum"), list):
        return [choice for choice in given if isinstance(choice, str)]
    titled = next((schema[name] for name in ("oneOf", "anyOf") if isinstance(schema.get(name), list)), None)
    if titled is None:
        return None
    found = (choice.get("const") for choice in titled if isinstance(choice, dict))
    return [choice for choice in found if isinstance(choice, str)]


def _out_of_bounds(found: float, least: object, most: object, unit: str) -> str | None:
    if isinstance(least, int | float) and found < least:
        return f"at least {least} {unit}".rstrip()
    if isinstance(most, int | float) and found > most:
        return f"at most {most} {unit}".rstrip()
    return None


def _listed(names: Iterable[str]) -> str:
    listed = [printable(name) for name in names]
    more = ["…"] if len(listed) > MAX_LISTED else []
    return ", ".join((*listed[:MAX_LISTED], *more))
