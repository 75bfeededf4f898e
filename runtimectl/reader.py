"""Whoever reads stdout, and whether they are still there."""

import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runtimectl.errors import ReaderGone
from runtimectl.interruption import AGAIN_S, interrupt


@contextmanager
def needing_reader() -> Iterator[None]:
    """Raise ReaderGone in the main thread once the reader of stdout is gone, also while there is nothing to write.

    A pipe, a socket and a terminal have a reader; a file never loses it.
    """
    over = threading.Event()
    signal.signal(signal.SIGUSR1, _leave)
    threading.Thread(target=_watch, args=(sys.stdout.fileno(), threading.get_ident(), over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _watch(stdout: int, main: int, over: threading.Event) -> None:
    poll = select.poll()
    poll.register(stdout, 0)
    poll.poll()
    while not over.is_set():
        signal.pthread_kill(main, signal.SIGUSR1)
        over.wait(AGAIN_S)


def _leave(_signal: int, _frame: object) -> None:
    interrupt(ReaderGone)
