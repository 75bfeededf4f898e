"""The bodies of requests and responses that wrap a value of the model in a named field."""

import attrs

from runtimed.model.bundle import Availability, ConfigBundle, ConfigBundleSummary
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import EventEnvelope
from runtimed.model.identity import Cursor, WorkerId
from runtimed.model.interaction import InteractionAck, LifecycleAck
from runtimed.model.permission import Permission, PermissionResolution, WorkerPermission
from runtimed.model.runtime import RuntimeEvent, RuntimeSummary, StoreCheck
from runtimed.model.transcript import TranscriptProjection
from runtimed.model.worker import WorkerDetail, WorkerSummary


@attrs.frozen
class RuntimeResponse:
    """The Runtime."""

    runtime: RuntimeSummary


@attrs.frozen
class RuntimeEventsResponse:
    """A page of runtime events; `next_after` goes into the next request."""

    events: tuple[RuntimeEvent, ...]
    next_after: int
    has_more: bool


@attrs.frozen
class DiagnosticsResponse:
    """What the Runtime has had to remark, oldest first."""

    diagnostics: tuple[Diagnostic, ...]


@attrs.frozen
class CheckResponse:
    """What is wrong in the store."""

    check: StoreCheck


@attrs.frozen
class BundlesResponse:
    """Every bundle, by id."""

    bundles: tuple[ConfigBundleSummary, ...]


@attrs.frozen
class PutBundleRequest:
    """A bundle to keep; one with the same id is replaced."""

    bundle: ConfigBundle


@attrs.frozen
class AvailabilityResponse:
    """A bundle that the Runtime holds."""

    availability: Availability


@attrs.frozen
class WorkersResponse:
    """Workers, by id; `next_after` where the page ended before the last of them."""

    workers: tuple[WorkerSummary, ...]
    next_after: WorkerId | None = None


@attrs.frozen
class WorkerResponse:
    """One Worker."""

    worker: WorkerDetail


@attrs.frozen
class InteractionResponse:
    """An input was accepted."""

    ack: InteractionAck


@attrs.frozen
class LifecycleResponse:
    """A Worker was stopped, cancelled or interrupted."""

    ack: LifecycleAck


@attrs.frozen
class PermissionsResponse:
    """The permission requests of a Worker that wait for an answer, oldest first."""

    permissions: tuple[Permission, ...]


@attrs.frozen
class AllPermissionsResponse:
    """The permission requests of all Workers that wait for an answer."""

    permissions: tuple[WorkerPermission, ...]


@attrs.frozen
class PermissionResponse:
    """A permission request was ruled on."""

    permission: PermissionResolution


@attrs.frozen
class TranscriptResponse:
    """A page of a transcript."""

    transcript: TranscriptProjection


@attrs.frozen
class EventsResponse:
    """A page of events; the next one begins behind `next_cursor`."""

    events: tuple[EventEnvelope, ...]
    next_cursor: Cursor
    has_more: bool


@attrs.frozen
class ErrorDetail:
    """A code for machines and a sentence for people."""

    code: str
    message: str


@attrs.frozen
class ErrorResponse:
    """The body of every response that is not a success."""

    error: ErrorDetail
