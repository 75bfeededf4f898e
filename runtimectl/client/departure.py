"""Notice the end of a daemon."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from runtimectl.client.address import Address
from runtimectl.client.discovery import serving_process
from runtimectl.client.event_stream import envelopes, opened_stream
from runtimectl.errors import ApiError, ControlError, Unavailable, Unreachable
from runtimed.wire import routes

if TYPE_CHECKING:
    from runtimed.wire.endpoint import Endpoint

FEED = f"{routes.FLEET_EVENTS}?events=run_end"
"""A feed with few events. The daemon says farewell on it when it ends."""

FAREWELL = "runtime.upstream_closed"
POLL_S = 0.05


@contextmanager
def departure(address: Address) -> Iterator[Callable[[], None]]:
    """Watch a daemon, and give a function that waits for its end.

    A connection is open all the while: a new one could reach the daemon that follows, or have systemd start it.

    Args:
        address: The daemon. If it runs on this machine and has an endpoint file, its process is waited for too.

    Raises:
        ControlError: The daemon cannot be watched.
    """
    process = serving_process(address)
    with opened_stream(address, FEED) as pieces:
        yield partial(_wait, address, pieces, process)


def _wait(address: Address, pieces: Iterable[bytes], process: "Endpoint | None") -> None:
    if not _ends_with_farewell(pieces):  # a proxy may have cut the connection
        _watch_again(address)
    while process is not None and process.alive():
        time.sleep(POLL_S)


def _watch_again(address: Address) -> None:
    try:
        is_over = False
        while not is_over:
            with opened_stream(address, FEED) as pieces:
                is_over = _ends_with_farewell(pieces)
    except (Unreachable, Unavailable):
        return


def _ends_with_farewell(pieces: Iterable[bytes]) -> bool:
    """Read a feed to its end. Returns whether the daemon ended it because it ends itself."""
    try:
        for _ in envelopes(pieces):
            pass
    except ControlError as error:
        return isinstance(error, ApiError) and error.code == FAREWELL
    except OSError:
        return False
    return False
