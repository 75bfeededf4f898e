"""Permissions: what a Worker asks leave for, and how that is ruled on."""

from typing import Literal

import attrs

from runtimed.model.identity import WorkerId
from runtimed.model.value import value

PermissionKind = Literal["allow_once", "allow_always", "reject_once", "reject_always"]
PermissionOutcome = Literal["selected", "cancelled", "expired"]
Authority = Literal["client", "profile", "runtime"]
"""Who ruled: a client, the policy of the profile, or the Runtime itself, by expiry and cancellation."""


@value
class PermissionOption:
    """One of the answers that a Worker offers."""

    option_id: str
    name: str
    kind: PermissionKind


@value
class Question:
    """What a backend asks leave for, and for how many seconds it waits.

    `ruled` is the option that the profile's policy has chosen already. `session_id` names the session of an agent
    that asks, where that is not the Worker's own.
    """

    title: str
    tool_call_id: str | None
    options: tuple[PermissionOption, ...]
    timeout_s: float
    ruled: str | None = None
    session_id: str | None = None


@value
class Permission:
    """A question that waits for an answer; `expires_at` is RFC 3339 in UTC, in whole seconds."""

    request_id: str
    title: str
    tool_call_id: str | None
    options: tuple[PermissionOption, ...]
    expires_at: str
    session_id: str | None = None


@value
class WorkerPermission(Permission):
    """A permission request in the list of all Workers'; `worker_id` names the Worker that asks."""

    worker_id: WorkerId = attrs.field(kw_only=True)

    @classmethod
    def of(cls, worker_id: WorkerId, permission: Permission) -> "WorkerPermission":
        """The request of this Worker."""
        return cls(**{name: getattr(permission, name) for name in _FIELDS}, worker_id=worker_id)


_FIELDS = tuple(field.name for field in attrs.fields(Permission))


@value
class Ruling:
    """How a question was ruled on; `option_id` where an option was selected."""

    outcome: PermissionOutcome
    option_id: str | None = None


@value
class PermissionAnswer:
    """What a client answers: one of the options, or that the request is cancelled."""

    option_id: str | None = None
    outcome: Literal["cancelled"] | None = None


@value
class PermissionResolution:
    """A ruling as clients are told of it."""

    request_id: str
    outcome: PermissionOutcome
    by: Authority
    option_id: str | None = None
