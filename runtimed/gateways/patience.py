"""The time that an exchange may take."""

import asyncio
from types import TracebackType
from typing import Self


class Patience:
    """Raises TimeoutError where the context is silent for too long, or lasts too long.

    Args:
        silence_s: The longest time between two calls of `touch`, in seconds.
        total_s: The longest time in sum, in seconds.
    """

    def __init__(self, silence_s: float, total_s: float) -> None:
        self._silence_s = silence_s
        self._total_s = total_s
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    def touch(self) -> None:
        """Begin the time of silence anew. It costs little, so call it for each chunk."""
        self._heard_at = self._loop.time()

    async def __aenter__(self) -> Self:
        self.touch()
        self._ends_at = self._heard_at + self._total_s
        await self._timeout.__aenter__()
        self._check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _check(self) -> None:
        due = min(self._heard_at + self._silence_s, self._ends_at)
        if due <= self._loop.time():
            self._timeout.reschedule(due)
        else:
            self._timer = self._loop.call_at(due, self._check)
