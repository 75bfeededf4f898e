"""Repeat requests whose answers were lost."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

from runtimectl.errors import NotConnected, TimedOut, Unavailable, Unreachable

FIRST_DELAY_S = 0.05
MAX_DELAY_S = 2.0
LOST_ANSWER_S = 10.0
"""How long a request is repeated, unless another time is given."""

T = TypeVar("T")


def send_with_key(request: Callable[[str], T]) -> T:
    """Send a request with an idempotency key, again with the same one where its answer was lost.

    Raises:
        ControlError: The daemon refused it, is gone, or gave no answer for LOST_ANSWER_S.
    """
    key = os.urandom(16).hex()
    return Repetition(waits_for_daemon=False).send(lambda: request(key))


class Repetition:
    """Sends requests that may be repeated: reads, and those that carry an idempotency key.

    A daemon that was never reached is not waited for: nothing says that there is one.

    Args:
        patience_s: How long to repeat one request before its error counts.
        has_reached: A daemon was reached before.
        waits_for_daemon: Wait for a daemon that was reached before, and is gone or not ready. Else only a request
            whose answer was lost is repeated.
    """

    def __init__(
        self, patience_s: float = LOST_ANSWER_S, *, has_reached: bool = False, waits_for_daemon: bool = True
    ) -> None:
        self._patience_s = patience_s
        self._has_reached = has_reached
        self._waits_for_daemon = waits_for_daemon

    def send(self, request: Callable[[], T]) -> T:
        """Send a request, again where its answer was lost, and return the answer. Raises ControlError."""
        deadline = time.monotonic() + self._patience_s
        delay = FIRST_DELAY_S
        while True:
            try:
                answer = request()
            except (Unreachable, Unavailable, TimedOut) as error:
                is_gone = isinstance(error, NotConnected)
                self._has_reached = self._has_reached or not is_gone
                is_waited_for = self._waits_for_daemon and self._has_reached
                is_lost_answer = isinstance(error, Unreachable) and not is_gone
                if not (is_waited_for or is_lost_answer) or time.monotonic() + delay > deadline:
                    raise
            else:
                self._has_reached = True
                return answer
            time.sleep(delay)
            delay = min(delay * 2, MAX_DELAY_S)
