"""Decide about permission requests."""

from runtimed.core.state.change_builder import ChangeBuilder
from runtimed.core.state.decisions.run_end import is_run_active
from runtimed.core.state.runtime_items import PermissionRequested, render
from runtimed.errors import InvalidRequest, PermissionNotFound
from runtimed.model.permission import Permission, PermissionOutcome, PermissionResolution, Ruling
from runtimed.model.text import is_blank

MAX_REASON = 4_096
"""Characters of the reason that a client gives for its ruling."""


def request_permission(builder: ChangeBuilder, permission: Permission, ruled: str | None, most: int) -> None:
    """Record that a backend asks for a permission.

    The request is cancelled at once if no run is active or `most` requests are pending already.

    Args:
        builder: The Change so far.
        permission: The request.
        ruled: The id of the option that the profile selects by itself, or None to ask the client.
        most: How many requests may be pending (max_pending_permissions).
    """
    name = permission.request_id
    if builder.status != "running":
        builder.rulings[name] = Ruling("cancelled")
    elif refusal := _refusal_of(builder, most):
        builder.alert("warn", f"a permission request was cancelled: {refusal}")
        builder.rulings[name] = Ruling("cancelled")
    else:
        builder.emit(render(PermissionRequested(permission)))
        if ruled is not None:
            builder.resolve(PermissionResolution(name, "selected", "profile", ruled))


def rule_on_permission(
    builder: ChangeBuilder, request_id: str, option_id: str | None, reason: str | None = None
) -> PermissionResolution:
    """Record the answer of a client to a permission request.

    Args:
        builder: The Change so far.
        request_id: The pending request.
        option_id: The option selected, or None to cancel the request.
        reason: Why, in the client's words.

    Raises:
        PermissionNotFound: No such request is pending.
        InvalidRequest: The request does not offer this option, or the reason is blank or too long.
    """
    if reason is not None and (is_blank(reason) or len(reason) > MAX_REASON):
        raise InvalidRequest(f"reason: expected 1 to {MAX_REASON} characters, not blank")
    permission = next((one for one in builder.activity.permissions if one.request_id == request_id), None)
    if permission is None:
        raise PermissionNotFound
    offered = [option.option_id for option in permission.options]
    if option_id is not None and option_id not in offered:
        raise InvalidRequest(f"option_id: expected one of {', '.join(offered)}")
    outcome: PermissionOutcome = "cancelled" if option_id is None else "selected"
    resolution = PermissionResolution(request_id, outcome, "client", option_id, reason)
    builder.resolve(resolution)
    return resolution


def resolve_permission(builder: ChangeBuilder, resolution: PermissionResolution) -> bool:
    """Resolve a permission request. Returns False if it is not pending."""
    pending = any(one.request_id == resolution.request_id for one in builder.activity.permissions)
    if pending:
        builder.resolve(resolution)
    return pending


def _refusal_of(builder: ChangeBuilder, most: int) -> str | None:
    if not is_run_active(builder):
        return "no run is active"
    if len(builder.activity.permissions) >= most:
        return f"{most} requests are pending already (max_pending_permissions)"
    return None
