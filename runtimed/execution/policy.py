"""What a profile says to questions for leave, without asking anybody."""

from collections.abc import Iterable, Sequence

from runtimed.execution.profile import Permissions
from runtimed.model.permission import PermissionKind, PermissionOption

ALLOWING: tuple[PermissionKind, ...] = ("allow_once", "allow_always")
REJECTING: tuple[PermissionKind, ...] = ("reject_once", "reject_always")


def first_of(options: Iterable[PermissionOption], kinds: Sequence[PermissionKind]) -> str | None:
    """The id of the first option of the first of these kinds that is offered."""
    offered = tuple(options)
    return next((option.option_id for kind in kinds for option in offered if option.kind == kind), None)


def ruled(policy: Permissions, options: Iterable[PermissionOption]) -> str | None:
    """The option that the policy chooses; None where it has somebody asked, or there is no option for it."""
    if policy == "ask":
        return None
    return first_of(options, ALLOWING if policy == "allow" else REJECTING)
