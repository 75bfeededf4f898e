"""Counts and durations of HTTP requests."""

from collections.abc import Mapping

from runtimed.core.histogram import Histogram

UNKNOWN_ROUTE = "unknown"
"""Stands for all paths without a route."""

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
OTHER_METHOD = "other"
"""Stands for all methods but METHODS."""

REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class RouteRequests:
    """The requests of one route and method.

    Attributes:
        statuses: How many were answered with each status.
        seconds: How long they took, in seconds, without feeds.
    """

    __slots__ = ("seconds", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.seconds = Histogram(REQUEST_SECONDS)

    def count(self, status: int) -> None:
        """Count a request that was answered with this status."""
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def observe(self, status: int, seconds: float) -> None:
        """Count a request that took this long."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.seconds.observe(seconds)


class Requests:
    """The requests of all routes. What clients send makes no new names: all that is unknown shares one."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], RouteRequests] = {}

    def of(self, route: str | None, method: str) -> RouteRequests:
        """Return the requests of a route.

        Args:
            route: The template of its path, or None for a path without a route.
            method: The method of the request.
        """
        key = route or UNKNOWN_ROUTE, method if method in METHODS else OTHER_METHOD
        found = self._routes.get(key)
        if found is None:
            found = self._routes[key] = RouteRequests()
        return found

    @property
    def by_route(self) -> Mapping[tuple[str, str], RouteRequests]:
        """The requests so far, by route and method."""
        return dict(self._routes)
