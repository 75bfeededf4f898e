"""Notifications to the service manager, by the protocol of sd_notify(3)."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Self

from runtimed.execution.tasks import begin, finish

EXTEND_INTERVAL_S = 5.0
"""How often a daemon that is stopping asks for more time."""

EXTENSION_S = 20.0
"""How much time it asks for."""

ENDING_S = 60.0
"""How long a daemon may take to end after the time that its requests and runs have."""

log = logging.getLogger(__name__)


class ServiceManager:
    """The service manager that started this process. Without one, nothing is sent.

    Args:
        address: The socket of the service manager: a path, or `@` and an abstract name. Empty for none.
        watchdog_s: The service manager restarts a process that was silent for so long; None if it does not.

    Attributes:
        is_alive: Whether the daemon can do its work. The watchdog is told nothing while it cannot.
    """

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self.is_alive: Callable[[], bool] = lambda: True
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_s = watchdog_s
        self._is_stopping = False
        self._extend_until = 0.0
        self._unsent: tuple[str, ...] = ()

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self:
        """Return the service manager that the variables of sd_notify(3) and sd_watchdog_enabled(3) name."""
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls()
        period, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(os.getpid()))
        is_watched = period.isdecimal() and int(period) > 0 and pid == str(os.getpid())
        return cls(address, int(period) / 1e6 if is_watched else None)

    def ready(self, status: str) -> None:
        """Say that the daemon serves, also after a reload. One that is stopping says nothing of its reloads."""
        if not self._is_stopping:
            self._tell("READY=1", _status(status))

    def reloading(self) -> None:
        """Say that the daemon reads its configuration. `ready` says that it has done so."""
        if not self._is_stopping:
            self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", _status("reloading"))

    def stopping(self, status: str, within_s: float = 0.0) -> None:
        """Say that the daemon is about to end. It asks for more time until `within_s` and ENDING_S are over."""
        self._is_stopping = True
        self._extend_until = time.monotonic() + within_s + ENDING_S
        self._tell("STOPPING=1", _status(status), *self._more_time())

    @contextlib.asynccontextmanager
    async def kept_informed(self) -> AsyncIterator[None]:
        """Tell the watchdog that the event loop turns, and ask for more time while the daemon is stopping."""
        if not self._address:
            yield
            return
        task = begin(self._keep_informed())
        try:
            yield
        finally:
            await finish(task)

    async def _keep_informed(self) -> None:
        interval_s = min(EXTEND_INTERVAL_S, (self._watchdog_s or EXTEND_INTERVAL_S) / 2)
        while True:
            await asyncio.sleep(interval_s)
            lines = ["WATCHDOG=1"] if self._watchdog_s is not None and self.is_alive() else []
            if self._unsent:
                self._tell(*self._unsent)
            if lines := [*lines, *self._more_time()]:
                self._send(*lines)

    def _more_time(self) -> list[str]:
        return [f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1e6:.0f}"] if time.monotonic() < self._extend_until else []

    def _tell(self, *assignments: str) -> None:
        """Send a state. One that cannot be sent is repeated with the next tick, unless another one has followed."""
        self._unsent = () if self._send(*assignments) else assignments

    def _send(self, *assignments: str) -> bool:
        if not self._address:
            return True
        message = "\n".join(assignments)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(message.encode(), self._address)
        except OSError as error:
            log.warning("cannot notify the service manager", extra={"state": message, "reason": error.strerror})
            return False
        return True


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}"
