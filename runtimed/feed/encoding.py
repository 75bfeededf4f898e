"""How the events of a feed are put into bytes for those who read it."""

from collections.abc import Sequence
from typing import Protocol

import attrs

from runtimed.core.state.change import EncodedEvent
from runtimed.model.event import EventEnvelope
from runtimed.model.identity import cursor_of
from runtimed.wire import frames
from runtimed.wire.converter import encode


class Encoding(Protocol):
    """Makes what is written to an observer, in whole messages. Equal ones make the same bytes."""

    def event(self, event: EncodedEvent) -> bytes:
        """One event; built once for all observers."""

    def snapshot(self, envelope: EventEnvelope) -> bytes:
        """The first that an observer of a Worker is told, ready to be written."""

    def join(self, events: Sequence[bytes]) -> bytes:
        """Events ready to be written at once."""


@attrs.frozen
class Envelopes:
    """JSON envelopes, nothing around them."""

    def event(self, event: EncodedEvent) -> bytes:
        """As Encoding.event."""
        return frames.event_envelope(event.sequence, event.worker_id, event.timestamp_ms, event.payload)

    def snapshot(self, envelope: EventEnvelope) -> bytes:
        """As Encoding.snapshot."""
        return self.join((encode(envelope),))

    def join(self, events: Sequence[bytes]) -> bytes:
        """As Encoding.join: a line each."""
        return b"".join(b"%b\n" % event for event in events)


@attrs.frozen
class SocketMessages:
    """WebSocket messages."""

    def event(self, event: EncodedEvent) -> bytes:
        """As Encoding.event."""
        frame = frames.event_frame(event.sequence, event.worker_id, event.timestamp_ms, event.payload)
        return frames.text_message(frame)

    def snapshot(self, envelope: EventEnvelope) -> bytes:
        """As Encoding.snapshot."""
        return frames.text_message(frames.snapshot_frame(envelope))

    def join(self, events: Sequence[bytes]) -> bytes:
        """As Encoding.join."""
        return b"".join(events)


@attrs.frozen
class ServerSentEvents:
    """Server-sent events; what is written at once is one chunk, where the response is `chunked`."""

    chunked: bool

    def event(self, event: EncodedEvent) -> bytes:
        """As Encoding.event."""
        envelope = frames.event_envelope(event.sequence, event.worker_id, event.timestamp_ms, event.payload)
        return frames.server_sent(frames.event_name(event.payload), envelope, cursor_of(event.sequence))

    def snapshot(self, envelope: EventEnvelope) -> bytes:
        """As Encoding.snapshot."""
        return self.join((frames.server_sent("snapshot", encode(envelope), envelope.cursor),))

    def join(self, events: Sequence[bytes]) -> bytes:
        """As Encoding.join."""
        data = b"".join(events)
        return frames.chunk(data) if self.chunked else data
