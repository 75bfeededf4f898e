"""Decide whether a Worker may be created, and what it begins with."""

from collections.abc import Iterable, Mapping

from runtimed.core.state import bundle_rules
from runtimed.core.state.change import Worker
from runtimed.core.state.labels import check_labels, check_name
from runtimed.core.state.mcp_server_rules import check_requested_servers
from runtimed.errors import InvalidProfileSelector, InvalidRequest
from runtimed.model.bundle import ConfigBundle, Declaration
from runtimed.model.diagnostic import Diagnostic, Severity
from runtimed.model.execution import Execution
from runtimed.model.identity import WorkerId
from runtimed.model.interaction import WorkerInput
from runtimed.model.text import is_blank
from runtimed.model.worker import CreateWorkerRequest, NamedProfile, NamedReference, RoleIntent, TaskIntent

UNCONNECTED = Execution("unconnected", "unconnected")
MAX_SESSION_CONFIG = 32
MAX_CONFIG_TEXT = 256
"""Entries of a session_config, and characters of each name and each value."""

MAX_DECLARATIONS = 256
MAX_DECLARATION_CHARACTERS = 64 << 10
"""The most declarations of a Worker, and the most characters of their texts together. Each Worker keeps them."""

LOCAL_DEFAULTS: tuple[str, Severity, str] = (
    "runtime.local_default_resources",
    "info",
    "a Worker was created without a config bundle: the host's own defaults apply",
)
TOOLS_LESS: tuple[str, Severity, str] = (
    "worker.tools_less",
    "info",
    "a Worker was created without capabilities: it has no tools",
)


def new_worker(
    worker_id: WorkerId,
    request: CreateWorkerRequest,
    declarations: tuple[Declaration, ...],
    unix_ms: int,
    tenant: str | None = None,
) -> Worker:
    """Return a new Worker that nothing runs yet.

    Args:
        worker_id: Its id.
        request: The request.
        declarations: What `check_request` returned.
        unix_ms: The Unix time in milliseconds.
        tenant: The tenant that it belongs to.
    """
    return Worker(
        worker_id,
        request,
        "running",
        UNCONNECTED,
        created_at_ms=unix_ms,
        last_event_ms=unix_ms,
        declarations=declarations,
        tenant=tenant,
    )


def creation_diagnostics(worker: Worker) -> Iterable[Diagnostic]:
    """Yield the diagnostics about a Worker as it was requested."""
    if worker.request.config_bundle is None:
        yield Diagnostic(*LOCAL_DEFAULTS, worker.worker_id)
    if not worker.request.requested_capabilities:
        yield Diagnostic(*TOOLS_LESS, worker.worker_id)


def check_request(request: CreateWorkerRequest, held: Mapping[str, ConfigBundle]) -> tuple[Declaration, ...]:
    """Check a request to create a Worker against section 5 of the v1 contract.

    Args:
        request: The request as the client sent it.
        held: The config bundles of the Worker's tenant, by id.

    Returns:
        The declarations of its config bundle; none without one.

    Raises:
        InvalidRequest: A field holds what it may not hold; the message names the field.
        InvalidProfileSelector: The profile is not one that the request may select.
        ConfigBundleMissing: No bundle has the id that the request names.
        ConfigBundleDigestMismatch: The bundle with that id has another digest.
    """
    declarations = _check_profile(request, held)
    if isinstance(request.intent, TaskIntent):
        _check_not_blank(request.intent.objective, "intent.objective")
    if isinstance(request.intent, RoleIntent):
        _check_not_blank(request.intent.role, "intent.role")
    for index, capability in enumerate(request.requested_capabilities):
        _check_not_blank(capability.name, f"requested_capabilities[{index}].name")
    _check_references(request.workspace_refs, "workspace_refs")
    _check_references(request.mount_refs, "mount_refs")
    check_name(request.name)
    check_labels(request.labels)
    _check_session_config(request.session_config)
    check_requested_servers(request.mcp_servers)
    return declarations


def check_initial_input(message: WorkerInput) -> None:
    """Raise InvalidRequest if no Worker could take this initial input. Attachments are not checked."""
    _check_not_blank(message.content, "initial_input.content")


def _check_profile(request: CreateWorkerRequest, held: Mapping[str, ConfigBundle]) -> tuple[Declaration, ...]:
    if request.config_bundle is None:
        if isinstance(request.profile, NamedProfile):
            raise InvalidProfileSelector("profile: a named profile needs the config_bundle that offers it")
        bundle_rules.check_selector(request.profile, "profile")
        return ()
    bundle = bundle_rules.held(held, request.config_bundle)
    if all(profile.selector != request.profile for profile in bundle.profiles):
        raise InvalidProfileSelector("profile: the config bundle does not offer this profile")
    characters = sum(len(one.name) + len(one.reference) for one in bundle.declarations)
    if len(bundle.declarations) > MAX_DECLARATIONS or characters > MAX_DECLARATION_CHARACTERS:
        most = f"{MAX_DECLARATIONS} declarations of {MAX_DECLARATION_CHARACTERS} characters together"
        raise InvalidRequest(f"config_bundle: expected a bundle with at most {most}")
    return bundle.declarations


def _check_references(references: Iterable[NamedReference], field: str) -> None:
    for index, reference in enumerate(references):
        _check_not_blank(reference.name, f"{field}[{index}].name")
        _check_not_blank(reference.reference, f"{field}[{index}].reference")


def _check_session_config(config: Mapping[str, str]) -> None:
    if len(config) > MAX_SESSION_CONFIG:
        raise InvalidRequest(f"session_config: expected at most {MAX_SESSION_CONFIG} entries")
    for name, value in config.items():
        if not (name.strip() and len(name) <= MAX_CONFIG_TEXT and name.isprintable()):
            raise InvalidRequest(f"session_config: expected names of 1 to {MAX_CONFIG_TEXT} printable characters")
        if not (value.strip() and len(value) <= MAX_CONFIG_TEXT and value.isprintable()):
            raise InvalidRequest(
                f"session_config.{name}: expected 1 to {MAX_CONFIG_TEXT} printable characters, not blank"
            )


def _check_not_blank(text: str, path: str) -> None:
    if is_blank(text):
        raise InvalidRequest(f"{path}: expected text that is not blank")
