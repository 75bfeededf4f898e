"""The feed of a Worker as server-sent events.

A short run would take less time than the import of a WebSocket client.
"""

import json
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager

from runtimectl.client.address import Address
from runtimectl.client.feed import (
    INVALID_FRAME,
    MAX_FRAME_BYTES,
    OPEN_TIMEOUT_S,
    Envelope,
    Feed,
    checked_envelope,
    error_of_diagnostic,
)
from runtimectl.client.http import check_process, encode_request
from runtimectl.client.http_response import RECEIVE_BYTES, ResponseReader
from runtimectl.client.paths import given, with_query, worker_path
from runtimectl.client.tls import reason, refuses_client
from runtimectl.errors import DaemonFailed, NotConnected, TimedOut, Unavailable, error_from_response
from runtimed.wire import routes

SILENCE_S = 60.0
"""How long a stream may be silent. The daemon writes a comment every 15 s."""

ACCEPT = {"Accept": "text/event-stream"}


class EventStreamFeed(Feed):
    """A Feed of one Worker that reads event streams instead of WebSockets."""

    def _connection(self) -> Generator[Envelope, None, None]:
        client = self._find()
        if self._outage.is_on:
            self._check_runtime(client)
        path = worker_path(routes.WORKER_EVENTS, self._source.worker_id or "")
        with opened_stream(client.address, with_query(path, given(cursor=self._cursor))) as pieces:
            for envelope in envelopes(pieces):
                self._cursor = envelope["cursor"]
                yield envelope
        raise Unavailable("the daemon closed the connection")


@contextmanager
def opened_stream(address: Address, path: str) -> Iterator[Iterator[bytes]]:
    """Open a stream, whose pieces come while the context lasts. Raises ControlError if it fails, or is lost."""
    check_process(address)
    try:
        connection = address.connect(OPEN_TIMEOUT_S)
    except OSError as error:
        raise NotConnected(f"cannot reach {address.url}: {reason(error)}") from None
    with closing(connection):
        try:
            connection.sendall(encode_request(address, "GET", path, None, ACCEPT))
            first = connection.recv(RECEIVE_BYTES)
            if not first:
                raise Unavailable("the daemon closed the connection without an answer")
            reader = ResponseReader(address.url, connection, first)
            refused = reader.open()
            if refused is not None:
                raise error_from_response(refused.status, refused.body, address.searched)
            connection.settimeout(SILENCE_S)
            yield reader.pieces()
        except TimeoutError:
            raise TimedOut(f"{address.url} was silent for too long") from None
        except OSError as error:
            if refuses_client(error):
                raise NotConnected(f"cannot reach {address.url}: {reason(error)}") from None
            raise Unavailable(f"the connection was lost: {reason(error)}") from None


def envelopes(pieces: Iterable[bytes]) -> Iterator[Envelope]:
    """Yield the envelope in each message. Raises the ControlError of a diagnostic."""
    received = bytearray()
    for piece in pieces:
        begin = max(len(received) - 1, 0)
        received += piece
        if len(received) > MAX_FRAME_BYTES:
            raise DaemonFailed(f"a message of the feed is larger than {MAX_FRAME_BYTES} bytes")
        if received.find(b"\n\n", begin) < 0:
            continue
        *messages, rest = bytes(received).split(b"\n\n")
        received = bytearray(rest)
        for message in messages:
            yield from _envelope(message)


def _envelope(message: bytes) -> Iterator[Envelope]:
    """Yield the envelope in a message; nothing for a comment."""
    fields = dict(line.partition(b": ")[::2] for line in message.split(b"\n"))
    if b"data" not in fields:
        return
    try:
        data = json.loads(fields[b"data"])
        if fields.get(b"event") == b"diagnostic":
            raise error_of_diagnostic(data)
        envelope = checked_envelope(data)
    except (ValueError, LookupError, TypeError):
        raise DaemonFailed(INVALID_FRAME) from None
    yield envelope
