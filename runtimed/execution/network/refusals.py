"""Tell the observers of a Worker which connections were refused."""

import time
from collections.abc import Callable

from runtimed.model.event import SystemItem

NETWORK_REFUSED = "network_refused"

PERIOD_S = 60.0
"""The shortest time between two events about the same host and port."""

MAX_REMEMBERED = 64
"""The most hosts and ports with an event in one period. Further ones have none and are only counted."""

MAX_HOST = 253
MAX_REASON = 500


class Refusals:
    """Makes events of the refused connections of one Worker, at most one a minute for each host and port.

    Args:
        clock: Returns seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[tuple[str, int], float] = {}
        """When each host and port had its last event, the oldest first."""
        self._left_out = 0

    def add(self, host: str, port: int, reason: str) -> SystemItem | None:
        """Note a refused connection.

        Args:
            host: The host as the program named it.
            port: The port.
            reason: Why it was refused, for people.

        Returns:
            The event, or None if there was one about this host and port within a minute, or there were too many. Its
            `left_out` is how many refusals since the event before it had none, and is absent if there were none.
        """
        now = self._clock()
        self._forget(now - PERIOD_S)
        key = (host[:MAX_HOST], port)
        if key in self._last or len(self._last) >= MAX_REMEMBERED:
            self._left_out += 1
            return None
        self._last[key] = now
        left_out, self._left_out = self._left_out, 0
        item = {"kind": NETWORK_REFUSED, "host": key[0], "port": port, "reason": reason[:MAX_REASON]}
        return SystemItem(item | {"left_out": left_out} if left_out else item)

    def _forget(self, before: float) -> None:
        """Forget events that are old enough. They are in the order of their times."""
        while self._last and next(iter(self._last.values())) <= before:
            del self._last[next(iter(self._last))]
