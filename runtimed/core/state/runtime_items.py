"""The items that only the Runtime emits: typed here, a `system_item` on the wire."""

from collections.abc import Callable
from typing import Any

import attrs

from runtimed.model.event import SystemItem
from runtimed.model.permission import Permission, PermissionOption, PermissionResolution
from runtimed.model.value import value

SYSTEM_INPUT = "embedded_worker_system_input"
INPUT_STARTED = "input_started"
PERMISSION_REQUEST = "permission_request"
PERMISSION_RESOLVED = "permission_resolved"

_OPTIONAL = frozenset({"session_id", "tool_kind", "schema"})
"""The fields of a permission request that are left out if they are unset."""


@value
class SystemInput:
    """An input of kind `system`."""

    content: str


@value
class InputStarted:
    """The run of a queued input begins.

    Attributes:
        cursor: The cursor of the event that recorded the input.
        transcript_sequence: The sequence of its transcript entry.
    """

    cursor: str
    transcript_sequence: int


@value
class PermissionRequested:
    """A backend asks for a permission."""

    permission: Permission


@value
class PermissionResolved:
    """A permission request is answered, expired or cancelled."""

    resolution: PermissionResolution


RuntimeItem = SystemInput | InputStarted | PermissionRequested | PermissionResolved


def render(item: RuntimeItem) -> SystemItem:
    """Return an item as the contract has it on the wire."""
    match item:
        case SystemInput(content):
            return SystemItem({"kind": SYSTEM_INPUT, "content": content})
        case InputStarted(cursor, entry):
            # in the feed the id of an event is its cursor
            fields = {"event_id": cursor, "cursor": cursor, "transcript_sequence": entry}
            return SystemItem({"kind": INPUT_STARTED, **fields})
        case PermissionRequested(permission):
            return SystemItem({"kind": PERMISSION_REQUEST, **_permission(permission)})
        case PermissionResolved(resolution):
            found: dict[str, Any] = {"request_id": resolution.request_id, "outcome": resolution.outcome}
            if resolution.option_id is not None:
                found["option_id"] = resolution.option_id
            found["by"] = resolution.by
            if resolution.reason is not None:
                found["reason"] = resolution.reason
            return SystemItem({"kind": PERMISSION_RESOLVED, **found})


def parse(item: SystemItem) -> RuntimeItem | None:
    """Return the item of the Runtime that this is, or None if it is another one.

    Before version 3 of the store backends could emit items of these kinds: a malformed one is None.
    """
    kind = item.item.get("kind")
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        return None
    try:
        return read(item.item)
    except (KeyError, TypeError):
        return None


def _permission(permission: Permission) -> dict[str, Any]:
    """Return the fields of a request, without the optional ones that are unset."""
    return attrs.asdict(permission, filter=lambda field, found: field.name not in _OPTIONAL or found is not None)


def _requested(item: Any) -> PermissionRequested:
    fields = {name: found for name, found in item.items() if name not in {"kind", "options"}}
    return PermissionRequested(
        Permission(**fields, options=tuple(PermissionOption(**option) for option in item["options"]))
    )


def _resolved(item: Any) -> PermissionResolved:
    names = ("request_id", "outcome", "by", "option_id", "reason")
    return PermissionResolved(PermissionResolution(**{name: item.get(name) for name in names}))


_READERS: dict[str, Callable[[Any], RuntimeItem]] = {
    SYSTEM_INPUT: lambda item: SystemInput(item.get("content", "")),
    INPUT_STARTED: lambda item: InputStarted(item.get("cursor", ""), item.get("transcript_sequence", 0)),
    PERMISSION_REQUEST: _requested,
    PERMISSION_RESOLVED: _resolved,
}

RESERVED_KINDS = frozenset(_READERS)
"""The kinds of `system_item` that only the Runtime emits."""
