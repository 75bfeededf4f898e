"""Every error that a caller of the Runtime can meet. It knows codes and sentences, and no HTTP.

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
├── MissingError                      what was asked for is not there
│   ├── WorkerNotFound
│   ├── ConfigBundleMissing
│   └── PermissionNotFound
├── StateError                        not in this state
│   ├── RuntimeStopped
│   ├── WorkerRunning
│   ├── WorkerExecutionUnavailable
│   ├── WorkerExecutionRejected
│   └── Unavailable
├── StoreError                        the store failed
│   ├── StoreIo
│   ├── StoreMissing
│   ├── StoreCorrupt
│   └── StoreFull
├── StatePoisoned                     after a failed write nothing is promised any more
├── Internal                          a fault of ours
├── FeedError                         a feed that cannot go on; the code is that of its last diagnostic
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

from typing import ClassVar

MAX_SHOWN = 64
"""Characters of a client's own text that a message repeats."""


def printable(text: str) -> str:
    """Return a client's text fit for a message: on one line, at most MAX_SHOWN characters, no control characters."""
    shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)


class RuntimedError(Exception):
    """The root; each leaf has a `code` for machines, `message` is for people."""

    code: ClassVar[str]

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestError(RuntimedError):
    """The request can't be taken as it is."""


class InvalidJson(RequestError):
    """A body that is no JSON, or has a missing, unknown, duplicate or mistyped field; `path` names it."""

    code = "invalid_json"

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path


class InvalidWorkerId(RequestError):
    """A Worker id that is blank. Any other text may be an id: where it names no Worker, that is WorkerNotFound."""

    code = "invalid_worker_id"

    def __init__(self, field: str = "worker_id") -> None:
        super().__init__(f"{field}: expected the id of a Worker, not a blank text")


class InvalidRequest(RequestError):
    """A well-formed request whose content is not accepted."""

    code = "invalid_request"


class LimitTooLarge(RequestError):
    """A page larger than the Runtime gives out."""

    code = "limit_too_large"

    def __init__(self, field: str, maximum: int, minimum: int = 1) -> None:
        super().__init__(f"{field}: expected a whole number, {minimum} to {maximum}")
        self.maximum = maximum


class ConfigBundleDigestMismatch(RequestError):
    """The digest given is not the digest of the bundle."""

    code = "config_bundle_digest_mismatch"


class InvalidProfileSelector(RequestError):
    """A profile that the bundle does not offer, or that cannot be named here."""

    code = "invalid_profile_selector"


class UnsupportedConfigDeclaration(RequestError):
    """A declaration of a kind, or with a reference, that the Runtime does not take."""

    code = "unsupported_config_declaration"


class WrongRuntime(RequestError):
    """A Worker of another Runtime was meant."""

    code = "wrong_runtime"


class WrongRuntimeCursor(RequestError):
    """A cursor of another Runtime's feed."""

    code = "wrong_runtime_cursor"


class MissingError(RuntimedError):
    """There is no such thing."""


class WorkerNotFound(MissingError):
    """No Worker has this id."""

    code = "worker_not_found"

    def __init__(self, worker_id: str) -> None:
        super().__init__(f"there is no Worker {printable(worker_id)}")
        self.worker_id = worker_id


class ConfigBundleMissing(MissingError):
    """No bundle has this id."""

    code = "config_bundle_missing"

    def __init__(self) -> None:
        super().__init__("there is no config bundle with this id")


class PermissionNotFound(MissingError):
    """No permission with this id waits for an answer: there never was one, or it was resolved."""

    code = "permission_not_found"

    def __init__(self) -> None:
        super().__init__("no such permission request waits for an answer: it may have been answered, or have expired")


class StateError(RuntimedError):
    """Not possible in the present state."""


class RuntimeStopped(StateError):
    """The Runtime takes no more requests."""

    code = "runtime_stopped"

    def __init__(self) -> None:
        super().__init__("the Runtime is stopped")


class WorkerRunning(StateError):
    """A Worker that runs can't be deleted."""

    code = "worker_running"

    def __init__(self) -> None:
        super().__init__("the Worker is running: stop or cancel it first")


class WorkerExecutionUnavailable(StateError):
    """Nothing runs this Worker."""

    code = "worker_execution_unavailable"


class WorkerExecutionRejected(StateError):
    """The backend said busy, rejected, errored or unsupported; the message is its own."""

    code = "worker_execution_rejected"


class Unavailable(StateError):
    """The daemon is starting or draining."""

    code = "unavailable"


class StoreError(RuntimedError):
    """The store could not do it."""


class StoreIo(StoreError):
    """Reading or writing failed; after a failed write the Runtime is poisoned."""

    code = "store_io"


class StoreMissing(StoreError):
    """The store's files are gone."""

    code = "store_missing"


class StoreCorrupt(StoreError):
    """What was read is not what was written."""

    code = "store_corrupt"


class StoreFull(StoreError):
    """There is no room; nothing of the request was stored, and it may be tried again."""

    code = "store_full"


class StatePoisoned(RuntimedError):
    """A write failed, so the Runtime takes no further ones and the daemon ends."""

    code = "state_poisoned"

    def __init__(self) -> None:
        super().__init__("a write to the store failed; the Runtime accepts nothing more")


class Internal(RuntimedError):
    """A fault of the daemon's own."""

    code = "internal"

    def __init__(self) -> None:
        super().__init__("an internal error; the daemon's log has the details")


class FeedError(RuntimedError):
    """A feed ends with this as its last word."""


class CursorMalformed(FeedError):
    """Text that is no cursor."""

    code = "runtime.cursor_malformed"

    def __init__(self, field: str = "cursor") -> None:
        super().__init__(f'{field}: expected "wo_" and 16 lower-case hex digits')


class CursorUnknownOrExpired(FeedError):
    """A cursor older than what is retained, or newer than anything published."""

    code = "runtime.cursor_unknown_or_expired"

    def __init__(self) -> None:
        super().__init__("cursor: it is older than the retained events or newer than any published one")


class CursorExpired(FeedError):
    """A reader so slow that retention overtook it."""

    code = "runtime.cursor_expired"

    def __init__(self) -> None:
        super().__init__("the reader fell behind what is retained")


class WorkerDeleted(FeedError):
    """The Worker that was observed is gone."""

    code = "runtime.worker_not_found"

    def __init__(self) -> None:
        super().__init__("the Worker was deleted")


class UpstreamClosed(FeedError):
    """The Runtime is shutting down."""

    code = "runtime.upstream_closed"

    def __init__(self) -> None:
        super().__init__("the Runtime is shutting down; reconnect with the last cursor")


class SerializeFailed(FeedError):
    """An event could not be put into a frame."""

    code = "runtime.serialize_failed"

    def __init__(self) -> None:
        super().__init__("an event could not be encoded")


class StartError(RuntimedError):
    """The daemon can't start."""


class ConfigurationError(StartError):
    """An option, a variable or the configuration file is wrong."""

    code = "configuration"


class StoreInUse(StartError):
    """Another daemon holds the store; `pid` is its process id where it is known."""

    code = "store_in_use"

    def __init__(self, pid: int | None) -> None:
        owner = f"process {pid}" if pid else "another process"
        super().__init__(f"the store is in use by {owner}")
        self.pid = pid


class StoreForeign(StartError):
    """The store belongs to another runtime id."""

    code = "store_foreign"

    def __init__(self, stored: str, wanted: str) -> None:
        super().__init__(f"the store belongs to runtime {stored}, not {wanted}")


class StoreUnsupported(StartError):
    """The store cannot be used: not ours, not private, or written by a newer version."""

    code = "store_unsupported"
