"""References in the environment of a profile, such as `gateway-key:openai`, and what they stand for."""

import re
from collections.abc import Mapping

KINDS = ("secret", "gateway", "gateway-key")

_WHOLE = re.compile(rf"(?:{'|'.join(KINDS)}):.*", re.DOTALL)
_WITHIN = re.compile(rf"\$\{{((?:{'|'.join(KINDS)}):[^{{}}]*)\}}")


class UnknownReference(ValueError):
    """A variable refers to something that there is not. The message names the variable and the known names."""


def references_in(value: str) -> tuple[str, ...]:
    """Return the references of a value, each as `KIND:NAME`: the whole value, or each `${KIND:NAME}` in it."""
    return (value,) if _WHOLE.fullmatch(value) else tuple(_WITHIN.findall(value))


def references(env: Mapping[str, str]) -> frozenset[str]:
    """Return the references among the values, each as `KIND:NAME`."""
    return frozenset(reference for value in env.values() for reference in references_in(value))


def resolve(env: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with each reference replaced.

    Args:
        env: The variables of a profile.
        values: What each reference stands for, such as `{"gateway:openai": "http://127.0.0.1:3129"}`.

    Raises:
        UnknownReference: A value refers to a name that is not among `values`.
    """
    for variable, value in env.items():
        for reference in references_in(value):
            if reference not in values:
                raise UnknownReference(_unknown(variable, reference, values))
    return {variable: _replaced(value, values) for variable, value in env.items()}


def _replaced(value: str, values: Mapping[str, str]) -> str:
    if _WHOLE.fullmatch(value):
        return values[value]
    return _WITHIN.sub(lambda found: values[found[1]], value)


def _unknown(variable: str, reference: str, values: Mapping[str, str]) -> str:
    kind, _, name = reference.partition(":")
    known = sorted(key.removeprefix(f"{kind}:") for key in values if key.startswith(f"{kind}:"))
    return (
        f"env.{variable}: there is no {kind} {name!r}, expected one of: {', '.join(known) or '(none is configured)'}"
    )
