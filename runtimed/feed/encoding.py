"""How the events of a feed are encoded for observers."""

from collections.abc import Sequence
from typing import Protocol

import attrs

from runtimed.core.state.change import EncodedEvent
from runtimed.model.event import EventEnvelope
from runtimed.model.identity import cursor_of
from runtimed.wire import frames
from runtimed.wire.converter import encode


class Encoding(Protocol):
    """Turns events into the bytes that are written to an observer, always in whole messages.

    Encodings that compare equal produce the same bytes.
    """

    def event(self, event: EncodedEvent) -> bytes:
        """Return the message of one event. It is built once and shared by all observers."""

    def snapshot(self, envelope: EventEnvelope) -> bytes:
        """Return the first message to an observer of one Worker, ready to be written."""

    def join(self, events: Sequence[bytes]) -> bytes:
        """Return the messages of several events as one block of bytes, ready to be written."""


@attrs.frozen
class Envelopes:
    """Plain JSON envelopes. `join` puts each on a line of its own."""

    def event(self, event: EncodedEvent) -> bytes:
        return frames.event_envelope(event.sequence, event.worker_id, event.timestamp_ms, event.payload)

    def snapshot(self, envelope: EventEnvelope) -> bytes:
        return self.join((encode(envelope),))

    def join(self, events: Sequence[bytes]) -> bytes:
        return b"".join(b"%b\n" % event for event in events)


@attrs.frozen
class SocketMessages:
    """WebSocket text messages."""

    def event(self, event: EncodedEvent) -> bytes:
        frame = frames.event_frame(event.sequence, event.worker_id, event.timestamp_ms, event.payload)
        return frames.text_message(frame)

    def snapshot(self, envelope: EventEnvelope) -> bytes:
        return frames.text_message(frames.snapshot_frame(envelope))

    def join(self, events: Sequence[bytes]) -> bytes:
        return b"".join(events)


@attrs.frozen
class ServerSentEvents:
    """Server-sent events.

    Attributes:
        chunked: The response uses chunked transfer coding. `join` then returns one chunk.
    """

    chunked: bool

    def event(self, event: EncodedEvent) -> bytes:
        envelope = frames.event_envelope(event.sequence, event.worker_id, event.timestamp_ms, event.payload)
        return frames.server_sent(frames.event_name(event.payload), envelope, cursor_of(event.sequence))

    def snapshot(self, envelope: EventEnvelope) -> bytes:
        return self.join((frames.server_sent("snapshot", encode(envelope), envelope.cursor),))

    def join(self, events: Sequence[bytes]) -> bytes:
        data = b"".join(events)
        return frames.chunk(data) if self.chunked else data
