"""Timers that many share."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LATE_S = 0.5
"""Past so much delay of a beat the process itself did not run, and nobody's silence means anything."""


class Beating(Protocol):
    """A member of a pulse."""

    def beat(self, *, late: bool) -> None:
        """A period is over; `late` when it took much longer than it should have."""


class Pulse:
    """Calls its members every `period_s` seconds, all at once. It has a timer only while it has members."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._members: set[Beating] = set()
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def beating(self, member: Beating) -> Iterator[None]:
        """Call a member with every beat while the context lasts."""
        self._members.add(member)
        if self._timer is None:
            self._wait()
        try:
            yield
        finally:
            self._members.discard(member)
            if not self._members and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._period_s
        self._timer = loop.call_at(due, self._beat, due)

    def _beat(self, due: float) -> None:
        late = asyncio.get_running_loop().time() - due > LATE_S
        self._wait()
        for member in tuple(self._members):
            member.beat(late=late)


class Pulses:
    """The pulses of all periods that are in use."""

    def __init__(self) -> None:
        self._pulses: dict[float, Pulse] = {}

    def of(self, period_s: float) -> Pulse:
        """The pulse of a period."""
        return self._pulses.setdefault(period_s, Pulse(period_s))
