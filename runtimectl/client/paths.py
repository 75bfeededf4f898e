"""Paths and queries of requests."""

from typing import Any
from urllib.parse import quote, urlencode


def worker_path(route: str, worker_id: str, **others: str) -> str:
    """Return the path of a route of one Worker; `others` are further parts of the path by name."""
    parts = {name: quote(part, safe="") for name, part in others.items()}
    return route.format(worker_id=quote(worker_id, safe=""), **parts)


def with_query(path: str, query: dict[str, Any]) -> str:
    """Return a path with a query; a value that is a list or a tuple is repeated."""
    return f"{path}?{urlencode(query, doseq=True)}" if query else path


def given(**values: Any) -> dict[str, Any]:
    """Return the values that are given: neither None nor an empty tuple."""
    return {name: value for name, value in values.items() if value is not None and value != ()}
