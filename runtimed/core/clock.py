"""The time of day."""

import time


class SteadyClock:
    """The machine's clock as it stood when this was made, carried on by one that nobody can set.

    So a jump of the wall clock changes neither the order of times nor what they add up to; it counts from the next
    start on.
    """

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def unix_ms(self) -> int:
        """Milliseconds since 1970."""
        return (self._offset_ns + time.monotonic_ns()) // 1_000_000
