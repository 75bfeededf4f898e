"""What the Runtime has to say about itself, and what a feed says before it closes."""

from typing import Literal

from runtimed.model.identity import WorkerId
from runtimed.model.value import value

Severity = Literal["info", "warning", "error"]


@value
class Diagnostic:
    """A remark that the Runtime keeps: a code for machines, a sentence for people."""

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
    """The reason for which a feed closes."""

    code: FeedDiagnosticCode
    message: str
