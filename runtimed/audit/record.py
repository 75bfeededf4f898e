"""One line of the audit log."""

import json
import time

import attrs

from runtimed.model.principal import Role, Verb
from runtimed.model.value import value

MAX_TEXT = 512
"""The most characters of a text in a line. Ids in a path are texts of the client."""


def _shortened(text: str | None) -> str | None:
    return text if text is None or len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


@value
class AuditRecord:
    """A request that wanted to change something, or that failed to authenticate. It never holds content or a secret.

    Attributes:
        unix_ms: When the outcome was known, Unix time in milliseconds.
        outcome: The HTTP status, followed by the code of the error if there is one.
        token: The name of the client's token, or None if none was accepted.
        role: The role of that token.
        verb: What the route does.
        target: The path of what the request is about, without a query; at most MAX_TEXT characters of it are kept.
        request_id: The id of the request, if it has one.
        remote: The address of the peer, or `unix`.
    """

    unix_ms: int
    outcome: str
    token: str | None = None
    role: Role | None = None
    verb: Verb | None = None
    target: str | None = attrs.field(default=None, converter=_shortened)
    request_id: str | None = None
    remote: str | None = None

    def line(self) -> bytes:
        """Return the record as a JSON object in ASCII, which ends with its only line feed."""
        found = {
            "time": rfc_3339(self.unix_ms),
            "token": self.token,
            "role": self.role,
            "verb": self.verb,
            "target": self.target,
            "outcome": self.outcome,
            "request_id": self.request_id,
            "remote": self.remote,
        }
        return f"{json.dumps(found, separators=(',', ':'))}\n".encode()


def rfc_3339(unix_ms: int) -> str:
    """Return a time in UTC with milliseconds, such as `2026-11-30T16:20:00.125Z`."""
    seconds, milliseconds = divmod(unix_ms, 1_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"
