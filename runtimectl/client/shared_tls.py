"""A TLS connection that one thread reads and another one writes."""

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

CLOSE_NOTICED_S = 0.5
"""How soon a reader that waits for the rest of a message notices that another thread has closed the socket."""


class SharedTlsSocket:
    """A TLS socket whose `recv` and `sendall` may be called in two threads at the same time.

    OpenSSL wants the calls for one connection one after the other, and Python sees to that from 3.13 on only: before,
    two threads may end the process. So a reader waits for bytes without holding the connection. The first error is
    raised by every later call as well: it says why the connection is lost, to whichever thread asks first.

    Args:
        connection: The socket after its handshake. Everything else of it can be used as before.
    """

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._timeout_s = connection.gettimeout()
        self._lock = threading.Lock()
        self._failure: OSError | None = None
        connection.settimeout(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def settimeout(self, timeout_s: float | None) -> None:
        """Set how long `recv` and `sendall` may take, in seconds; None for any time."""
        self._timeout_s = timeout_s

    def recv(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end or once the socket is closed. Raises OSError."""
        until = self._until()
        while True:
            with self._one_at_a_time(), contextlib.suppress(ssl.SSLWantReadError):
                return self._connection.recv(size)
            if not self._is_ready(select.POLLIN, until):
                return b""

    def sendall(self, data: bytes) -> None:
        """Send all bytes. Raises OSError."""
        until = self._until()
        left = memoryview(data)
        while left:
            with self._one_at_a_time(), contextlib.suppress(ssl.SSLWantWriteError):
                left = left[self._connection.send(left) :]
                continue
            if not self._is_ready(select.POLLOUT, until):
                raise BrokenPipeError("the socket is closed")

    def shutdown(self, how: int) -> None:
        """End one direction or both, as a plain socket does: what arrives is still decrypted. Raises OSError."""
        socket.socket.shutdown(self._connection, how)

    def _until(self) -> float | None:
        return None if self._timeout_s is None else time.monotonic() + self._timeout_s

    def _is_ready(self, event: int, until: float | None) -> bool:
        """Wait for an event of the socket. Returns False if it is closed. Raises TimeoutError."""
        while (descriptor := self._connection.fileno()) >= 0:
            poller = select.poll()
            poller.register(descriptor, event)
            left_s = CLOSE_NOTICED_S if until is None else min(CLOSE_NOTICED_S, until - time.monotonic())
            if left_s < 0:
                raise TimeoutError("the operation timed out")
            if poller.poll(left_s * 1_000):
                return True
        return False

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        with self._lock:
            if self._failure is not None:
                raise self._failure
            try:
                yield
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except OSError as error:
                self._failure = error
                raise
