"""References in the environment of a profile, such as `gateway-key:openai`, and what they stand for."""

import re
from collections.abc import Mapping

KINDS = ("secret", "gateway", "gateway-key")

_REFERENCE = re.compile(rf"({'|'.join(KINDS)}):(.*)", re.DOTALL)


class UnknownReference(ValueError):
    """A variable refers to something that there is not. The message names the variable and the known names."""


def references(env: Mapping[str, str]) -> frozenset[str]:
    """Return the references among the values, each as `KIND:NAME`. A reference is a whole value."""
    return frozenset(value for value in env.values() if _REFERENCE.fullmatch(value))


def resolve(env: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with each reference replaced.

    Args:
        env: The variables of a profile.
        values: What each reference stands for, such as `{"gateway:openai": "http://127.0.0.1:3129"}`.

    Raises:
        UnknownReference: A value refers to a name that is not among `values`.
    """
    for variable, value in env.items():
        if (found := _REFERENCE.fullmatch(value)) and value not in values:
            raise UnknownReference(_unknown(variable, found[1], found[2], values))
    return {variable: values.get(value, value) for variable, value in env.items()}


def _unknown(variable: str, kind: str, name: str, values: Mapping[str, str]) -> str:
    known = sorted(key.removeprefix(f"{kind}:") for key in values if key.startswith(f"{kind}:"))
    return (
        f"env.{variable}: there is no {kind} {name!r}, expected one of: {', '.join(known) or '(none is configured)'}"
    )
