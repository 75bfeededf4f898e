"""The errors that only HTTP knows, and the status of every error.

RequestError
├── InvalidQuery                      a query parameter that is unknown, repeated or malformed
├── PayloadTooLarge                   a body above the limit
├── RequestHeadTooLarge               a request head, or a part of it, above its limit
└── UnsupportedMediaType              a body that is not plain `application/json`
AccessError                           the guard refuses the request
├── Unauthorized                      no token, or a wrong one
├── ForbiddenOrigin                   a request from a browser
└── MisdirectedRequest                a Host that is not this server's
MissingError
├── NotFound                          an unknown path
└── MethodNotAllowed                  a known path with another method
FeedError
├── ObservationOnly                   an observer sent a message
└── SocketBroken                      an invalid WebSocket message
StartError
└── ListenFailed                      an address cannot be listened on
"""

from runtimed import errors
from runtimed.errors import FeedError, MissingError, RequestError, RuntimedError, StartError


class InvalidQuery(RequestError):
    """A query parameter that is unknown, repeated or malformed."""

    code = "invalid_query"


class PayloadTooLarge(RequestError):
    """A body above the limit."""

    code = "payload_too_large"

    def __init__(self, maximum: int) -> None:
        super().__init__(f"the body is too large: expected at most {maximum} bytes")
        self.maximum = maximum


class RequestHeadTooLarge(RequestError):
    """A request head, or a part of it, above its limit."""

    code = "request_head_too_large"


class UnsupportedMediaType(RequestError):
    """A body that is not plain `application/json`."""

    code = "unsupported_media_type"


class AccessError(RuntimedError):
    """The guard refuses the request."""


class Unauthorized(AccessError):
    """The token is missing or wrong."""

    code = "unauthorized"

    def __init__(self) -> None:
        super().__init__("expected the header Authorization: Bearer TOKEN with a valid token of this Runtime")


class ForbiddenOrigin(AccessError):
    """A browser sent the request."""

    code = "forbidden_origin"

    def __init__(self) -> None:
        super().__init__("requests from browsers are refused: expected no Origin header")


class MisdirectedRequest(AccessError):
    """The Host header, or the host of the request line, is not this server's."""

    code = "misdirected_request"

    def __init__(self) -> None:
        super().__init__("the Host header names another server: expected a listen address or an allowed host")


class NotFound(MissingError):
    """No route has this path."""

    code = "not_found"

    def __init__(self) -> None:
        super().__init__("no route has this path; GET /openapi.json lists the routes")


class MethodNotAllowed(MissingError):
    """The path has no route with this method; `allowed` are the methods that it has."""

    code = "method_not_allowed"

    def __init__(self, allowed: frozenset[str]) -> None:
        super().__init__(f"this path accepts {', '.join(sorted(allowed))}")
        self.allowed = allowed


class ObservationOnly(FeedError):
    """An observer sent a message."""

    code = "runtime.observation_only"

    def __init__(self) -> None:
        super().__init__("this socket is for observation only: send nothing but pings and a close")


class SocketBroken(FeedError):
    """A message on a socket is no WebSocket message, or too long."""

    code = "runtime.websocket_error"


class ListenFailed(StartError):
    """An address cannot be listened on."""

    code = "listen_failed"

    def __init__(self, address: str, why: str) -> None:
        super().__init__(f"cannot listen on {address}: {why}")


STATUSES: dict[type[RuntimedError], int] = {
    RequestError: 400,
    PayloadTooLarge: 413,
    RequestHeadTooLarge: 431,
    UnsupportedMediaType: 415,
    Unauthorized: 401,
    ForbiddenOrigin: 403,
    MisdirectedRequest: 421,
    errors.Forbidden: 403,
    errors.RateLimited: 429,
    MissingError: 404,
    MethodNotAllowed: 405,
    errors.StateError: 409,
    errors.WaitTimeout: 408,
    errors.Unavailable: 503,
    errors.StoreError: 500,
    errors.StoreFull: 507,
    errors.StatePoisoned: 500,
    errors.Internal: 500,
    FeedError: 400,
    errors.CursorUnknownOrExpired: 410,
    errors.CursorExpired: 410,
    errors.WorkerDeleted: 404,
    errors.UpstreamClosed: 503,
    errors.SerializeFailed: 500,
}
"""The status of an error class. A class that is not listed has the status of its nearest listed ancestor."""


def status_of(kind: type[RuntimedError]) -> int:
    """Return the HTTP status of an error class."""
    return next(STATUSES[ancestor] for ancestor in kind.__mro__ if ancestor in STATUSES)
