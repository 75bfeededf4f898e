"""Query parameters: what a route accepts, and how a value is read."""

import re
from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

import attrs
from multidict import MultiMapping

from runtimed.core.limits import Limits
from runtimed.http.errors import InvalidQuery

MAX_NUMBER = 10**15 - 1
NAME = re.compile(r"[a-z_]{1,32}", re.ASCII)
"""The unknown parameters that a message may repeat: short names only, because a client may have put a token there."""

NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)

Query = MultiMapping[str]


@attrs.frozen
class Number:
    """The bounds of a whole number in a query.

    Attributes:
        minimum: The smallest value that is accepted.
        maximum: The largest value that is accepted.
        limit: The name of a limit of the Runtime. Messages give it as the upper bound; the Runtime enforces it.
    """

    minimum: int = 0
    maximum: int = MAX_NUMBER
    limit: str = ""


@attrs.frozen
class Parameter:
    """One parameter in the path or the query: a text, one of `choices`, a number in `bounds`, or `repeated` texts."""

    name: str
    required: bool
    bounds: Number | None = None
    choices: tuple[str, ...] = ()
    repeated: bool = False
    shown_maximum: int | None = None

    @property
    def argument(self) -> str:
        """The name of the argument: that of the parameter, with an underscore if Python reserves it."""
        return f"{self.name}_" if iskeyword(self.name) else self.name

    def limited(self, limits: Limits) -> "Parameter":
        """Return this parameter for a Runtime with these limits."""
        if self.bounds is None or not self.bounds.limit:
            return self
        return attrs.evolve(self, shown_maximum=getattr(limits, self.bounds.limit))

    def read(self, text: str) -> str | int:
        """Return the value of a text in a query.

        Raises:
            InvalidQuery: The text is none of the choices, or no number within the bounds.
        """
        if self.choices and text not in self.choices:
            raise InvalidQuery(f"{self.name}: expected one of {', '.join(self.choices)}")
        if self.bounds is None:
            return text
        number = int(text) if NUMBER.fullmatch(text) else -1
        if not self.bounds.minimum <= number <= self.bounds.maximum:
            bounds = f"{self.bounds.minimum} to {self.shown_maximum or self.bounds.maximum}"
            raise InvalidQuery(f"{self.name}: expected a whole number, {bounds}")
        return number


def read_query(query: Query, accepted: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return the values of all parameters in a query, by argument.

    Raises:
        InvalidQuery: A parameter is unknown, repeated, missing or malformed.
    """
    for name in query:
        if name not in accepted:
            _refuse_unknown(name, accepted)
    for parameter in accepted.values():
        if len(query.getall(parameter.name, [])) > 1 and not parameter.repeated:
            raise InvalidQuery(f"{parameter.name}: expected once")
        if parameter.required and parameter.name not in query:
            raise InvalidQuery(f"{parameter.name}: required, but missing")
    return {
        accepted[name].argument: (
            tuple(query.getall(name)) if accepted[name].repeated else accepted[name].read(query[name])
        )
        for name in query
    }


def _refuse_unknown(name: str, accepted: Mapping[str, Parameter]) -> None:
    shown = f"{name}: " if NAME.fullmatch(name) else ""
    raise InvalidQuery(f"{shown}unknown query parameter; accepted: {', '.join(accepted) or 'none'}")
