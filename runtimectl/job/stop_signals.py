"""Signals that end a job: the first one in good order, a second one at once."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from select import poll

from runtimectl.client.run_result import SIGNALED
from runtimectl.job.inbox import Inbox, OutputClosed, Stopped

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_S = 0.1
"""Signals so close together count as one: `timeout` sends to its child and then to the group of its child."""


class StopSignals:
    """Puts the first signal into an inbox. A second one ends the process at once.

    Args:
        inbox: Where the signal goes.
        before_exit: Called before the process ends at once.
    """

    def __init__(self, inbox: Inbox, before_exit: Callable[[], None]) -> None:
        self._inbox = inbox
        self._before_exit = before_exit
        self._first: float | None = None

    @property
    def has_come(self) -> bool:
        """Whether a signal has come."""
        return self._first is not None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals, except those that were ignored when this process was started."""
        numbers = [number for number in NUMBERS if signal.getsignal(number) is not signal.SIG_IGN]
        before = [signal.signal(number, self._handle) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._inbox.put(Stopped(number))
        elif now - self._first > SAME_S:
            self._before_exit()
            os._exit(SIGNALED + number)


def watch_reader(inbox: Inbox) -> None:
    """Put OutputClosed into the inbox when stdout loses its reader. A file never loses it."""
    threading.Thread(target=_watch, args=(sys.stdout.fileno(), inbox), daemon=True).start()


def _watch(stdout: int, inbox: Inbox) -> None:
    watched = poll()
    watched.register(stdout, 0)
    watched.poll()
    inbox.put(OutputClosed())
