"""The messages of an editor on stdin, those for it on stdout: one a line."""

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from runtimectl.acp.agent import Agent
from runtimectl.acp.jsonrpc import MAX_MESSAGE_BYTES, Peer

RECEIVE_BYTES = 1 << 16


def connect() -> Peer:
    """Return the editor at the other end of stdin and stdout."""
    return Peer(_write)


def serve(peer: Peer, agent: Agent) -> None:
    """Serve the editor until it closes stdin."""
    for message in _lines():
        peer.receive(message, agent)


class LineBuffer:
    """Splits bytes into lines. Of a line that is too long only the beginning is yielded: it is no JSON."""

    def __init__(self, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._is_skipping = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield each line that the bytes complete, unless it is blank."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            yield from self._add(end)
            yield from self._complete()
            self._is_skipping = False
        yield from self._add(rest)

    def _add(self, part: bytes) -> Iterator[bytes]:
        if self._is_skipping or not part:
            return
        self._parts.append(part)
        self._size += len(part)
        if self._size > self._max_bytes:
            yield from self._complete()
            self._is_skipping = True

    def _complete(self) -> Iterator[bytes]:
        line = b"".join(self._parts)[: self._max_bytes]
        self._parts, self._size = [], 0
        if line and not line.isspace():
            yield line


def _lines() -> Iterator[bytes]:
    buffer, stdin = LineBuffer(), sys.stdin.fileno()
    with _woken_by_signals() as woken:
        poll = select.poll()
        poll.register(stdin, select.POLLIN)
        poll.register(woken, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if woken in ready:
                os.read(woken, RECEIVE_BYTES)  # The handlers of the signals run behind this call.
            if stdin in ready:
                data = os.read(stdin, RECEIVE_BYTES)
                if not data:
                    return
                yield from buffer.feed(data)


@contextmanager
def _woken_by_signals() -> Iterator[int]:
    """Return a descriptor that is readable after a signal, whichever thread got it and whatever it was doing."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield woken
    finally:
        signal.set_wakeup_fd(before)
        os.close(woken)
        os.close(wake)


def _write(message: bytes) -> None:
    """Write a message as a line, past Python's buffers, which a thread that ends with the program must not hold."""
    left = memoryview(message + b"\n")
    with suppress(BrokenPipeError):  # The editor is gone: the main thread is told and ends.
        while left:
            left = left[os.write(sys.stdout.fileno(), left) :]
