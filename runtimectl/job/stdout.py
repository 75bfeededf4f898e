"""Write text to stdout while it takes it, and notice that nobody reads it any more."""

import os
import select
import sys
import time
from collections.abc import Callable

from runtimectl.output.text import escape_controls

POLL_MS = 100
GIVE_UP_S = 1.0
"""How long a stdout that takes nothing may hold up a command that is to end."""


class Stdout:
    """Writes text to stdout, unbuffered. On a terminal control characters become escapes.

    Args:
        is_ending: Returns whether the command is to end: text that stdout does not take is dropped then.

    Attributes:
        is_closed: Nobody reads stdout, or it took nothing while the command was to end. What is written is dropped.
        is_line_open: The last line has no end yet.
    """

    def __init__(self, is_ending: Callable[[], bool]) -> None:
        self.is_closed = False
        self.is_line_open = False
        self.is_terminal = sys.stdout.isatty()
        self._is_ending = is_ending
        self._descriptor = sys.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)

    def write(self, text: str) -> None:
        """Write text. Raises OSError if stdout fails for another reason than a missing reader."""
        if not text or self.is_closed:
            return
        self.is_line_open = not text.endswith("\n")
        data = memoryview((escape_controls(text) if self.is_terminal else text).encode("utf-8", "replace"))
        taken_at = time.monotonic()
        while data and not self.is_closed:
            size = self._write_some(data)
            data = data[size:]
            now = time.monotonic()
            taken_at = now if size else taken_at
            if self._is_ending() and now - taken_at > GIVE_UP_S:
                self.is_closed = True

    def _write_some(self, data: memoryview) -> int:
        """Write as much as cannot block: a pipe that is ready takes PIPE_BUF bytes."""
        try:
            if not self._poll.poll(POLL_MS):
                return 0
            return os.write(self._descriptor, data[: select.PIPE_BUF])
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            self.is_closed = True
            return 0
