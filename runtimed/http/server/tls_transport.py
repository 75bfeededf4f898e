"""TLS on the connections of a server."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Iterable
from typing import Any, cast

from runtimed.http.server.slots import Slot, Slots

TLS_BYTES = 64 * 2**10
"""What a TLS connection takes besides what its client sends, counted until the client has shown a token."""

HALF_MESSAGE_BYTES = 192 * 2**10
"""What a message of the handshake that has not arrived whole takes besides: room for the length that it claims."""

MAX_HANDSHAKE_BYTES = 32 * 2**10
"""The most that a client may send in its handshake."""

RECORD_BYTES = 2**14
PIECE_BYTES = 4 * RECORD_BYTES
"""How much is encrypted or decrypted at a time. The buffers of OpenSSL grow to that, and never shrink."""

log = logging.getLogger(__name__)


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """The protocol of a TCP connection, and after the handshake the transport of another protocol.

    The event loops have TLS of their own. Theirs cannot tell how many bytes wait in memory, keeps 256 KiB for each
    connection on asyncio, and sends no alert when a handshake fails.

    Args:
        context: The certificates.
        slots: Where the connection takes its slot, before the handshake.
        make_protocol: Makes the protocol that is used with the slot after the handshake.
        handshake_timeout_s: How long the handshake may take, in seconds.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        slots: Slots,
        make_protocol: Callable[[Slot], asyncio.Protocol],
        handshake_timeout_s: float,
    ) -> None:
        super().__init__()
        self._context = context
        self._slots = slots
        self._make_protocol = make_protocol
        self._handshake_timeout_s = handshake_timeout_s
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._handshake_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._slot: Slot | None = None
        self._protocol: asyncio.Protocol | None = None

    # As the protocol of the TCP connection.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = cast("asyncio.Transport", transport)
        self._slot = self._slots.take(self._tcp, TLS_BYTES)
        if self._slot is None:
            self._tcp.abort()
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._handshake_timeout_s, self._tcp.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._protocol is not None:
            self._protocol.connection_lost(exc)
        elif self._slot is not None:
            self._slot.leave()

    def data_received(self, data: bytes) -> None:
        try:
            while self._protocol is None and data and self._slot is not None and not self._tcp.is_closing():
                data = self._shake_hands(self._slot, data)
            if self._protocol is not None and not self._tcp.is_closing():
                self._read(self._protocol, data)
        except ssl.SSLError as error:
            log.debug("closing a TLS connection", extra={"reason": error.reason or str(error)})
            with contextlib.suppress(RuntimeError):
                self._flush()  # the alert that says why
            self._tcp.close()

    def eof_received(self) -> None:
        if self._protocol is not None:
            self._protocol.eof_received()

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()

    # As the transport of the protocol above it.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._tcp.is_closing():
            return
        left, pieces = memoryview(data), []
        while left:
            left = left[self._tls.write(left[:RECORD_BYTES]) :]
            if self._outgoing.pending >= PIECE_BYTES:
                pieces.append(self._outgoing.read())
        if pieces:
            self._tcp.writelines([*pieces, self._outgoing.read()])
        else:
            self._flush()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        """Say that no more follows, and close once everything is sent. The peer's own end is not waited for."""
        if not self._tcp.is_closing():
            with contextlib.suppress(ssl.SSLError, RuntimeError):
                self._end()
        self._tcp.close()

    def abort(self) -> None:
        self._tcp.abort()

    def is_closing(self) -> bool:
        return self._tcp.is_closing()

    def is_reading(self) -> bool:
        return self._tcp.is_reading()

    def pause_reading(self) -> None:
        self._tcp.pause_reading()

    def resume_reading(self) -> None:
        self._tcp.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._tcp.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._tcp.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._tcp.set_write_buffer_limits(high, low)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self if self._protocol is None else self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        own = {"sslcontext": self._context, "ssl_object": self._tls}
        return own[name] if name in own else self._tcp.get_extra_info(name, default)

    def _shake_hands(self, slot: Slot, data: bytes) -> bytes:
        """Go on with the handshake, and return the bytes that are left. Raises SSLError if it fails."""
        self._handshake_bytes += self._incoming.write(data[:RECORD_BYTES])
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._await_more(slot)
        else:
            self._finish_handshake(slot)
        return data[RECORD_BYTES:]

    def _await_more(self, slot: Slot) -> None:
        """Bound and count what the handshake takes. With nothing to answer yet, a part of a message is missing."""
        if self._handshake_bytes > MAX_HANDSHAKE_BYTES:
            log.debug("closing a TLS connection", extra={"reason": "its handshake is too long"})
            self._tcp.abort()
            return
        slot.hold(0 if self._outgoing.pending else HALF_MESSAGE_BYTES)
        if not self._tcp.is_closing():
            self._flush()

    def _finish_handshake(self, slot: Slot) -> None:
        if self._timer is not None:
            self._timer.cancel()
        slot.hold(0)
        self._flush()
        self._protocol = self._make_protocol(slot)
        self._protocol.connection_made(self)

    def _read(self, protocol: asyncio.Protocol, data: bytes) -> None:
        """Decrypt what has arrived, and pass it on in one piece, as a plain connection would."""
        received, left, has_ended = bytearray(), memoryview(data), False
        while not has_ended:
            self._incoming.write(left[:PIECE_BYTES])
            has_ended = self._decrypt(received)
            left = left[PIECE_BYTES:]
            if not left:
                break
        self._answer()
        if received:
            protocol.data_received(bytes(received))
        if has_ended:
            self.close()

    def _decrypt(self, received: bytearray) -> bool:
        """Append everything that can be decrypted, and return whether the peer has said that no more follows."""
        try:
            while piece := self._tls.read(RECORD_BYTES):
                received += piece
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLZeroReturnError:
            pass
        return True

    def _end(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._flush()

    def _answer(self) -> None:
        """Send what TLS itself answers, such as a refusal to negotiate again; cut a peer that does not read it."""
        if self._outgoing.pending and self._tcp.get_write_buffer_size():
            self._tcp.abort()
        else:
            self._flush()

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._tcp.write(data)
