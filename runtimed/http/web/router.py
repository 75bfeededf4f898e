"""The routes of the API, found by method and path."""

import re
from collections.abc import Iterable, Mapping

import attrs
from aiohttp import hdrs

from runtimed.http.errors import MethodNotAllowed, NotFound
from runtimed.http.web.endpoint import Endpoint

PARAMETER = re.compile(r"\{(\w+)\}")
SEGMENT = "[^{}/]+"
"""What a parameter may hold. A slash that is part of a value arrives encoded."""


@attrs.frozen
class Match:
    """An endpoint that a request has reached, and the values of the parameters in its path."""

    endpoint: Endpoint
    in_path: Mapping[str, str]


class Router:
    """Finds the endpoint of a request.

    Paths are decoded, except for an encoded slash or percent sign: `%2F` and `%25`, as in `yarl.URL.path_safe`.
    """

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        by_method: dict[str, list[Endpoint]] = {}
        for endpoint in endpoints:
            by_method.setdefault(endpoint.route.method, []).append(endpoint)
        self._by_method = {method: _Paths(found) for method, found in by_method.items()}

    def find(self, method: str, path: str) -> Match | None:
        """Return the endpoint of exactly this method and path, or None."""
        paths = self._by_method.get(method)
        return paths.find(path) if paths is not None else None

    def is_open(self, method: str, path: str) -> bool:
        """Return whether a request is answered without a token."""
        found = self.find(_answered_as(method), path)
        return found is not None and found.endpoint.route.is_open

    def template(self, method: str, path: str) -> str | None:
        """Return the path of the route that a request has reached, with parameters as `{name}`, or None."""
        found = self.find(_answered_as(method), path)
        return None if found is None else found.endpoint.route.path

    def resolve(self, method: str, path: str) -> Match:
        """Return the endpoint of a request; HEAD is answered by the endpoint of GET.

        Raises:
            NotFound: No route has this path.
            MethodNotAllowed: The path takes other methods.
        """
        found = self.find(_answered_as(method), path)
        if found is not None:
            return found
        allowed = {other for other, paths in self._by_method.items() if paths.find(path)}
        if not allowed:
            raise NotFound
        raise MethodNotAllowed(frozenset(allowed | {hdrs.METH_HEAD} if hdrs.METH_GET in allowed else allowed))


class _Paths:
    """The routes of one method as one pattern, whose last group is the number of the route."""

    def __init__(self, endpoints: list[Endpoint]) -> None:
        self._endpoints = {f"route{number}": endpoint for number, endpoint in enumerate(endpoints)}
        self._pattern = re.compile("|".join(_alternative(*named) for named in self._endpoints.items()))
        self._parameters = {name: _groups(name, endpoint) for name, endpoint in self._endpoints.items()}

    def find(self, path: str) -> Match | None:
        match = self._pattern.fullmatch(path)
        if match is None:
            return None
        name = match.lastgroup or ""
        values = {parameter: _decoded(match[group]) for parameter, group in self._parameters[name]}
        return Match(self._endpoints[name], values)


def _answered_as(method: str) -> str:
    return hdrs.METH_GET if method == hdrs.METH_HEAD else method


def _alternative(name: str, endpoint: Endpoint) -> str:
    parts = PARAMETER.split(endpoint.route.path)
    pieces = [f"(?P<{name}_{part}>{SEGMENT})" if index % 2 else re.escape(part) for index, part in enumerate(parts)]
    return f"(?P<{name}>{''.join(pieces)})"


def _groups(name: str, endpoint: Endpoint) -> list[tuple[str, str]]:
    return [(parameter, f"{name}_{parameter}") for parameter in PARAMETER.findall(endpoint.route.path)]


def _decoded(value: str) -> str:
    return value.replace("%2F", "/").replace("%25", "%") if "%" in value else value
