"""The clock of `--timeout`."""

import signal

from runtimectl.errors import Expired
from runtimectl.interruption import AGAIN_S, interrupt


def start(seconds: float) -> None:
    """Raise Expired in the main thread once the time is over, whatever it is doing or waiting for, until `stop`."""
    signal.signal(signal.SIGALRM, _expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def stop() -> None:
    """Raise Expired no more."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _expire(_signal: int, _frame: object) -> None:
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    interrupt(Expired)
