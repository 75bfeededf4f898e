"""Whether a Runtime takes requests."""

from runtimed.errors import RuntimeStopped


class Admission:
    """Open from the start of a Runtime until it closes."""

    def __init__(self) -> None:
        self.is_closed = False

    def check(self) -> None:
        """Raise RuntimeStopped if the Runtime is closing."""
        if self.is_closed:
            raise RuntimeStopped

    def close(self) -> None:
        """Take no more requests."""
        self.is_closed = True
