"""Permission requests of Workers, and their rulings."""

from typing import Any, Literal

import attrs

from runtimed.model.identity import WorkerId
from runtimed.model.value import value

PermissionKind = Literal["allow_once", "allow_always", "reject_once", "reject_always"]
PermissionOutcome = Literal["selected", "cancelled", "expired"]
Authority = str
"""Who ruled: a client as `token:NAME`, the policy of the profile as `profile`, the expiry of the request as
`deadline`, or the Runtime as `runtime`, when the run ended. Events of earlier versions name a client `client`."""

ELICITATION = "elicitation"
"""The `tool_kind` of a request that has a form."""


@value
class PermissionOption:
    """One of the answers to a permission request."""

    option_id: str
    name: str
    kind: PermissionKind


@value
class Question:
    """A permission request as a backend makes it.

    Attributes:
        timeout_s: The seconds until the request expires.
        ruled: The option that the profile's policy has chosen, or None if clients decide.
        session_id: The agent session that asks, if it is not the Worker's own.
        tool_kind: What the permission is for, such as `edit` or `execute`; `elicitation` for a form.
        schema: The JSON Schema of the form, whose properties are strings, numbers, booleans or lists of choices.
        content: What the profile's policy fills the form with.
    """

    title: str
    tool_call_id: str | None
    options: tuple[PermissionOption, ...]
    timeout_s: float
    ruled: str | None = None
    session_id: str | None = None
    tool_kind: str | None = None
    schema: dict[str, Any] | None = None
    content: dict[str, Any] | None = None


@value
class Permission:
    """A pending permission request.

    Attributes:
        expires_at: RFC 3339 in UTC, in whole seconds.
        session_id: The agent session that asks, if it is not the Worker's own.
        tool_kind: What the permission is for, such as `edit` or `execute`; `elicitation` for a form.
        schema: The JSON Schema of the form, if there is one. It is answered with a `content`.
    """

    request_id: str
    title: str
    tool_call_id: str | None
    options: tuple[PermissionOption, ...]
    expires_at: str
    session_id: str | None = None
    tool_kind: str | None = None
    schema: dict[str, Any] | None = None


@value
class WorkerPermission(Permission):
    """A pending permission request in the list of all Workers' requests.

    Attributes:
        worker_id: The Worker that asks.
    """

    worker_id: WorkerId = attrs.field(kw_only=True)

    @classmethod
    def of(cls, worker_id: WorkerId, permission: Permission) -> "WorkerPermission":
        """Return the request with its Worker."""
        return cls(**{name: getattr(permission, name) for name in _FIELDS}, worker_id=worker_id)


_FIELDS = tuple(field.name for field in attrs.fields(Permission))


@value
class Ruling:
    """The decision on a permission request.

    Attributes:
        option_id: The option, if one was selected.
        reason: Why, in the words of the client that ruled.
        content: What the form was filled with.
    """

    outcome: PermissionOutcome
    option_id: str | None = None
    reason: str | None = None
    content: dict[str, Any] | None = None


@value
class PermissionAnswer:
    """A client's answer to a permission request: one of the options, a filled form, or that the request is cancelled.

    Attributes:
        content: The values of the form, by the names of its properties. This accepts the request.
        reason: Why, for the backend and for other clients.
    """

    option_id: str | None = None
    outcome: Literal["cancelled"] | None = None
    content: dict[str, Any] | None = None
    reason: str | None = None


@value
class PermissionResolution:
    """A ruling as clients receive it.

    Attributes:
        option_id: The option, if one was selected.
        by: Who ruled.
        reason: Why, in the words of the client that ruled.
    """

    request_id: str
    outcome: PermissionOutcome
    by: Authority
    option_id: str | None = None
    reason: str | None = None
