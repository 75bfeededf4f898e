"""The bodies of requests and responses. Each wraps values of the model in named fields."""

from typing import Literal

import attrs

from runtimed.model.bundle import Availability, ConfigBundle, ConfigBundleSummary, HostCheck
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import EventEnvelope
from runtimed.model.identity import Cursor, WorkerId
from runtimed.model.interaction import InteractionAck, LifecycleAck
from runtimed.model.permission import Permission, PermissionResolution, WorkerPermission
from runtimed.model.profile import HostSandbox, ProfileSummary
from runtimed.model.runtime import Drain, RuntimeEvent, RuntimeSummary, StoreCheck
from runtimed.model.token import Token
from runtimed.model.transcript import TranscriptProjection
from runtimed.model.waiting import Wait
from runtimed.model.worker import WorkerDetail, WorkerSummary
from runtimed.model.workspace import Workspace


@attrs.frozen
class RuntimeResponse:
    """The Runtime."""

    runtime: RuntimeSummary


@attrs.frozen
class RuntimeEventsResponse:
    """A page of runtime events.

    Attributes:
        next_after: The parameter `after` of the request for the next page.
    """

    events: tuple[RuntimeEvent, ...]
    next_after: int
    has_more: bool


@attrs.frozen
class HealthResponse:
    """The daemon is well. If it is not, the response is an error that says why."""

    status: Literal["ok"]


@attrs.frozen
class DiagnosticsResponse:
    """The diagnostics of the Runtime, oldest first."""

    diagnostics: tuple[Diagnostic, ...]


@attrs.frozen
class SandboxResponse:
    """How Workers are confined, unless their profile says otherwise."""

    sandbox: HostSandbox


@attrs.frozen
class DrainResponse:
    """The drain of the Runtime."""

    drain: Drain


@attrs.frozen
class CheckResponse:
    """The result of a check of the store."""

    check: StoreCheck


@attrs.frozen
class ProfilesResponse:
    """All profiles, ordered by selector."""

    profiles: tuple[ProfileSummary, ...]


@attrs.frozen
class BundlesResponse:
    """All config bundles, ordered by id."""

    bundles: tuple[ConfigBundleSummary, ...]


@attrs.frozen
class PutBundleRequest:
    """A config bundle to store. It replaces one with the same id."""

    bundle: ConfigBundle


@attrs.frozen
class AvailabilityResponse:
    """A config bundle that the Runtime holds."""

    availability: Availability


@attrs.frozen
class HostCheckResponse:
    """What this host would do with the Workers of a config bundle."""

    check: HostCheck


@attrs.frozen
class WorkersResponse:
    """A page of Workers, ordered by id.

    Attributes:
        next_after: The parameter `after` of the request for the next page, or None after the last page.
    """

    workers: tuple[WorkerSummary, ...]
    next_after: WorkerId | None = None


@attrs.frozen
class WorkerResponse:
    """One Worker."""

    worker: WorkerDetail


@attrs.frozen
class WaitResponse:
    """The end of a wait."""

    wait: Wait


@attrs.frozen
class InteractionResponse:
    """The acknowledgement of an input."""

    ack: InteractionAck


@attrs.frozen
class LifecycleResponse:
    """The acknowledgement of a stop, a cancel or an interrupt."""

    ack: LifecycleAck


@attrs.frozen
class PermissionsResponse:
    """The pending permission requests of a Worker, oldest first."""

    permissions: tuple[Permission, ...]


@attrs.frozen
class AllPermissionsResponse:
    """The pending permission requests of all Workers."""

    permissions: tuple[WorkerPermission, ...]


@attrs.frozen
class PermissionResponse:
    """The ruling on a permission request."""

    permission: PermissionResolution


@attrs.frozen
class WorkspacesResponse:
    """The workspaces of a Worker, in the order of its request."""

    workspaces: tuple[Workspace, ...]


@attrs.frozen
class TranscriptResponse:
    """A page of a transcript."""

    transcript: TranscriptProjection


@attrs.frozen
class EventsResponse:
    """A page of events.

    Attributes:
        next_cursor: The cursor of the request for the next page.
    """

    events: tuple[EventEnvelope, ...]
    next_cursor: Cursor
    has_more: bool


@attrs.frozen
class TokensResponse:
    """The tokens that the client may see, the first one first, the others by name."""

    tokens: tuple[Token, ...]


@attrs.frozen
class NewTokenResponse:
    """A token that was made.

    Attributes:
        secret: What its client sends. Nothing else ever shows it.
    """

    token: Token
    secret: str = attrs.field(repr=False)


@attrs.frozen
class ErrorDetail:
    """An error.

    Attributes:
        code: Names the error for programs.
        message: Describes it for people, in one line.
    """

    code: str
    message: str


@attrs.frozen
class ErrorResponse:
    """The body of every error response."""

    error: ErrorDetail
