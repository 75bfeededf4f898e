"""Whether a Runtime takes requests, and new work."""

import asyncio
import contextlib
from collections.abc import Iterator

from runtimed.errors import RuntimeStopped, Unavailable

RETRY_AFTER_S = 5
"""When a client may try again what a draining daemon refuses: another daemon may have taken its place by then."""


class Admission:
    """Open from the start of a Runtime, then draining, then closed.

    While it is draining it refuses new work: Workers, inputs and restores. All else goes on.

    Attributes:
        draining: Set once new work is refused.
        is_closed: Nothing is taken any more.
    """

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self.is_closed = False
        self._begun = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def takes_work(self) -> bool:
        """Whether new work may begin."""
        return not self.is_closed and not self.draining.is_set()

    def check(self) -> None:
        """Raise RuntimeStopped if the Runtime is closing."""
        if self.is_closed:
            raise RuntimeStopped

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Admit new work, which lasts as long as the context.

        Raises:
            RuntimeStopped: The Runtime is closing.
            Unavailable: The daemon is draining.
        """
        self.check()
        if self.draining.is_set():
            problem = "the daemon is draining: it takes no new Workers, inputs and restores; retry when it is back"
            raise Unavailable(problem, RETRY_AFTER_S)
        self._begun += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._begun -= 1
            if not self._begun:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until all work that was admitted has been answered."""
        await self._idle.wait()

    def drain(self) -> None:
        """Take no new work. May be called again."""
        self.draining.set()

    def close(self) -> None:
        """Take no more requests."""
        self.is_closed = True
