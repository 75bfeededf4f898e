"""The clock of `--timeout`."""

import signal

from runtimectl.errors import Expired


def start(seconds: float) -> None:
    """Raise Expired in the main thread once the time is over, whatever it is doing or waiting for."""
    signal.signal(signal.SIGALRM, _expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _expire(_signal: int, _frame: object) -> None:
    raise Expired
