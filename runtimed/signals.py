"""The signals that end the daemon or a command, and the one that has the daemon read its configuration again."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
RELOAD_SIGNAL = signal.SIGHUP

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""What ends a command. SIGINT has an exception of its own."""


class Signals:
    """The signals that this process has received.

    A signal that was ignored when the process was started stays ignored, as SIGHUP below nohup.

    Attributes:
        stopped: Set by the first stop signal.
        cut: Set by the second one: the daemon waits for runs no longer.
        reload: Set by each SIGHUP. Who reads the configuration clears it before.
    """

    def __init__(self) -> None:
        self.stopped = asyncio.Event()
        self.cut = asyncio.Event()
        self.reload = asyncio.Event()

    def stop(self) -> None:
        """Receive a stop signal."""
        (self.cut if self.stopped.is_set() else self.stopped).set()

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals on the running event loop, until the context is left."""
        loop = asyncio.get_running_loop()
        handlers = {**dict.fromkeys(STOP_SIGNALS, self.stop), RELOAD_SIGNAL: self.reload.set}
        ignored = [number for number in handlers if signal.getsignal(number) is signal.SIG_IGN]
        handled = [number for number in handlers if number not in ignored]
        for number in ignored:
            handle(number, _do_nothing)
        for number in handled:
            loop.add_signal_handler(number, handlers[number])
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)
            for number in ignored:
                signal.signal(number, signal.SIG_IGN)


class Ended(BaseException):
    """A signal has come that ends the process."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def cleaning_up() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the process only after what the context has begun is cleaned up."""

    def end(number: int, _frame: object) -> NoReturn:
        raise Ended(number)

    handled = [number for number in ENDING_SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in handled:
        signal.signal(number, end)
    try:
        yield
    except Ended as ended:
        signal.signal(ended.number, signal.SIG_DFL)
        signal.raise_signal(ended.number)
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def handle(number: signal.Signals, handler: Callable[[int, object], object]) -> None:
    """Handle a signal without interrupting system calls."""
    signal.signal(number, handler)
    signal.siginterrupt(number, False)


def _do_nothing(_number: int, _frame: object) -> None:
    """Ignore a signal by a handler. Programs would inherit SIG_IGN, but they do not inherit a handler."""
