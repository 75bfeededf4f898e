"""The errors that end a command, each with its exit code.

ControlError
├── RunFailed            1  the Worker's run ended in an error
├── ChecksFailed         1  the doctor found a problem
├── UsageProblem         2  the command line, its files or its environment
├── NotFound             3
├── Unauthorized         4
├── Refused              5  refused by the Runtime
├── Unreachable          6  cannot reach the daemon
├── DaemonFailed         7  the daemon failed
│   └── Unavailable      7  it is starting or draining
├── TimedOut             8
└── NotPermitted         9  a permission was denied, or expired unanswered

Signals raise an Interruption instead: DeadlineExpired for `--timeout`, OutputClosed for a stdout without a reader. It
is a BaseException, so that no handler of ordinary errors catches it.
"""

import json
from typing import ClassVar

UNAVAILABLE_STATUSES = {502, 503, 504}
"""Statuses that pass: 503 of a daemon that starts or drains, each of a proxy whose daemon is down."""


class ControlError(Exception):
    """The base of errors that end a command. Its text is one line for stderr."""

    exit_code: ClassVar[int]


class RunFailed(ControlError):
    """The Worker's run ended in an error, or ended otherwise than the command waited for."""

    exit_code = 1


class ChecksFailed(ControlError):
    """At least one finding of the doctor failed."""

    exit_code = 1


class UsageProblem(ControlError):
    """An argument, a file or the environment is invalid, or does not name one daemon or Worker."""

    exit_code = 2


class NotFound(ControlError):
    """The Worker, bundle, permission request or route does not exist."""

    exit_code = 3


class Unauthorized(ControlError):
    """The daemon did not accept the token, or no token was found."""

    exit_code = 4


class Refused(ControlError):
    """The Runtime refused the request."""

    exit_code = 5


class Unreachable(ControlError):
    """No daemon answered."""

    exit_code = 6


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


def error_from_response(status: int, body: bytes, searched: str = "") -> ControlError:
    """Return the error for a response that is not a success.

    Args:
        status: The HTTP status.
        body: The response body: the contract's error object, or anything else that a proxy sent.
        searched: The places that were searched for a token without finding one; empty if a token was sent.
    """
    if status == 401 and searched:
        return Unauthorized(f"unauthorized: no token found; searched {searched}")
    return _kind(status)(_message(body) or f"the daemon answered with status {status}")


def _kind(status: int) -> type[ControlError]:
    if status == 401:
        return Unauthorized
    if status == 404:
        return NotFound
    if status in UNAVAILABLE_STATUSES:
        return Unavailable
    return Refused if 400 <= status < 500 else DaemonFailed


def _message(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return f"{error['code']}: {error['message']}"
    except (ValueError, LookupError, TypeError):
        return ""
