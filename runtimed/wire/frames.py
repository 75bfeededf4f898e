"""What the observation feed puts on the wire: JSON texts, WebSocket frames, server-sent events."""

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
"""The first byte of a whole text message."""

_SHORT = Struct("!BB").pack
_MEDIUM = Struct("!BBH").pack
_LONG = Struct("!BBQ").pack

PING = b"\x89\x00"


def event_envelope(sequence: int, worker_id: WorkerId, timestamp_ms: int, payload: bytes) -> bytes:
    """The envelope of an event whose payload is encoded already."""
    return ENVELOPE % (sequence, sequence, worker_id.encode(), timestamp_ms, payload)


def restore_envelope(envelope: bytes) -> EventEnvelope:
    """The event in an envelope that `event_envelope` made."""
    return converter.structure(orjson.loads(envelope), EventEnvelope)


def event_name(payload: bytes) -> str:
    """The name of an encoded payload, which is its first field."""
    return payload[_NAME : payload.index(b'"', _NAME)].decode()


def event_page(envelopes: Sequence[bytes], next_cursor: str, has_more: bool) -> bytes:
    """A page of events that are encoded already."""
    more = b"true" if has_more else b"false"
    return b'{"events":[%b],"next_cursor":"%b","has_more":%b}' % (b",".join(envelopes), next_cursor.encode(), more)


def event_frame(sequence: int, worker_id: WorkerId, timestamp_ms: int, payload: bytes) -> bytes:
    """The text of an event in a socket feed; its payload is encoded already."""
    return EVENT % (sequence, sequence, worker_id.encode(), timestamp_ms, payload)


def snapshot_frame(envelope: EventEnvelope) -> bytes:
    """The first text of the socket feed of one Worker."""
    return b'{"kind":"event","envelope":%b}' % encode(envelope)


def diagnostic_frame(diagnostic: FeedDiagnostic) -> bytes:
    """The last text of a socket feed that the server ends."""
    return b'{"kind":"diagnostic","diagnostic":%b}' % encode(diagnostic)


def heartbeat_frame(head: int) -> bytes:
    """The text that tells how far the events go."""
    return b'{"kind":"heartbeat","head":"%b"}' % cursor_of(head).encode()


def text_message(text: bytes) -> bytes:
    """A text as one WebSocket message of a server: whole, unmasked and not compressed."""
    size = len(text)
    if size < 126:
        return _SHORT(TEXT, size) + text
    if size < 2**16:
        return _MEDIUM(TEXT, 126, size) + text
    return _LONG(TEXT, 127, size) + text


def server_sent(name: str, data: bytes, cursor: str = "") -> bytes:
    """One server-sent event; `data` is a line of JSON, which never holds a line break."""
    place = f"id: {cursor}\n" if cursor else ""
    return b"%bevent: %b\ndata: %b\n\n" % (place.encode(), name.encode(), data)


def comment(cursor: str) -> bytes:
    """No event: it only tells a client where to resume."""
    return f":\nid: {cursor}\n\n".encode()


def chunk(data: bytes) -> bytes:
    """Data as one chunk of a chunked HTTP/1.1 body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
