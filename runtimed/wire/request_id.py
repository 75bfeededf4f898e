"""The id of a request: it is in the response, and in each log line that is written while the request is served."""

import itertools
import re
import secrets
import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Self

REQUEST_ID = "X-Request-Id"
GIVEN = re.compile(r"[!-~]{1,64}", re.ASCII)
"""The ids that are taken over from a client."""


class RequestScope:
    """The time in which one request is served. As a context manager it ends with the context.

    What the request starts inherits its scope. Log lines carry the id only until the scope ends, because a program
    that a request has started may run for days.

    Attributes:
        id: The id of the request.
        is_over: Whether the request was served.
        began_s: When the scope began, in seconds of `time.monotonic`.
    """

    __slots__ = ("began_s", "id", "is_over")

    def __init__(self, request_id: str) -> None:
        self.id = request_id
        self.is_over = False
        self.began_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over = True


_current: ContextVar[RequestScope | None] = ContextVar("request", default=None)


def current_request_id() -> str | None:
    """Return the id of the request that is being served, or None outside of requests."""
    scope = _current.get()
    return None if scope is None or scope.is_over else scope.id


def given_request_id(values: Sequence[str]) -> str | None:
    """Return the id that a client gives, or None.

    Args:
        values: The values of all headers of that name.
    """
    return values[0] if len(values) == 1 and GIVEN.fullmatch(values[0]) else None


class RequestIds:
    """Makes the ids of requests that bring none. No two are the same, those of other daemons included."""

    def __init__(self) -> None:
        self._prefix = f"{secrets.token_hex(6)}-"
        self._numbers = itertools.count(1)

    def begin(self, given: str | None) -> RequestScope:
        """Begin the scope of a request in the current context.

        Args:
            given: The id that the client gives, or None.
        """
        scope = RequestScope(given or self._prefix + str(next(self._numbers)))
        _current.set(scope)
        return scope
