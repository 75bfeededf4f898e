"""The client library without asyncio."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from runtimectl.client.tls import TlsOptions
from runtimectl.library import arguments, calls
from runtimectl.library.arguments import Labels
from runtimectl.library.daemon import Finder, find_from_environment, finder
from runtimectl.library.events import Events, Following
from runtimectl.library.pages import after_page, live_cursor
from runtimectl.library.transport import Transport
from runtimectl.library.worker import Worker

if TYPE_CHECKING:
    from runtimed.model.bundle import Availability, ConfigBundle, ConfigBundleSummary, HostCheck
    from runtimed.model.execution import WorkerStatus
    from runtimed.model.interaction import WorkerInput
    from runtimed.model.permission import WorkerPermission
    from runtimed.model.profile import ProfileSummary
    from runtimed.model.runtime import RuntimeSummary
    from runtimed.model.worker import (
        CapabilityRequest,
        CreateWorkerRequest,
        NamedReference,
        ProfileSelector,
        WorkerSummary,
    )

TIMEOUT_S = 30.0
RECONNECT_FOR_S = 300.0


class Client:
    """A client of one daemon. Several threads may use it at once.

    Every method raises a ClientError: ApiError if the daemon answers with an error, Unreachable, TimedOut, or one
    that says what is wrong with the arguments.

    Args:
        url: The daemon: `http://HOST:PORT`, `https://HOST` (with a path if the API is below one) or `unix:PATH`.
        token: The token.
        token_file: Read the token from this file (mode 0600) instead.
        ca: Verify https with the PEM certificates in this file, not with the system's.
        cert: Send the client certificate in this PEM file.
        key: Its key (PEM, mode 0600), if it is not in the same file.
        timeout: How long the daemon may be silent during a request, in seconds.
        reconnect_for: How long a daemon that was reached before is waited for, in seconds: by event iterators, and by
            requests that may be repeated: all but deletions, interrupts, answers and bundles.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        token_file: str | None = None,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        timeout: float = TIMEOUT_S,
        reconnect_for: float = RECONNECT_FOR_S,
    ) -> None:
        self._transport = Transport(finder(url, token, token_file, TlsOptions(ca, cert, key)), timeout, reconnect_for)

    @classmethod
    def from_env(cls, *, timeout: float = TIMEOUT_S, reconnect_for: float = RECONNECT_FOR_S) -> Self:
        """Return a client of the daemon that the command line uses without options, found with the first request.

        It comes from `RUNTIMECTL_URL` or `RUNTIMECTL_CONTEXT`, else from the current context, else it is the only
        daemon that runs here; its token from `RUNTIMECTL_TOKEN_FILE`, `RUNTIMECTL_TOKEN` or beside it.
        """
        return cls.found_by(find_from_environment, timeout=timeout, reconnect_for=reconnect_for)

    @classmethod
    def found_by(cls, find: Finder, *, timeout: float = TIMEOUT_S, reconnect_for: float = RECONNECT_FOR_S) -> Self:
        """Return a client of the daemon that a function finds, again for each connection: the daemon may move."""
        client = cls.__new__(cls)
        client._transport = Transport(find, timeout, reconnect_for)  # noqa: SLF001 a constructor
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept for later requests."""
        self._transport.close()

    def runtime(self) -> "RuntimeSummary":
        """Return the identity, the counts and the limits of the Runtime."""
        return self._transport.send(calls.runtime())

    def workers(
        self, status: "WorkerStatus | None" = None, labels: Labels = (), name: str | None = None
    ) -> "tuple[WorkerSummary, ...]":
        """Return the Workers by id: those with this status, all of these labels and this name."""
        found: list[WorkerSummary] = []
        after: str | None = None
        while True:
            page = self._transport.send(calls.workers(status, arguments.label_filter(labels), name, after))
            found += page.workers
            after = after_page(after, page)
            if after is None:
                return tuple(found)

    def worker(self, worker_id: str) -> Worker:
        """Return the Worker with this id. Sends no request."""
        return Worker(worker_id, self._transport)

    def create_worker(
        self,
        request: "CreateWorkerRequest | None" = None,
        *,
        profile: "str | ProfileSelector | None" = None,
        capabilities: "Sequence[str | CapabilityRequest]" = (),
        workspaces: "Mapping[str, str] | Sequence[NamedReference]" = (),
        labels: Mapping[str, str] | None = None,
        name: str | None = None,
        initial_input: "str | WorkerInput | None" = None,
        idempotency_key: str | None = None,
    ) -> Worker:
        """Create a Worker, and wait until its backend has accepted or refused it: `detail().execution` says which.

        Args:
            request: The whole request; what is given by name replaces the same field of it.
            profile: `default`, `builtin:NAME`, the NAME of a profile in the request's bundle, or a selector.
            capabilities: The capabilities that the profile needs.
            workspaces: References by name, such as `{"cwd": "dir:/srv/checkouts/x"}`.
            labels: Labels by key.
            name: A name for people.
            initial_input: The first input: given as soon as the backend has accepted the Worker.
            idempotency_key: Create only one Worker with this key, whoever repeats it. Without one the library makes
                a key for each call.
        """
        body = arguments.create_request(
            request,
            profile=profile,
            capabilities=capabilities,
            workspaces=workspaces,
            labels=labels,
            name=name,
            initial_input=initial_input,
        )
        key = arguments.idempotency_key(idempotency_key)
        return self.worker(self._transport.send(calls.create_worker(body, key)).worker_id)

    def bundles(self) -> "tuple[ConfigBundleSummary, ...]":
        """Return the stored config bundles, by id."""
        return self._transport.send(calls.bundles()).bundles

    def push_bundle(self, bundle: "ConfigBundle") -> "Availability":
        """Store a config bundle. It replaces one with the same id."""
        return self._transport.send(calls.push_bundle(bundle))

    def check_bundle(self, bundle_id: str, digest: str) -> "Availability":
        """Return the bundle with this digest. Raises ApiError if another one is stored, or none."""
        return self._transport.send(calls.check_bundle(bundle_id, digest))

    def check_bundle_on_host(self, bundle_id: str, digest: str) -> "HostCheck":
        """Return what the host would do with the Workers of a bundle. Raises ApiError as `check_bundle` does."""
        return self._transport.send(calls.check_bundle_on_host(bundle_id, digest))

    def profiles(self) -> "tuple[ProfileSummary, ...]":
        """Return the profiles of the host, by selector: what can be run, and what each needs."""
        return self._transport.send(calls.profiles())

    def permissions(self) -> "tuple[WorkerPermission, ...]":
        """Return the open permission requests of all Workers."""
        return self._transport.send(calls.permissions())

    def events(self, labels: Labels = (), cursor: str | None = None) -> Events:
        """Return the events of all Workers with these labels: from now on, or behind a cursor."""
        wanted = arguments.label_filter(labels)
        begin = self._live_cursor if cursor is None else lambda: cursor
        return Events(Following(self._transport, None, wanted, begin), with_snapshot=False)

    def _live_cursor(self) -> str:
        first = self._transport.send(calls.first_event())
        workers = self.workers()
        return live_cursor(first, workers)
