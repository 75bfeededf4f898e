"""A terminal whose keys are read one by one, and events from other threads."""

import fcntl
import os
import queue
import select
import signal
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from runtimectl.attach.keys import KeyReader

MAX_COLUMNS = 1000
DEFAULT_COLUMNS = 80
KEYS_BYTES = 1 << 12


ENDING = (signal.SIGTERM, signal.SIGHUP)
"""The signals that end a conversation in good order, unless they were ignored when the command was started."""


class Resized:
    """The terminal has another width."""


class Ended:
    """A signal ends the conversation.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number


class Terminal:
    """Reads keys, and passes on what other threads put in. For one thread that waits in `inputs`."""

    def __init__(self, stdin: int, stdout: int) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self._keys = KeyReader()
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)

    @property
    def columns(self) -> int:
        """The width of the terminal."""
        try:
            _, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(self._stdout, termios.TIOCGWINSZ, b"\0" * 8))
        except OSError:
            columns = 0
        return min(columns or DEFAULT_COLUMNS, MAX_COLUMNS)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Read keys one by one, without echo. The terminal is as before behind the context, if it is still there."""
        before = termios.tcgetattr(self._stdin)
        with self._signals():
            try:
                tty.setraw(self._stdin, termios.TCSADRAIN)
                yield
            finally:
                with suppress(termios.error, OSError):
                    termios.tcsetattr(self._stdin, termios.TCSADRAIN, before)
                    self.write("\r\n")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Pass signals on to `inputs`."""
        ending = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
        handlers = {number: signal.signal(number, lambda found, _: self.put(Ended(found))) for number in ending}
        handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: self.put(Resized()))
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def put(self, item: Any) -> None:
        """Have `inputs` yield an item. Any thread may call this."""
        self._queue.put(item)
        with suppress(BlockingIOError):  # The pipe is full, so it wakes the reader.
            os.write(self._wake, b"x")

    def inputs(self) -> Iterator[Any]:
        """Yield each key as a text, and each item that was put. Ends with the terminal."""
        while True:
            ready, _, _ = select.select([self._stdin, self._woken], [], [])
            if self._woken in ready:
                os.read(self._woken, KEYS_BYTES)
                yield from self._items()
            if self._stdin in ready:
                data = self._read_keys()
                if not data:
                    return
                yield from self._keys.feed(data)

    def write(self, text: str) -> None:
        """Write to the terminal."""
        left = memoryview(text.encode("utf-8", "replace"))
        while left:
            left = left[os.write(self._stdout, left) :]

    def _items(self) -> Iterator[Any]:
        while not self._queue.empty():
            yield self._queue.get()

    def _read_keys(self) -> bytes:
        try:
            return os.read(self._stdin, KEYS_BYTES)
        except OSError:  # The other end of the terminal is gone.
            return b""
