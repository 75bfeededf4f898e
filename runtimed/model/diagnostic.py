"""Diagnostics of the Runtime, and of a feed that closes."""

from typing import Literal

from runtimed.model.identity import WorkerId
from runtimed.model.value import value

Severity = Literal["info", "warning", "error"]


@value
class Diagnostic:
    """A condition that the Runtime reports and keeps.

    Attributes:
        code: Names the condition for programs.
        message: Describes it for people, in one sentence.
        worker_id: The Worker that it is about, or None.
    """

    code: str
    severity: Severity
    message: str
    worker_id: WorkerId | None = None


FeedDiagnosticCode = Literal[
    "runtime.cursor_malformed",
    "runtime.cursor_unknown_or_expired",
    "runtime.cursor_expired",
    "runtime.worker_not_found",
    "runtime.unavailable",
    "runtime.observation_only",
    "runtime.websocket_error",
    "runtime.upstream_closed",
    "runtime.serialize_failed",
]


@value
class FeedDiagnostic:
    """The reason why a feed closes."""

    code: FeedDiagnosticCode
    message: str
