"""When a request is sent again."""

import time
from typing import Any

from runtimectl.errors import ApiError, ControlError, NotConnected, Unavailable, Unreachable
from runtimectl.library.calls import Call

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 5.0


class Repeats:
    """The repeats of one request: of one that changes nothing, or that carries an Idempotency-Key.

    It is repeated while its answer is lost, or the daemon is away or not ready. A daemon that was never reached is
    not waited for: nothing says that there is one.

    Args:
        call: The request.
        reconnect_for: Seconds after which the request fails.
        has_reached: Whether the daemon was reached before.
    """

    def __init__(self, call: Call[Any], reconnect_for: float, *, has_reached: bool) -> None:
        self._is_repeatable = call.is_repeatable
        self._has_reached = has_reached
        self._deadline = time.monotonic() + min(reconnect_for, call.repeat_for)
        self._delay = FIRST_DELAY_S

    def next_delay(self, error: ControlError) -> float:
        """Return the seconds to wait before the request is sent again.

        Raises:
            ControlError: The error that was given: the request is not repeated.
        """
        now = time.monotonic()
        is_lost = isinstance(error, Unreachable) and not isinstance(error, NotConnected)
        self._has_reached = self._has_reached or is_lost or _is_of_a_proxy(error)
        is_away = isinstance(error, Unreachable | Unavailable)
        if not (is_away and self._is_repeatable and self._has_reached) or now > self._deadline:
            raise error
        import random

        delay = min(self._delay * random.uniform(0.5, 1), self._deadline - now)  # noqa: S311 jitter, no secret
        self._delay = min(self._delay * 2, MAX_DELAY_S)
        return delay


def _is_of_a_proxy(error: ControlError) -> bool:
    """Return whether a proxy answered in place of the daemon: the request may have reached it."""
    return isinstance(error, ApiError) and error.status in {502, 504}
