"""The clock of `--timeout`."""

import signal
import sys

from runtimectl.errors import Expired

AGAIN_S = 0.1
"""How long after one Expired the next is raised. What may only report an exception loses it: a callback of a weak
reference, as imports have them, or a finalizer."""


def start(seconds: float) -> None:
    """Raise Expired in the main thread once the time is over, whatever it is doing or waiting for.

    Raises it again until `stop`, but not where one is being handled: what ends with it may take its time.
    """
    sys.unraisablehook = _report
    signal.signal(signal.SIGALRM, _expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def stop() -> None:
    """Raise Expired no more."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _expire(_signal: int, _frame: object) -> None:
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    handled = sys.exc_info()[1]
    while handled is not None and not isinstance(handled, Expired):
        handled = handled.__context__
    if handled is None:
        raise Expired


def _report(lost: "sys.UnraisableHookArgs") -> None:
    """Say nothing of an Expired that is lost: it comes again."""
    if not isinstance(lost.exc_value, Expired):
        sys.__unraisablehook__(lost)
