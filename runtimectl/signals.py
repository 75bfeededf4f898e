"""Signals that end a command: the timer of `--timeout`, and the loss of the reader of stdout.

A signal handler raises an Interruption in the main thread. Python only reports an exception that leaves a finalizer
or the callback of a weak reference (imports use those), so one raised there is lost. Each signal therefore repeats
until the command has ended.
"""

import gc
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from runtimectl.errors import DeadlineExpired, Interruption, OutputClosed

REPEAT_S = 0.1
"""Seconds between two signals, until the command has ended."""


def start_deadline(seconds: float) -> None:
    """Raise DeadlineExpired in the main thread after this many seconds, unless `stop_deadline` is called before."""
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def stop_deadline() -> None:
    """Stop the timer of `start_deadline`."""
    signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def require_reader() -> Iterator[None]:
    """Raise OutputClosed in the main thread when stdout loses its reader, even while nothing is written.

    Pipes, sockets and terminals have a reader. A file never loses it.
    """
    gc.enable()  # A command that waits for its reader may run for days.
    finished = threading.Event()
    signal.signal(signal.SIGUSR1, _on_reader_lost)
    watcher = (sys.stdout.fileno(), threading.get_ident(), finished)
    threading.Thread(target=_watch_reader, args=watcher, daemon=True).start()
    try:
        yield
    finally:
        finished.set()
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def exit_at_once(code: int) -> NoReturn:
    """End the process without its threads.

    The interpreter ends threads where they are. One in the middle of an import would keep the lock of the module, for
    which the end of the interpreter may wait.
    """
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


def _watch_reader(stdout: int, main_thread: int, finished: threading.Event) -> None:
    poll = select.poll()
    poll.register(stdout, 0)
    poll.poll()
    while not finished.is_set():
        signal.pthread_kill(main_thread, signal.SIGUSR1)
        finished.wait(REPEAT_S)


def _on_alarm(_signal: int, _frame: object) -> None:
    signal.setitimer(signal.ITIMER_REAL, REPEAT_S)
    _interrupt(DeadlineExpired)


def _on_reader_lost(_signal: int, _frame: object) -> None:
    _interrupt(OutputClosed)


def _interrupt(kind: type[Interruption]) -> None:
    """Raise an interruption, unless one is being handled already: cleaning up may take time."""
    handled = sys.exc_info()[1]
    while handled is not None and not isinstance(handled, Interruption):
        handled = handled.__context__
    if handled is None:
        sys.unraisablehook = _report_lost
        raise kind


def _report_lost(lost: "sys.UnraisableHookArgs") -> None:
    """Report an exception that was lost, except an interruption, which is raised again."""
    if not isinstance(lost.exc_value, Interruption):
        sys.__unraisablehook__(lost)
