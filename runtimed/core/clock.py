"""The time of day."""

import time


class SystemClock:
    """The machine's clock."""

    def unix_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000
