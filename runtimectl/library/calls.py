"""The requests of the client library: what each one sends, and how its answer is read.

This one table serves both clients. The converter is loaded with the first answer, not before.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from runtimectl.client.api import RESTORE_TIMEOUT_S, WAIT_MARGIN_S, WORKSPACE_TIMEOUT_S, creation_timeout_s
from runtimectl.client.paths import given, with_query, worker_path
from runtimectl.errors import UsageProblem
from runtimed.wire import routes

if TYPE_CHECKING:
    from runtimed.model.bundle import Availability, ConfigBundle, HostCheck
    from runtimed.model.interaction import InteractionAck, LifecycleAck
    from runtimed.model.permission import Permission, PermissionResolution, WorkerPermission
    from runtimed.model.profile import ProfileSummary
    from runtimed.model.runtime import RuntimeSummary
    from runtimed.model.transcript import TranscriptProjection
    from runtimed.model.waiting import Wait
    from runtimed.model.worker import WorkerDetail
    from runtimed.model.workspace import Workspace
    from runtimed.wire.envelopes import BundlesResponse, EventsResponse, WorkersResponse

Json = dict[str, Any]
T = TypeVar("T")


class Call(NamedTuple, Generic[T]):
    """One request.

    Attributes:
        read: Returns the answer in the body of a response with status 200 or 204.
        key: The Idempotency-Key: with it the request may be repeated.
        is_idempotent: The request may be repeated without a key: a second one changes nothing.
        least_timeout: The seconds that the daemon may need at least, whatever the client's timeout.
        repeat_for: The seconds for which the request is repeated at most, whatever the client's `reconnect_for`.
    """

    method: str
    path: str
    read: Callable[[bytes], T]
    body: bytes | None = None
    key: str | None = None
    least_timeout: float = 0.0
    is_idempotent: bool = False
    repeat_for: float = math.inf

    @property
    def headers(self) -> dict[str, str]:
        """The headers of this request alone."""
        return {} if self.key is None else {"Idempotency-Key": self.key}

    @property
    def is_repeatable(self) -> bool:
        """Whether the request may be sent again when its answer was lost."""
        return self.method == "GET" or self.is_idempotent or self.key is not None


def runtime() -> "Call[RuntimeSummary]":
    """Get the Runtime."""
    return Call("GET", routes.RUNTIME, _member("RuntimeResponse", "runtime"))


def workers(
    status: str | None, labels: Sequence[str], name: str | None, after: str | None
) -> "Call[WorkersResponse]":
    """Get a page of Workers."""
    query = given(status=status, label=labels, name=name, after=after)
    return Call("GET", with_query(routes.WORKERS, query), _whole("WorkersResponse"))


def create_worker(body: Json, key: str) -> "Call[WorkerDetail]":
    """Create a Worker."""
    read = _member("WorkerResponse", "worker")
    return Call("POST", routes.WORKERS, read, _encoded(body), key, creation_timeout_s(body))


def worker(worker_id: str) -> "Call[WorkerDetail]":
    """Get a Worker."""
    return Call("GET", worker_path(routes.WORKER, worker_id), _member("WorkerResponse", "worker"))


def delete_worker(worker_id: str, *, force: bool) -> Call[None]:
    """Delete a Worker."""
    path = with_query(worker_path(routes.WORKER, worker_id), given(force="true" if force else None))
    return Call("DELETE", path, _nothing, least_timeout=WORKSPACE_TIMEOUT_S)


def send_input(worker_id: str, body: Json, key: str) -> "Call[InteractionAck]":
    """Send an input."""
    path = worker_path(routes.WORKER_INPUT, worker_id)
    return Call("POST", path, _member("InteractionResponse", "ack"), _encoded(body), key)


def interrupt(worker_id: str) -> "Call[LifecycleAck]":
    """Interrupt the current run."""
    return Call("POST", worker_path(routes.WORKER_INTERRUPT, worker_id), _member("LifecycleResponse", "ack"))


def restore(worker_id: str) -> "Call[WorkerDetail]":
    """Reconnect a Worker to its backend."""
    path = worker_path(routes.WORKER_RESTORE, worker_id)
    return Call("POST", path, _member("WorkerResponse", "worker"), None, None, RESTORE_TIMEOUT_S, is_idempotent=True)


def stop(worker_id: str, reason: str | None) -> "Call[LifecycleAck]":
    """Stop a Worker."""
    return _end(routes.WORKER_STOP, worker_id, reason)


def cancel(worker_id: str, reason: str | None) -> "Call[LifecycleAck]":
    """Cancel a Worker."""
    return _end(routes.WORKER_CANCEL, worker_id, reason)


def _end(route: str, worker_id: str, reason: str | None) -> "Call[LifecycleAck]":
    read = _member("LifecycleResponse", "ack")
    return Call("POST", worker_path(route, worker_id), read, _encoded(given(reason=reason)), is_idempotent=True)


def transcript(worker_id: str, start: int) -> "Call[TranscriptProjection]":
    """Get a page of a transcript."""
    path = with_query(worker_path(routes.WORKER_TRANSCRIPT, worker_id), {"start": start})
    return Call("GET", path, _member("TranscriptResponse", "transcript"))


def first_event() -> "Call[EventsResponse]":
    """Get the page with the oldest event that is kept."""
    return Call("GET", with_query(routes.FLEET_EVENTS, {"limit": 1}), _whole("EventsResponse"))


def wait(worker_id: str, conditions: Sequence[str], cursor: str, timeout_s: int) -> "Call[Wait]":
    """Wait until one of the conditions holds."""
    query = {"for": ",".join(conditions), "cursor": cursor, "timeout_s": timeout_s}
    path = with_query(worker_path(routes.WORKER_WAIT, worker_id), query)
    return Call("GET", path, _member("WaitResponse", "wait"), least_timeout=timeout_s + WAIT_MARGIN_S)


def profiles() -> "Call[tuple[ProfileSummary, ...]]":
    """Get the profiles of the host."""
    return Call("GET", routes.PROFILES, _member("ProfilesResponse", "profiles"))


def permissions() -> "Call[tuple[WorkerPermission, ...]]":
    """Get the open permission requests of all Workers."""
    return Call("GET", routes.PERMISSIONS, _member("AllPermissionsResponse", "permissions"))


def worker_permissions(worker_id: str) -> "Call[tuple[Permission, ...]]":
    """Get the open permission requests of a Worker."""
    path = worker_path(routes.WORKER_PERMISSIONS, worker_id)
    return Call("GET", path, _member("PermissionsResponse", "permissions"))


def answer_permission(
    worker_id: str, request_id: str, option_id: str | None, reason: str | None, content: Mapping[str, Any] | None
) -> "Call[PermissionResolution]":
    """Answer a permission request; with neither an option nor the content of a form it is cancelled."""
    path = worker_path(routes.WORKER_PERMISSION, worker_id, request_id=request_id)
    outcome = "cancelled" if option_id is None and content is None else None
    form = None if content is None else dict(content)
    body = _encoded(given(outcome=outcome, option_id=option_id, content=form, reason=reason))
    return Call("POST", path, _member("PermissionResponse", "permission"), body)


def workspaces(worker_id: str) -> "Call[tuple[Workspace, ...]]":
    """Get the workspaces of a Worker."""
    path = worker_path(routes.WORKER_WORKSPACES, worker_id)
    return Call("GET", path, _member("WorkspacesResponse", "workspaces"), least_timeout=WORKSPACE_TIMEOUT_S)


def diff(worker_id: str, name: str) -> Call[str]:
    """Get what was changed in a workspace."""
    path = worker_path(routes.WORKSPACE_DIFF, worker_id, name=name)
    return Call("GET", path, _patch, least_timeout=WORKSPACE_TIMEOUT_S)


def bundles() -> "Call[BundlesResponse]":
    """Get the summaries of all config bundles."""
    return Call("GET", routes.BUNDLES, _whole("BundlesResponse"))


def push_bundle(bundle: "ConfigBundle") -> "Call[Availability]":
    """Store a config bundle."""
    from runtimectl.library.decoding import encoded

    body = _encoded({"bundle": encoded(bundle)})
    return Call("POST", routes.BUNDLES, _member("AvailabilityResponse", "availability"), body)


def check_bundle(bundle_id: str, digest: str) -> "Call[Availability]":
    """Check that a version of a config bundle is stored."""
    path = with_query(worker_path(routes.BUNDLE_AVAILABILITY, "", bundle_id=bundle_id), {"digest": digest})
    return Call("GET", path, _member("AvailabilityResponse", "availability"))


def check_bundle_on_host(bundle_id: str, digest: str) -> "Call[HostCheck]":
    """Ask what the host would do with each declaration of a config bundle."""
    path = with_query(worker_path(routes.BUNDLE_HOST_CHECK, "", bundle_id=bundle_id), {"digest": digest})
    return Call("GET", path, _member("HostCheckResponse", "check"))


def _encoded(body: Json) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageProblem(f"arguments: expected values that JSON in UTF-8 has: {error}") from None


def _whole(envelope: str) -> Callable[[bytes], Any]:
    """Return a reader of a body that is this envelope of `runtimed.wire.envelopes`."""

    def read(body: bytes) -> Any:
        from runtimectl.library.decoding import decoded

        return decoded(body, envelope)

    return read


def _member(envelope: str, name: str) -> Callable[[bytes], Any]:
    """Return a reader of a body of which one member is the answer."""
    whole = _whole(envelope)
    return lambda body: getattr(whole(body), name)


def _patch(body: bytes) -> str:
    """Read a patch. Its bytes that are no UTF-8 come back with the error handler `surrogateescape`."""
    return body.decode("utf-8", "surrogateescape")


def _nothing(_body: bytes) -> None:
    """Read the answer of a request that has none."""
