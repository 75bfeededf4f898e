"""Decide about permission requests."""

from runtimed.core.state.change_builder import ChangeBuilder
from runtimed.core.state.decisions.run_end import is_run_active
from runtimed.core.state.form import check_content
from runtimed.core.state.runtime_items import PermissionRequested, render
from runtimed.errors import InvalidRequest, PermissionNotFound
from runtimed.model.permission import (
    Permission,
    PermissionAnswer,
    PermissionKind,
    PermissionOutcome,
    PermissionResolution,
    Question,
    Ruling,
)
from runtimed.model.text import is_blank

MAX_REASON = 4_096
"""Characters of the reason that a client gives for its ruling."""

ALLOWING: tuple[PermissionKind, ...] = ("allow_once", "allow_always")


def request_permission(builder: ChangeBuilder, permission: Permission, question: Question, most: int) -> None:
    """Record that a backend asks for a permission.

    The request is cancelled at once if no run is active or `most` requests are pending already.

    Args:
        builder: The Change so far.
        permission: The request.
        question: The same as the backend asks it, with the option that the profile selects by itself, if any.
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
        if question.ruled is not None:
            builder.resolve(PermissionResolution(name, "selected", "profile", question.ruled), question.content)


def rule_on_permission(
    builder: ChangeBuilder, request_id: str, answer: PermissionAnswer, by: str
) -> PermissionResolution:
    """Record the answer of a client to a permission request.

    Args:
        builder: The Change so far.
        request_id: The pending request.
        answer: The option selected, or the filled form; without either the request is cancelled.
        by: The client, as events name it.

    Raises:
        PermissionNotFound: No such request is pending.
        InvalidRequest: The request does not offer this option, its form does not accept the content, or the reason
            is blank or too long.
    """
    if answer.reason is not None and (is_blank(answer.reason) or len(answer.reason) > MAX_REASON):
        raise InvalidRequest(f"reason: expected 1 to {MAX_REASON} characters, not blank")
    permission = next((one for one in builder.activity.permissions if one.request_id == request_id), None)
    if permission is None:
        raise PermissionNotFound
    chosen, content = _chosen(permission, answer), None
    if permission.schema is not None and chosen in _allowing(permission):
        content = check_content(permission.schema, answer.content or {})
    elif answer.content is not None:
        raise InvalidRequest("content: expected only with an option that accepts the form of this request")
    outcome: PermissionOutcome = "cancelled" if chosen is None else "selected"
    resolution = PermissionResolution(request_id, outcome, by, chosen, answer.reason)
    builder.resolve(resolution, content)
    return resolution


def resolve_permission(builder: ChangeBuilder, resolution: PermissionResolution) -> bool:
    """Resolve a permission request. Returns False if it is not pending."""
    pending = any(one.request_id == resolution.request_id for one in builder.activity.permissions)
    if pending:
        builder.resolve(resolution)
    return pending


def _chosen(permission: Permission, answer: PermissionAnswer) -> str | None:
    """Return the option that an answer selects; a content alone accepts. None cancels the request."""
    offered = [option.option_id for option in permission.options]
    if answer.option_id is not None and answer.option_id not in offered:
        raise InvalidRequest(f"option_id: expected one of {', '.join(offered)}")
    if answer.option_id is None and answer.content is not None and permission.schema is not None:
        return next(iter(_allowing(permission)), None)
    return answer.option_id


def _allowing(permission: Permission) -> list[str]:
    return [option.option_id for option in permission.options if option.kind in ALLOWING]


def _refusal_of(builder: ChangeBuilder, most: int) -> str | None:
    if not is_run_active(builder):
        return "no run is active"
    if len(builder.activity.permissions) >= most:
        return f"{most} requests are pending already (max_pending_permissions)"
    return None
