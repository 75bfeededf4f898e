"""Timers that many share."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LATE_S = 0.5
"""Past so much delay of a beat the process itself did not run, and nobody's silence means anything."""

SETTLE_S = 0.05
"""From when a beat is due to the beat: a loop that was held up runs its timers before it reads what came meanwhile,
and an answer that is there already has to count."""


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

    def _wait(self, since: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        due = (loop.time() if since is None else since) + self._period_s
        self._timer = loop.call_at(due, self._settle, due)

    def _settle(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        late = loop.time() - due > LATE_S
        self._timer = loop.call_later(SETTLE_S, self._beat, None if late else due)

    def _beat(self, due: float | None) -> None:
        self._wait(due)
        for member in tuple(self._members):
            member.beat(late=due is None)


class Pulses:
    """The pulses of all periods that are in use."""

    def __init__(self) -> None:
        self._pulses: dict[float, Pulse] = {}

    def of(self, period_s: float) -> Pulse:
        """The pulse of a period."""
        return self._pulses.setdefault(period_s, Pulse(period_s))
