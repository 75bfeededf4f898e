"""The one place where errors become answers."""

import logging

from aiohttp import web

from runtimed import errors
from runtimed.http.responses import Answer
from runtimed.wire.converter import encode
from runtimed.wire.envelopes import ErrorDetail, ErrorResponse

STATUSES: dict[type[errors.RuntimedError], int] = {
    errors.RequestError: 400,
    errors.PayloadTooLarge: 413,
    errors.RequestHeadTooLarge: 431,
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


def error_answer(error: Exception) -> Answer:
    """The answer that tells of any exception of a handler; what nobody foresaw is logged and `internal`."""
    known = _known(error)
    headers = {}
    if isinstance(known, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(known, errors.MethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(known.allowed))
    body = ErrorResponse(ErrorDetail(known.code, known.message))
    return Answer(encode(body), status_of(type(known)), headers)


def _known(error: Exception) -> errors.RuntimedError:
    if isinstance(error, errors.RuntimedError):
        return error
    if isinstance(error, web.HTTPNotFound):
        return errors.NotFound()
    if isinstance(error, web.HTTPMethodNotAllowed):
        return errors.MethodNotAllowed(frozenset(error.allowed_methods))
    log.error("a request failed", exc_info=error)
    return errors.Internal()
