"""Everything that ends a command otherwise than well, each with its exit code.

ControlError
├── RunFailed            1  the Worker's run ended in an error
├── Unwell               1  the doctor found something wrong
├── UsageProblem         2  the command, its files or its surroundings
├── Missing              3  not found
├── Denied               4  unauthorized
├── Refused              5  refused by the Runtime
├── Unreachable          6  cannot reach the daemon
├── DaemonFailed         7  the daemon failed
│   └── Unavailable      7  it is starting or draining
└── TimedOut             8

Expired stands apart: the clock of `--timeout`, which nothing on the way may mistake for its own trouble.
"""

import json
from typing import ClassVar


class ControlError(Exception):
    """The root; its text is one line for stderr."""

    exit_code: ClassVar[int]


class RunFailed(ControlError):
    """The Worker's run ended in an error, or did not end as was waited for."""

    exit_code = 1


class Unwell(ControlError):
    """Something that was looked at is not as it should be."""

    exit_code = 1


class UsageProblem(ControlError):
    """The command can't be carried out as it was given."""

    exit_code = 2


class Missing(ControlError):
    """The Worker, the bundle or the path is not there."""

    exit_code = 3


class Denied(ControlError):
    """The daemon wants another token."""

    exit_code = 4


class Refused(ControlError):
    """The Runtime said no."""

    exit_code = 5


class Unreachable(ControlError):
    """Nothing that could be asked answers."""

    exit_code = 6


class DaemonFailed(ControlError):
    """The daemon answered that it failed, or something that no daemon answers."""

    exit_code = 7


class Unavailable(DaemonFailed):
    """The daemon is starting or draining: the same question may be answered soon."""


class TimedOut(ControlError):
    """The time given, or that of one request, is over."""

    exit_code = 8


class Expired(BaseException):
    """The time of `--timeout` is over."""


def from_response(status: int, body: bytes) -> ControlError:
    """The error that a response which is no success stands for."""
    return _kind(status)(_message(body) or f"the daemon answered {status}")


def _kind(status: int) -> type[ControlError]:
    if status == 401:
        return Denied
    if status == 404:
        return Missing
    if status == 503:
        return Unavailable
    return Refused if 400 <= status < 500 else DaemonFailed


def _message(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return f"{error['code']}: {error['message']}"
    except (ValueError, LookupError, TypeError):
        return ""
