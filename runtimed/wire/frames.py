"""The bytes of the observation feed: JSON texts, WebSocket messages, server-sent events."""

from collections.abc import Sequence
from struct import Struct

import orjson

from runtimed.model.diagnostic import FeedDiagnostic
from runtimed.model.event import EventEnvelope
from runtimed.model.identity import WorkerId, cursor_of
from runtimed.wire.converter import converter, encode

ENVELOPE = b'{"cursor":"wo_%016x","event_id":"wo_%016x","worker_id":"%b","timestamp_ms":%d,"payload":%b}'
EVENT = b'{"kind":"event","envelope":' + ENVELOPE + b"}"
_NAME = len(b'{"event":"')

TEXT = 0x81
"""The first byte of an unfragmented text message."""

_SHORT = Struct("!BB").pack
_MEDIUM = Struct("!BBH").pack
_LONG = Struct("!BBQ").pack

PING = b"\x89\x00"


def event_envelope(sequence: int, worker_id: WorkerId, timestamp_ms: int, payload: bytes) -> bytes:
    """Return the JSON envelope of an event whose payload is already encoded."""
    return ENVELOPE % (sequence, sequence, worker_id.encode(), timestamp_ms, payload)


def restore_envelope(envelope: bytes) -> EventEnvelope:
    """Return the event in an envelope that `event_envelope` made."""
    return converter.structure(orjson.loads(envelope), EventEnvelope)


def event_name(payload: bytes) -> str:
    """Return the name of an encoded payload. It is the first field."""
    return payload[_NAME : payload.index(b'"', _NAME)].decode()


def event_page(envelopes: Sequence[bytes], next_cursor: str, has_more: bool) -> bytes:
    """Return the JSON of a page of events whose envelopes are already encoded."""
    more = b"true" if has_more else b"false"
    return b'{"events":[%b],"next_cursor":"%b","has_more":%b}' % (b",".join(envelopes), next_cursor.encode(), more)


def event_frame(sequence: int, worker_id: WorkerId, timestamp_ms: int, payload: bytes) -> bytes:
    """Return the JSON text of an event in a WebSocket feed. Its payload is already encoded."""
    return EVENT % (sequence, sequence, worker_id.encode(), timestamp_ms, payload)


def snapshot_frame(envelope: EventEnvelope) -> bytes:
    """Return the JSON text of a snapshot, the first in the WebSocket feed of one Worker."""
    return b'{"kind":"event","envelope":%b}' % encode(envelope)


def diagnostic_frame(diagnostic: FeedDiagnostic) -> bytes:
    """Return the JSON text of a diagnostic, the last in a WebSocket feed that the server ends."""
    return b'{"kind":"diagnostic","diagnostic":%b}' % encode(diagnostic)


def heartbeat_frame(head: int) -> bytes:
    """Return the JSON text of a heartbeat.

    Args:
        head: The sequence of the newest event.
    """
    return b'{"kind":"heartbeat","head":"%b"}' % cursor_of(head).encode()


def text_message(text: bytes) -> bytes:
    """Return a text as one WebSocket message of a server: unfragmented, unmasked and uncompressed."""
    size = len(text)
    if size < 126:
        return _SHORT(TEXT, size) + text
    if size < 2**16:
        return _MEDIUM(TEXT, 126, size) + text
    return _LONG(TEXT, 127, size) + text


def server_sent(name: str, data: bytes, cursor: str = "") -> bytes:
    """Return one server-sent event.

    Args:
        name: The event's name.
        data: One line of JSON, without line breaks.
        cursor: The event's id, or an empty text for none.
    """
    place = f"id: {cursor}\n" if cursor else ""
    return b"%bevent: %b\ndata: %b\n\n" % (place.encode(), name.encode(), data)


def comment(cursor: str) -> bytes:
    """Return a server-sent comment with an id. It is not an event: it moves the cursor where a client resumes."""
    return f":\nid: {cursor}\n\n".encode()


def chunk(data: bytes) -> bytes:
    """Return data as one chunk of a chunked HTTP/1.1 body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
