"""Runs the daemon with one protection taken out, so that a test can show that it would notice: NAME, then the options.

Each function below takes one out. All fail when what they replace is no longer there.
"""

import sys
from collections.abc import Callable
from typing import Any


def replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put `make(old)` in place of an attribute."""
    setattr(owner, name, make(getattr(owner, name)))


def pings() -> None:
    """Observers are not pinged."""
    from aiohttp import web

    def make(old: Callable[..., None]) -> Callable[..., None]:
        return lambda self, *args, **given: old(self, *args, **given | {"heartbeat": None})

    replace(web.WebSocketResponse, "__init__", make)


def bounded_buffers() -> None:
    """What an observer does not read is kept for it without a bound."""
    from runtimed.http.server import _Connection

    def make(old: Callable[..., None]) -> Callable[..., None]:
        def connection_made(self: Any, transport: Any) -> None:
            transport.set_write_buffer_limits(high=2**40)
            old(self, transport)

        return connection_made

    replace(_Connection, "connection_made", make)


def main() -> None:
    {one.__name__: one for one in (pings, bounded_buffers)}[sys.argv.pop(1)]()
    from runtimed.cli import main as runtimed

    runtimed()


if __name__ == "__main__":
    main()
