"""Heartbeats: one timer for all members with the same period."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LATE_S = 0.5
"""If a beat is later than this, the process itself did not run, so the silence of a client means nothing."""

SETTLE_S = 0.05
"""How long a beat waits after it is due. After a delay, an event loop runs its timers before it reads what has
arrived, and a sign of life that has arrived must count."""


class HeartbeatMember(Protocol):
    """A member of a heartbeat."""

    def beat(self, *, late: bool) -> None:
        """Act on the end of a period; `late` if the period took much longer than it should."""


class Heartbeat:
    """Calls its members every `period_s` seconds, all at once. The timer runs only while there are members."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._members: set[HeartbeatMember] = set()
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def calling(self, member: HeartbeatMember) -> Iterator[None]:
        """Call a member at every beat while the context lasts."""
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


class Heartbeats:
    """One heartbeat for each period in use."""

    def __init__(self) -> None:
        self._heartbeats: dict[float, Heartbeat] = {}

    def of(self, period_s: float) -> Heartbeat:
        """Return the heartbeat with this period, in seconds."""
        return self._heartbeats.setdefault(period_s, Heartbeat(period_s))
