"""The errors of the client library and of the command line.

ClientError                    everything that the client library raises
├── ApiError                   the daemon answered with an error: its code, status and message
├── RunFailed                  `Worker.run()`: a run did not finish; carries its result
└── ControlError               ends a command, with an exit code
    ├── WorkerFailed        1  the Worker was refused, or its run ended in an error
    ├── ChecksFailed        1  the doctor found a problem
    ├── UsageProblem        2  the command line, its files or its environment
    │   └── MissingFile     2  a file that is named does not exist
    ├── NotFound            3
    ├── Unauthorized        4
    ├── Refused             5  refused by the Runtime
    ├── Unreachable         6  cannot reach the daemon
    │   └── NotConnected    6  there is no daemon to connect to, so nothing was sent
    ├── DaemonFailed        7  the daemon failed
    │   └── Unavailable     7  it is starting or draining
    ├── TimedOut            8
    └── NotPermitted        9  a permission was denied, or expired unanswered

What the daemon answers with is an ApiError and at the same time the ControlError for its status.

Signals raise an Interruption instead: DeadlineExpired for `--timeout`, OutputClosed for a stdout without a reader. It
is a BaseException, so that no handler of ordinary errors catches it.
"""

import json
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from runtimectl.result import Result

UNAVAILABLE_STATUSES = {502, 503, 504}
"""Statuses that pass: 503 of a daemon that starts or drains, each of a proxy whose daemon is down."""


class ClientError(Exception):
    """The base of every error of the client library. Its text is one line."""


class ApiError(ClientError):
    """The daemon answered with an error.

    Attributes:
        code: The code of the error in the reference, such as `worker_not_found`; empty if a proxy answered.
        status: The HTTP status; 0 if the feed reported the error.
        message: What is wrong, in one line.
    """

    def __init__(self, code: str, status: int, message: str) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.code = code
        self.status = status
        self.message = message


class RunFailed(ClientError):
    """A run did not finish.

    Attributes:
        result: The outcome of the run, its reason, and what the Worker said until then.
    """

    def __init__(self, result: "Result") -> None:
        super().__init__(f"{result.outcome}: {result.reason}" if result.reason else result.outcome)
        self.result = result


class ControlError(ClientError):
    """The base of errors that end a command. Its text is one line for stderr."""

    exit_code: ClassVar[int]


class WorkerFailed(ControlError):
    """The Worker's run ended in an error, or ended otherwise than the command waited for."""

    exit_code = 1


class ChecksFailed(ControlError):
    """At least one finding of the doctor failed."""

    exit_code = 1


class UsageProblem(ControlError):
    """An argument, a file or the environment is invalid, or does not name one daemon or Worker."""

    exit_code = 2


class MissingFile(UsageProblem):
    """A file that the command line or the environment names does not exist."""


class NotFound(ControlError):
    """The Worker, bundle, permission request or route does not exist."""

    exit_code = 3


class Unauthorized(ControlError):
    """The daemon did not accept the token, or no token was found; or the token does not grant the request."""

    exit_code = 4


class Refused(ControlError):
    """The Runtime refused the request."""

    exit_code = 5


class Unreachable(ControlError):
    """No daemon answered."""

    exit_code = 6


class NotConnected(Unreachable):
    """No daemon is known, or no connection could be opened: nothing was sent."""


class DaemonFailed(ControlError):
    """The daemon reported an internal failure, or the answer is not one of a runtimed."""

    exit_code = 7


class Unavailable(DaemonFailed):
    """The daemon is starting or draining. A retry may succeed."""


class TimedOut(ControlError):
    """The time of `--timeout` or of one request is over."""

    exit_code = 8


class NotPermitted(ControlError):
    """A permission that the run asked for was denied, or expired unanswered."""

    exit_code = 9


class Interruption(BaseException):
    """A signal ended the command."""


class DeadlineExpired(Interruption):
    """The time of `--timeout` is over."""


class OutputClosed(Interruption):
    """The reader of stdout is gone."""


def unexpected_response(error: Exception) -> ControlError:
    """Return the error for an answer that does not fit the contract. `error` is what using that answer has raised."""
    return DaemonFailed(f"unexpected response: a field of the contract is missing or invalid: {error!r}")


def error_from_response(status: int, body: bytes, searched: str = "") -> ControlError:
    """Return the error for a response that is not a success. It is an ApiError too.

    Args:
        status: The HTTP status.
        body: The response body: the contract's error object, or anything else that a proxy sent.
        searched: The places that were searched for a token without finding one; empty if a token was sent.
    """
    if status == 401 and searched:
        return _UnauthorizedAnswer("unauthorized", status, f"no token found; searched {searched}")
    return _kind(status)(*_code_and_status(status, body))


def error_from_diagnostic(kind: type[ControlError], code: str, message: str) -> ControlError:
    """Return the error of a kind for a diagnostic with which a feed ended. It is an ApiError too."""
    return _ANSWERS[kind](code, 0, message)


class _NotFoundAnswer(ApiError, NotFound):
    pass


class _UnauthorizedAnswer(ApiError, Unauthorized):
    pass


class _RefusedAnswer(ApiError, Refused):
    pass


class _FailedAnswer(ApiError, DaemonFailed):
    pass


class _UnavailableAnswer(ApiError, Unavailable):
    pass


_Answer = type[_NotFoundAnswer | _UnauthorizedAnswer | _RefusedAnswer | _FailedAnswer | _UnavailableAnswer]
_ANSWERS: dict[type[ControlError], _Answer] = {
    NotFound: _NotFoundAnswer,
    Unauthorized: _UnauthorizedAnswer,
    Refused: _RefusedAnswer,
    DaemonFailed: _FailedAnswer,
    Unavailable: _UnavailableAnswer,
}


def _kind(status: int) -> _Answer:
    if status in {401, 403}:
        return _UnauthorizedAnswer
    if status == 404:
        return _NotFoundAnswer
    if status in UNAVAILABLE_STATUSES:
        return _UnavailableAnswer
    return _RefusedAnswer if 400 <= status < 500 else _FailedAnswer


def _code_and_status(status: int, body: bytes) -> tuple[str, int, str]:
    try:
        error = json.loads(body)["error"]
        return str(error["code"]), status, str(error["message"])
    except (ValueError, LookupError, TypeError):
        advice = ", a redirect: give the URL that it leads to" if 300 <= status < 400 else ""
        return "", status, f"the daemon answered with status {status}{advice}"
