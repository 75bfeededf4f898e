"""Interruptions: errors that a signal raises in the main thread, and raises again if they are lost.

Python only reports an error that leaves the callback of a weak reference, as imports have them, or a finalizer. So an
interruption that arrives there is lost.
"""

import sys

from runtimectl.errors import Interruption

AGAIN_S = 0.1
"""The time between two signals, in seconds, until the command has ended."""


def interrupt(kind: type[Interruption]) -> None:
    """Raise an interruption, unless one is being handled: a command may take its time to end."""
    handled = sys.exc_info()[1]
    while handled is not None and not isinstance(handled, Interruption):
        handled = handled.__context__
    if handled is None:
        sys.unraisablehook = _report
        raise kind


def _report(lost: "sys.UnraisableHookArgs") -> None:
    """Print an error that was lost, but no interruption: that is raised again."""
    if not isinstance(lost.exc_value, Interruption):
        sys.__unraisablehook__(lost)
