"""Look up the addresses of names, off the event loop."""

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address

from runtimed.execution.network.addresses import Address, unmapped

Resolve = Callable[[str], Awaitable[Sequence[Address]]]
"""Returns the addresses of a name, best first. Raises OSError if there is none."""


class SystemResolver:
    """Asks the name service of the system.

    A look-up cannot be ended, so it keeps its slots until the system answers, even if nobody waits for it any more.

    Args:
        slots: What a look-up takes one slot of each, such as those of a Worker and those of the whole daemon.
    """

    def __init__(self, *slots: asyncio.Semaphore) -> None:
        self._slots = slots

    async def resolve(self, name: str) -> Sequence[Address]:
        """Return the addresses of a name, each once, best first.

        Raises:
            OSError: There is none, or the name service fails.
        """
        with contextlib.ExitStack() as taken:
            for slot in self._slots:
                await slot.acquire()
                taken.callback(slot.release)
            answer: asyncio.Future[Sequence[Address]] = asyncio.get_running_loop().create_future()
            # A thread of a pool would delay the end of the daemon while the system does not answer.
            thread = threading.Thread(target=_look_up, args=(name, answer), name="resolver", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise OSError(errno.EAGAIN, str(error)) from None
            held = taken.pop_all()
            answer.add_done_callback(lambda _: held.close())
        return await asyncio.shield(answer)


def _look_up(name: str, answer: asyncio.Future[Sequence[Address]]) -> None:
    try:
        found = socket.getaddrinfo(name.encode(), None, type=socket.SOCK_STREAM)
        addresses = tuple(dict.fromkeys(unmapped(ip_address(str(entry[4][0]))) for entry in found))
    except (OSError, UnicodeError, ValueError) as error:
        failure = error if isinstance(error, OSError) else OSError(str(error))
        _settle(answer, lambda: answer.set_exception(failure))
    else:
        _settle(answer, lambda: answer.set_result(addresses))


def _settle(answer: asyncio.Future[Sequence[Address]], settle: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the event loop is closed
        answer.get_loop().call_soon_threadsafe(settle)
