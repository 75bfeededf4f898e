"""Requests of clients to Workers, and their acknowledgements."""

from typing import Literal

from runtimed.model.execution import WorkerStatus
from runtimed.model.identity import Cursor, WorkerRef
from runtimed.model.value import value

InputKind = Literal["user", "system"]
WhenBusy = Literal["reject", "queue", "interrupt"]
"""What to do with an input during a run: refuse it, queue it, or interrupt the run and give it first."""

AttachmentKind = Literal["image", "resource"]
AttachmentForm = Literal["image", "resource", "link"]
"""What a backend may take: an image with its data, another resource with its data, or a link to either."""


@value
class Attachment:
    """An image or another resource that goes with the text of an input: its data, or a link to it.

    Attributes:
        mime_type: Its media type.
        data: Its bytes in base64.
        uri: Where it is.
    """

    kind: AttachmentKind
    mime_type: str
    data: str | None = None
    uri: str | None = None

    @property
    def form(self) -> AttachmentForm:
        """What a backend has to take."""
        return "link" if self.data is None else self.kind


@value
class WorkerInput:
    """A message to a Worker.

    Attributes:
        content: The text. It is never blank.
    """

    kind: InputKind
    content: str
    when_busy: WhenBusy = "reject"
    attachments: tuple[Attachment, ...] = ()


@value
class LifecycleRequest:
    """The body of a request to stop or cancel a Worker."""

    reason: str | None = None


@value
class InteractionAck:
    """The acknowledgement of an input: it is stored and in the transcript.

    Attributes:
        event_id: The sequence of the input's event.
        cursor: The same as a cursor.
        queued: The input waits for its turn. If not, it is on its way to the backend.
    """

    worker_ref: WorkerRef
    status: WorkerStatus
    transcript_sequence: int
    event_id: int
    cursor: Cursor
    queued: bool = False


@value
class LifecycleAck:
    """The acknowledgement of a stop, a cancel or an interrupt.

    Attributes:
        status: The status of the Worker.
        event_id: The sequence of its newest event.
        cursor: The same as a cursor.
    """

    worker_ref: WorkerRef
    status: WorkerStatus
    event_id: int
    cursor: Cursor
