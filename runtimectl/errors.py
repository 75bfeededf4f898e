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
├── TimedOut             8
└── NotPermitted         9  a permission was denied, or expired unanswered

Expired and ReaderGone stand apart: the clock of `--timeout`, and a stdout that nobody reads any more. Nothing on the
way may mistake them for its own trouble.
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


class NotPermitted(ControlError):
    """A permission that the run asked for was denied, or expired unanswered."""

    exit_code = 9


class Interruption(BaseException):
    """The command has to end, whatever it is doing."""


class Expired(Interruption):
    """The time of `--timeout` is over."""


class ReaderGone(Interruption):
    """Nobody reads stdout any more."""


def from_response(status: int, body: bytes, sought: str = "") -> ControlError:
    """The error that a response which is no success stands for; `sought` is where no token was found."""
    if status == 401 and sought:
        return Denied(f"unauthorized: no token was found: looked at {sought}")
    return _kind(status)(_message(body) or f"the daemon answered {status}")


AWAY = {502, 503, 504}
"""503 from a daemon that is starting or draining; from a proxy any of them, where no daemon is behind it."""


def _kind(status: int) -> type[ControlError]:
    if status == 401:
        return Denied
    if status == 404:
        return Missing
    if status in AWAY:
        return Unavailable
    return Refused if 400 <= status < 500 else DaemonFailed


def _message(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return f"{error['code']}: {error['message']}"
    except (ValueError, LookupError, TypeError):
        return ""
