"""Every error that a caller of the Runtime can meet, with its code. HTTP statuses are not its concern.

RuntimedError
├── RequestError                      the caller should ask differently
│   ├── InvalidJson                   a body that is not the JSON that was asked for
│   ├── InvalidWorkerId
│   ├── InvalidRequest
│   ├── LimitTooLarge
│   ├── ConfigBundleDigestMismatch
│   ├── InvalidProfileSelector
│   ├── UnsupportedConfigDeclaration
│   ├── WrongRuntime
│   └── WrongRuntimeCursor
├── Forbidden                         the client's token does not grant this
├── RateLimited                       the client's tenant asks too often
├── MissingError                      what was asked for is not there
│   ├── WorkerNotFound
│   ├── ConfigBundleMissing
│   ├── PermissionNotFound
│   ├── TokenNotFound
│   └── WorkspaceNotFound
├── StateError                        not in this state
│   ├── RuntimeStopped
│   ├── WorkerRunning
│   ├── WorkerExecutionUnavailable
│   ├── WorkerExecutionRejected
│   ├── IdempotencyConflict
│   ├── TokenExists
│   ├── WaitTimeout
│   ├── WaitImpossible
│   ├── WorkspaceDirty
│   ├── WorkspaceUnavailable
│   ├── BackupUnavailable
│   └── Unavailable
├── StoreError                        the store failed
│   ├── StoreIo
│   ├── StoreMissing
│   ├── StoreCorrupt
│   └── StoreFull
├── StatePoisoned                     after a failed write nothing is promised any more
├── Internal                          a fault of ours
├── FeedError                         a feed that ends; the code is that of its last diagnostic
│   ├── CursorMalformed
│   ├── CursorUnknownOrExpired
│   ├── CursorExpired
│   ├── WorkerDeleted
│   ├── UpstreamClosed
│   └── SerializeFailed
└── StartError                        the daemon does not start
    ├── ConfigurationError
    ├── StoreInUse
    ├── StoreForeign
    └── StoreUnsupported

A message says what was wrong and what is accepted, in one line. It never holds a token, a secret or a host path
outside the store. `runtimed.http.errors` has the errors that only HTTP knows.
"""

from collections.abc import Sequence
from typing import ClassVar

MAX_SHOWN = 64
"""The most characters of a client's text that a message repeats."""


def printable(text: str) -> str:
    """Return a client's text for use in a message: one line, at most MAX_SHOWN characters, no control characters."""
    shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)


class RuntimedError(Exception):
    """The root of the Runtime's errors.

    Attributes:
        code: Names the error for programs. Each leaf has its own.
        message: Describes the error for people, in one line.
    """

    code: ClassVar[str]

    def __init__(self, message: str) -> None:
        """Create the error with its message."""
        super().__init__(message)
        self.message = message


class RequestError(RuntimedError):
    """The request is not accepted as it is."""


class InvalidJson(RequestError):
    """The body is not JSON, or a field is missing, unknown, duplicate or of the wrong type.

    Attributes:
        path: The path of the field, such as `profile.kind`, or an empty text.
    """

    code = "invalid_json"

    def __init__(self, problem: str, path: str = "") -> None:
        """Create the error for a problem at a path."""
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path


class InvalidWorkerId(RequestError):
    """The Worker id is blank. Any other text is a possible id, and may lead to WorkerNotFound."""

    code = "invalid_worker_id"

    def __init__(self, field: str = "worker_id") -> None:
        """Create the error for a parameter."""
        super().__init__(f"{field}: expected the id of a Worker, not a blank text")


class InvalidRequest(RequestError):
    """The request is well-formed, but its content is not accepted."""

    code = "invalid_request"


class LimitTooLarge(RequestError):
    """The requested page is larger than the Runtime allows.

    Attributes:
        maximum: The largest page, in items.
    """

    code = "limit_too_large"

    def __init__(self, field: str, maximum: int, minimum: int = 1) -> None:
        """Create the error for a parameter and its range."""
        super().__init__(f"{field}: expected a whole number, {minimum} to {maximum}")
        self.maximum = maximum


class ConfigBundleDigestMismatch(RequestError):
    """The given digest is not the digest of the bundle."""

    code = "config_bundle_digest_mismatch"


class InvalidProfileSelector(RequestError):
    """The bundle does not offer the profile, or the selector is of a kind that is not accepted here."""

    code = "invalid_profile_selector"


class UnsupportedConfigDeclaration(RequestError):
    """The bundle has a declaration whose kind or reference the Runtime does not support."""

    code = "unsupported_config_declaration"


class WrongRuntime(RequestError):
    """The request names a Worker of another Runtime."""

    code = "wrong_runtime"


class WrongRuntimeCursor(RequestError):
    """The cursor belongs to the feed of another Runtime."""

    code = "wrong_runtime_cursor"


class Forbidden(RuntimedError):
    """The role, the tenant or the labels of the client's token do not grant what the request asks for."""

    code = "forbidden"


class RateLimited(RuntimedError):
    """The clients of a tenant send requests faster than its settings allow.

    Attributes:
        retry_after_s: In how many seconds a request may be accepted, rounded up.
    """

    code = "rate_limited"

    def __init__(self, limit: str, retry_after_s: int) -> None:
        """Create the error for the setting that was exceeded."""
        super().__init__(f"too many requests: {limit} of this tenant is reached; retry after {retry_after_s} s")
        self.retry_after_s = retry_after_s


class MissingError(RuntimedError):
    """What the request names does not exist."""


class WorkerNotFound(MissingError):
    """No Worker has this id.

    Attributes:
        worker_id: The id as the client gave it.
    """

    code = "worker_not_found"

    def __init__(self, worker_id: str) -> None:
        """Create the error for an id."""
        super().__init__(f"there is no Worker {printable(worker_id)}")
        self.worker_id = worker_id


class ConfigBundleMissing(MissingError):
    """No config bundle has this id."""

    code = "config_bundle_missing"

    def __init__(self) -> None:
        super().__init__("there is no config bundle with this id")


class PermissionNotFound(MissingError):
    """No permission request with this id is pending: there never was one, or it is resolved."""

    code = "permission_not_found"

    def __init__(self) -> None:
        super().__init__("no such permission request waits for an answer: it may have been answered, or have expired")


class TokenNotFound(MissingError):
    """No token has this name, or only one that the client may not see."""

    code = "token_not_found"

    def __init__(self, name: str) -> None:
        """Create the error for a name."""
        super().__init__(f"there is no token {printable(name)}")


class WorkspaceNotFound(MissingError):
    """The Worker has no workspace with this name."""

    code = "workspace_not_found"

    def __init__(self, name: str) -> None:
        """Create the error for a name."""
        super().__init__(f"the Worker has no workspace {printable(name)}")


class StateError(RuntimedError):
    """The request is not possible in the present state."""


class RuntimeStopped(StateError):
    """The Runtime is stopped and accepts no requests."""

    code = "runtime_stopped"

    def __init__(self) -> None:
        super().__init__("the Runtime is stopped")


class WorkerRunning(StateError):
    """A running Worker cannot be deleted."""

    code = "worker_running"

    def __init__(self) -> None:
        super().__init__("the Worker is running: stop or cancel it first")


class WorkerExecutionUnavailable(StateError):
    """No backend is connected to the Worker."""

    code = "worker_execution_unavailable"


class WorkerExecutionRejected(StateError):
    """The backend answered busy, rejected, errored or unsupported. The message is the backend's."""

    code = "worker_execution_rejected"


class IdempotencyConflict(StateError):
    """The idempotency key belongs to another request of the same client to the same path."""

    code = "idempotency_conflict"

    def __init__(self) -> None:
        super().__init__(
            "Idempotency-Key: it belongs to a request with another body; use a new one for a new request"
        )


class TokenExists(StateError):
    """A token has this name already."""

    code = "token_exists"

    def __init__(self, name: str) -> None:
        """Create the error for a name."""
        super().__init__(f"name: there is a token {printable(name)} already; revoke it first, or choose another name")


class WaitTimeout(StateError):
    """None of the conditions that a client waits for came in time."""

    code = "wait_timeout"

    def __init__(self, wanted: Sequence[str], timeout_s: float) -> None:
        """Create the error for the conditions and the time that was waited."""
        super().__init__(f"no {' or '.join(wanted)} within {timeout_s:g} seconds (timeout_s); wait again")


class WaitImpossible(StateError):
    """None of the conditions that a client waits for can come any more."""

    code = "wait_impossible"

    def __init__(self, wanted: Sequence[str], reason: str) -> None:
        """Create the error for the conditions and why they cannot come."""
        super().__init__(f"{' or '.join(wanted)} cannot come any more: {reason}")


class WorkspaceDirty(StateError):
    """A workspace of the Worker holds work that would be lost with the Worker."""

    code = "workspace_dirty"

    def __init__(self, names: Sequence[str]) -> None:
        """Create the error for the names of such workspaces."""
        shown = ", ".join(map(printable, names))
        super().__init__(f"unsaved work would be lost: {shown}; commit it, or delete with force=true")


class WorkspaceUnavailable(StateError):
    """The workspace cannot be read now, or it is no git repository."""

    code = "workspace_unavailable"


class BackupUnavailable(StateError):
    """The store has no backup, such as one in memory."""

    code = "backup_unavailable"

    def __init__(self) -> None:
        super().__init__("a store in memory has no backup; start the daemon with --store fs:PATH to have one")


class Unavailable(StateError):
    """The daemon is starting, draining or overloaded.

    Attributes:
        retry_after_s: When a client may try again, in seconds.
    """

    code = "unavailable"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        """Create the error with its message."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreError(RuntimedError):
    """The store failed."""


class StoreIo(StoreError):
    """A read or a write failed. After a failed write the Runtime accepts nothing more."""

    code = "store_io"


class StoreMissing(StoreError):
    """The store's files were deleted or replaced."""

    code = "store_missing"


class StoreCorrupt(StoreError):
    """Stored data is damaged or missing."""

    code = "store_corrupt"


class StoreFull(StoreError):
    """The disk is full. Nothing of the request was stored; a retry may succeed."""

    code = "store_full"


class StatePoisoned(RuntimedError):
    """A write failed. The Runtime accepts nothing more, and the daemon exits."""

    code = "state_poisoned"

    def __init__(self) -> None:
        super().__init__("a write to the store failed; the Runtime accepts nothing more")


class Internal(RuntimedError):
    """The daemon has a bug. Its log has the details."""

    code = "internal"

    def __init__(self) -> None:
        super().__init__("an internal error; the daemon's log has the details")


class FeedError(RuntimedError):
    """The reason why a feed ends. Its code is that of the last diagnostic."""


class CursorMalformed(FeedError):
    """The text is not a cursor."""

    code = "runtime.cursor_malformed"

    def __init__(self, field: str = "cursor") -> None:
        """Create the error for a parameter."""
        super().__init__(f'{field}: expected "wo_" and 16 lower-case hex digits')


class CursorUnknownOrExpired(FeedError):
    """The cursor is older than the retained events, newer than any published one, or from before a restore."""

    code = "runtime.cursor_unknown_or_expired"

    def __init__(self) -> None:
        super().__init__(
            "cursor: it is older than the retained events, newer than any published one, or from before a restore"
        )


class CursorExpired(FeedError):
    """The reader is so slow that the events it needs are no longer retained."""

    code = "runtime.cursor_expired"

    def __init__(self) -> None:
        super().__init__("the reader is too slow: its next events are no longer retained")


class WorkerDeleted(FeedError):
    """The observed Worker was deleted."""

    code = "runtime.worker_not_found"

    def __init__(self) -> None:
        super().__init__("the Worker was deleted")


class UpstreamClosed(FeedError):
    """The feed is closed because the Runtime is shutting down."""

    code = "runtime.upstream_closed"

    def __init__(self) -> None:
        super().__init__("the Runtime is shutting down; reconnect with the last cursor")


class SerializeFailed(FeedError):
    """An event could not be encoded."""

    code = "runtime.serialize_failed"

    def __init__(self) -> None:
        super().__init__("an event could not be encoded")


class StartError(RuntimedError):
    """The daemon cannot start."""


class ConfigurationError(StartError):
    """An option, an environment variable or the configuration file is not valid."""

    code = "configuration"


class StoreInUse(StartError):
    """Another process holds the store.

    Attributes:
        pid: The id of that process, or None if it is not known.
    """

    code = "store_in_use"

    def __init__(self, pid: int | None) -> None:
        """Create the error for a process."""
        owner = f"process {pid}" if pid else "another process"
        super().__init__(f"the store is in use by {owner}")
        self.pid = pid


class StoreForeign(StartError):
    """The store belongs to another Runtime."""

    code = "store_foreign"

    def __init__(self, stored: str, wanted: str) -> None:
        """Create the error for the id in the store and the id that was asked for."""
        super().__init__(f"the store belongs to runtime {stored}, not {wanted}")


class StoreUnsupported(StartError):
    """The store cannot be used: it is not a store, not private, or written by a newer version."""

    code = "store_unsupported"
