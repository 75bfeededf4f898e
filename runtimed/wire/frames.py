"""The text frames of the observation feed."""

import orjson

from runtimed.model.diagnostic import FeedDiagnostic
from runtimed.model.event import EventEnvelope
from runtimed.model.identity import WorkerId, event_id
from runtimed.wire.converter import converter, encode


def event_frame(sequence: int, worker_id: WorkerId, payload: bytes) -> bytes:
    """The frame of an event whose payload is encoded already."""
    cursor = event_id(sequence)
    names = f'"cursor":"{cursor}","event_id":"{cursor}","worker_id":"{worker_id}"'.encode()
    return b"".join((b'{"kind":"event","envelope":{', names, b',"payload":', payload, b"}}"))


def restore_frame(frame: bytes) -> EventEnvelope:
    """The event in a frame that one of these functions made."""
    return converter.structure(orjson.loads(frame)["envelope"], EventEnvelope)


def snapshot_frame(envelope: EventEnvelope) -> bytes:
    """The first frame of a feed."""
    return b'{"kind":"event","envelope":' + encode(envelope) + b"}"


def diagnostic_frame(diagnostic: FeedDiagnostic) -> bytes:
    """The last frame of a feed that the server ends."""
    return b'{"kind":"diagnostic","diagnostic":' + encode(diagnostic) + b"}"
