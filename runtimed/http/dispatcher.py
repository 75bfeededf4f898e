"""Every route of an application, found by a method and a path in one look-up."""

import re
from collections.abc import Iterable, Mapping

from runtimed.http.binder import Bound
from runtimed.http.guard import Guard

PARAMETER = re.compile(r"\{(\w+)\}")
SEGMENT = "[A-Za-z0-9_-][A-Za-z0-9._:-]*"
"""What fills a parameter without being encoded, and without pointing to another path."""


class Dispatcher:
    """The routes behind their guard.

    It finds no more than the routes of requests in which nothing needs to be decoded, and says of no request why it
    was not found: for the rest there is aiohttp's router, which holds the same routes.
    """

    def __init__(self, guard: Guard, routes: Iterable[Bound]) -> None:
        self.guard = guard
        self.routes = tuple(routes)
        self._by_method = {method: _Paths(bound) for method, bound in _grouped(self.routes).items()}

    def find(self, method: str, path: str) -> tuple[Bound, Mapping[str, str]] | None:
        """The route and what stands for its parameters in the path."""
        paths = self._by_method.get(method)
        return paths.find(path) if paths is not None else None


class _Paths:
    """The routes of one method, as one pattern: its last group is the number of the route."""

    def __init__(self, routes: list[Bound]) -> None:
        self._routes = {f"route{number}": bound for number, bound in enumerate(routes)}
        self._pattern = re.compile("|".join(_alternative(name, bound) for name, bound in self._routes.items()))
        self._parameters = {name: _parameters(name, bound) for name, bound in self._routes.items()}

    def find(self, path: str) -> tuple[Bound, Mapping[str, str]] | None:
        match = self._pattern.fullmatch(path)
        if match is None:
            return None
        name = match.lastgroup or ""
        return self._routes[name], {parameter: match[group] for parameter, group in self._parameters[name]}


def _grouped(routes: Iterable[Bound]) -> dict[str, list[Bound]]:
    grouped: dict[str, list[Bound]] = {}
    for bound in routes:
        grouped.setdefault(bound.route.method, []).append(bound)
    return grouped


def _alternative(name: str, bound: Bound) -> str:
    parts = PARAMETER.split(bound.route.path)
    pieces = [f"(?P<{name}_{part}>{SEGMENT})" if index % 2 else re.escape(part) for index, part in enumerate(parts)]
    return f"(?P<{name}>{''.join(pieces)})"


def _parameters(name: str, bound: Bound) -> list[tuple[str, str]]:
    return [(parameter, f"{name}_{parameter}") for parameter in PARAMETER.findall(bound.route.path)]
