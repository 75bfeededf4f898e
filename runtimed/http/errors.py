"""The one place where errors become responses."""

import logging

from aiohttp import web

from runtimed import errors
from runtimed.http.responses import json_response
from runtimed.wire.envelopes import ErrorDetail, ErrorResponse

STATUSES: dict[type[errors.RuntimedError], int] = {
    errors.RequestError: 400,
    errors.PayloadTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.Unauthorized: 401,
    errors.ForbiddenOrigin: 403,
    errors.MisdirectedRequest: 421,
    errors.MissingError: 404,
    errors.MethodNotAllowed: 405,
    errors.StateError: 409,
    errors.Unavailable: 503,
    errors.StoreError: 500,
    errors.StoreFull: 507,
    errors.StatePoisoned: 500,
    errors.Internal: 500,
    errors.FeedError: 400,
    errors.CursorUnknownOrExpired: 410,
    errors.CursorExpired: 410,
    errors.WorkerDeleted: 404,
    errors.UpstreamClosed: 503,
    errors.SerializeFailed: 500,
}
"""A class that is not here has the status of its nearest ancestor that is."""

log = logging.getLogger(__name__)


def status_of(kind: type[errors.RuntimedError]) -> int:
    """The HTTP status of an error class."""
    return next(STATUSES[ancestor] for ancestor in kind.__mro__ if ancestor in STATUSES)


def error_response(error: errors.RuntimedError) -> web.Response:
    """The response that tells of an error."""
    headers = {}
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.MethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.allowed))
    body = ErrorResponse(ErrorDetail(error.code, error.message))
    return json_response(body, status_of(type(error)), headers)


def as_runtimed_error(error: Exception) -> errors.RuntimedError:
    """Any exception of a handler as one that can be answered; what nobody foresaw is logged and `internal`."""
    if isinstance(error, errors.RuntimedError):
        return error
    if isinstance(error, web.HTTPNotFound):
        return errors.NotFound()
    if isinstance(error, web.HTTPMethodNotAllowed):
        return errors.MethodNotAllowed(frozenset(error.allowed_methods))
    log.error("a request failed", exc_info=error)
    return errors.Internal()
