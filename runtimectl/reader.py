"""Whoever reads stdout, and whether they are still there."""

import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runtimectl.errors import ReaderGone


@contextmanager
def needing_reader() -> Iterator[None]:
    """Raise ReaderGone in the main thread once the reader of stdout is gone, also while there is nothing to write.

    A pipe, a socket and a terminal have a reader; a file never loses it.
    """
    signal.signal(signal.SIGUSR1, _raise)
    threading.Thread(target=_watch, args=(sys.stdout.fileno(), threading.get_ident()), daemon=True).start()
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _watch(stdout: int, main: int) -> None:
    poll = select.poll()
    poll.register(stdout, 0)
    poll.poll()
    signal.pthread_kill(main, signal.SIGUSR1)


def _raise(_signal: int, _frame: object) -> None:
    raise ReaderGone
