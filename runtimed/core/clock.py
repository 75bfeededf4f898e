"""The time of day."""

import time


class SteadyClock:
    """The wall clock as it was when this was made, advanced by the monotonic clock.

    A jump of the wall clock changes neither the order of times nor their differences. It counts from the next start.
    """

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def unix_ms(self) -> int:
        """Return the Unix time in milliseconds."""
        return (self._offset_ns + time.monotonic_ns()) // 1_000_000


class ExpiryClock(SteadyClock):
    """The later of a steady clock and the wall clock.

    A steady clock stands still while the machine sleeps, and may have started with a wall clock that was late. The
    wall clock may be set back. Neither prolongs what expires by this clock.
    """

    def unix_ms(self) -> int:
        """Return the Unix time in milliseconds."""
        return max(super().unix_ms(), time.time_ns() // 1_000_000)
