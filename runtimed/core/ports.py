"""The ports of the core: a store, an execution backend, workspaces, a clock.

Arguments and answers are plain frozen values, so that an adapter may live in another process.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import attrs

from runtimed.core.histogram import CommitHistograms
from runtimed.core.paging import PageSize
from runtimed.core.state.activity import MAX_OPEN_TEXT
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import Change, EncodedEvent, Entry, EventPage, StateAt, StoredState, TrimRange
from runtimed.model.bundle import ConfigBundle, Declaration, ProfileCheck
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import Payload
from runtimed.model.execution import LossReason
from runtimed.model.identity import RuntimeId, WorkerId
from runtimed.model.interaction import Attachment, WorkerInput
from runtimed.model.permission import Question, Ruling
from runtimed.model.profile import HostSandbox, ProfileSummary
from runtimed.model.runtime import RuntimeBackend, RuntimeEvent, StoreCheck, StoreKind
from runtimed.model.value import value
from runtimed.model.worker import CreateWorkerRequest
from runtimed.model.workspace import Workspace, WorkspaceDiff


class Clock(Protocol):
    """The time of day, for people to read. Order and time-outs never depend on it."""

    def unix_ms(self) -> int:
        """Return the Unix time in milliseconds."""


class Store(Protocol):
    """Keeps the data of a Runtime. It decides nothing.

    Every method may raise StoreIo, StoreMissing or StoreCorrupt. Apart from these, only what is named is raised.

    Attributes:
        backend: The name of the backend in the summary of the Runtime.
        kind: The kind of store in the summary of the Runtime.
        commit_histograms: How long commits took, and how many Changes were committed together.
    """

    backend: RuntimeBackend
    kind: StoreKind
    commit_histograms: CommitHistograms

    @property
    def event_bytes(self) -> int:
        """The bytes of the payloads of all events that are not purged, as of the newest finished commit."""

    @property
    def commit_cost_s(self) -> float:
        """The processor time of the newest finished commit outside of the event loop, in seconds.

        If several Changes were written at once, it is the share of one. Waiting for the disk does not count.
        """

    @property
    def is_full(self) -> bool:
        """Whether the disk has no space for commits, as far as is known. Costs no access to the disk."""

    @property
    def size_bytes(self) -> int:
        """The bytes that the store has on the disk, as of the newest finished commit; 0 for one in memory."""

    @property
    def free_bytes(self) -> int | None:
        """The bytes that the disk has left, as of a moment ago. None for a store in memory."""

    async def open(self, runtime_id: RuntimeId | None) -> StoredState:
        """Open the store, and load everything but transcripts and events.

        Args:
            runtime_id: The Runtime to open it for. An empty store takes it, or generates an id if it is None.

        Raises:
            StoreForeign: The store belongs to another Runtime.
            StoreInUse: Another process has it open.
            StoreUnsupported: It cannot be used.
        """

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        """Make a Change durable. Called on the event loop; returns at once.

        Changes become durable in the order of the calls, and the futures finish in that order. The store may group
        several Changes in one transaction.

        Args:
            change: Rows, events and deletions that succeed or fail together.

        Returns:
            A future of the events as encoded bytes, in the order given. It fails with StoreFull if the disk is full:
            nothing was stored, and a retry may succeed. It fails with another StoreError if the store can make no
            further promises.

        Raises:
            SerializeFailed: Something in the Change cannot be encoded. Nothing was stored.
        """

    async def read_entries(self, worker_id: WorkerId, start: int, page: PageSize) -> Sequence[Entry]:
        """Return entries with a sequence above `start`, oldest first."""

    async def newest_entries(self, worker_id: WorkerId, upto: int, page: PageSize) -> Sequence[Entry]:
        """Return the newest entries with a sequence of at most `upto`, oldest first."""

    async def read_attachments(self, worker_id: WorkerId, event: int) -> tuple[Attachment, ...]:
        """Return the attachments of the input that the event with this sequence records. Empty if there are none."""

    async def read_events(self, worker_id: WorkerId, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        """Return retained events with `after` < sequence <= `upto`, oldest first.

        The page ends before an event that is damaged or missing.

        Raises:
            StoreCorrupt: The first event is damaged or missing, or events after `after` were trimmed.
        """

    async def read_all_events(self, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        """Return the same for all Workers together, by sequence. Events of deleted Workers are left out."""

    async def read_tenant_events(self, tenant: str, after: int, upto: int, page: PageSize) -> EventPage:
        """Return the same for the Workers of a tenant together, with the sequence up to which the page is complete.

        A read looks at few events of others, so a page may be empty although the next one is not. What is damaged,
        missing or trimmed of others raises nothing.
        """

    async def oldest_events(
        self,
        worker_id: WorkerId | None,
        upto: int,
        count: int,
        spared: Collection[WorkerId] = (),
        tenant: str | None = None,
    ) -> Sequence[TrimRange]:
        """Return the oldest retained events, as one range for each Worker.

        Args:
            worker_id: Only events of this Worker, or None for all.
            upto: Only events with a sequence of at most this.
            count: How many events in all.
            spared: Workers to leave out.
            tenant: Only events of this tenant's Workers, or None for all. Ignored with a `worker_id`.
        """

    async def measure_events(self, worker_id: WorkerId, upto: int) -> int:
        """Return the bytes of the payloads of a Worker's retained events with a sequence of at most `upto`."""

    async def read_runtime_events(
        self, after: int, page: PageSize, tenant: str | None = None, workers: Collection[WorkerId] | None = None
    ) -> Sequence[RuntimeEvent]:
        """Return runtime events, oldest first.

        Args:
            after: Only those with an id above this.
            page: The size of the page.
            tenant: Only those of this tenant, or None for all.
            workers: Only those about these Workers, whatever `tenant` is; or None for all.
        """

    async def state_at(self, worker_id: WorkerId, sequence: int) -> StateAt:
        """Return the state of a Worker right after its newest event with a sequence of at most `sequence`.

        Raises:
            StoreCorrupt: That event is not retained.
        """

    async def purge(self, worker_id: WorkerId) -> bool:
        """Remove some of the rows of a deleted Worker, without delaying commits. Returns True once all are gone."""

    async def check(self) -> StoreCheck:
        """Read everything, in short pages, and report what is damaged, missing or not private. Changes nothing."""

    async def backup(self, *, with_folders: bool = False) -> "Backup":
        """Copy everything that is committed by now, while the store goes on. The caller closes the backup.

        Args:
            with_folders: Whether the backup also holds the folders of Workers. They are read while it is read.

        Raises:
            BackupUnavailable: This kind of store has no backup.
            Unavailable: Another backup is open, or changes come too fast.
            StoreFull: There is too little space for the copy, or the disk becomes full while it is made.
        """

    async def close(self) -> None:
        """Finish the commits that were handed in, and close the store. Does nothing if it is closed."""


class Backup(Protocol):
    """A backup that is ready to be read.

    Attributes:
        size_bytes: Its size; None if that shows at its end only.
    """

    size_bytes: int | None

    async def read(self) -> bytes:
        """Return the next bytes, none at the end.

        Raises:
            StoreIo: The rest cannot be read.
            StoreFull: The disk has become full. The backup can be read no longer.
            RuntimeStopped: The store or the backup is closed.
        """

    async def close(self) -> None:
        """End the backup, and give back what it takes. Does nothing if it is closed."""


class EventRefused(ValueError):
    """A backend may not emit this event; the text says why."""


@value
class WorktreeRepository:
    """The repository that a worktree belongs to, as absolute paths of the host.

    Attributes:
        common_dir: What all working trees of the repository share.
        git_dir: What is of this worktree alone.
    """

    common_dir: str
    git_dir: str


@value
class WorkingFolders:
    """The folders that a Worker's programs work in, as absolute paths of the host.

    Attributes:
        cwd: Where its programs start, or None for the Worker's own folder.
        others: Its further folders, by the environment variable that tells programs of it.
        repositories: The repositories of its worktrees, parts of which git writes to as well.
        borrowed: The folders of objects that its clones read from other repositories.
    """

    cwd: str | None = None
    others: Mapping[str, str] = attrs.field(factory=dict)
    repositories: tuple[WorktreeRepository, ...] = ()
    borrowed: tuple[str, ...] = ()


NO_FOLDERS = WorkingFolders()


@value
class Spawn:
    """A request to run a Worker. The answer says which forms of attachments its inputs may have.

    Attributes:
        worker_id: The Worker.
        request: The request that created it.
        history: The newest page of its transcript if it is restored, else None.
        max_open_text: How many characters its output in flight may have, as EventSink.emit says.
        folders: The folders of its workspaces.
        declarations: Those of its config bundle, as they were when the Worker was created.
    """

    worker_id: WorkerId
    request: CreateWorkerRequest
    history: tuple[Entry, ...] | None = None
    max_open_text: int = MAX_OPEN_TEXT
    folders: WorkingFolders = NO_FOLDERS
    declarations: tuple[Declaration, ...] = ()


@value
class Dispatch:
    """An input that is offered to a backend; `input_id` names it in `start` and `withdraw`."""

    worker_id: WorkerId
    input_id: str
    input: WorkerInput


class EventSink(Protocol):
    """Receives the events that a backend emits for one Worker. It makes the caller wait while the store is behind."""

    async def emit(self, *payloads: Payload) -> None:
        """Emit events, in order.

        An `error` ends the run: if nothing follows within a second, the Runtime adds the `run_end`. A `run_end` that
        comes later is dropped, with an alert. Events are dropped once the Worker has ended or its program is lost.

        Raises:
            EventRefused: The event is reserved for the Runtime (`user_message`, `snapshot`, `shutdown`, and the items
                of permissions and system inputs), or texts, thoughts and arguments in flight exceed `max_open_text`
                characters together.
        """

    async def ask(self, question: Question) -> Ruling:
        """Ask for a permission, and wait for the ruling.

        The end of the run and a cancellation of this call cancel the request. A request outside of a run is cancelled
        at once, and so is one more than `max_pending_permissions`.
        """

    async def lose(self, reason: LossReason, message: str) -> None:
        """Report that the Worker's program is gone, and nothing of it is left; `message` says how it ended.

        The run ends, and the Worker is `errored`. The sink accepts nothing more. To continue, spawn the Worker again.
        """


class ProfileSource(Protocol):
    """Knows what can run a Worker."""

    async def profiles(self) -> Sequence[ProfileSummary]:
        """Return the profiles by selector, each with whether a Worker can be started with it now."""

    async def check_bundle(self, bundle: ConfigBundle) -> Sequence[ProfileCheck]:
        """Return what this host would do with the Workers of each profile that a bundle offers."""

    def sandbox(self) -> HostSandbox:
        """Return how Workers are confined, unless their profile says otherwise."""

    def diagnostics(self) -> Sequence[Diagnostic]:
        """Return the diagnostics about profiles: they last as long as the daemon."""


class WorkspaceHost(Protocol):
    """Knows the workspaces of Workers, of those that have ended too."""

    async def workspaces(self, worker_id: WorkerId) -> Sequence[Workspace]:
        """Return the workspaces that were prepared for a Worker, in the order of its request."""

    async def diff(self, worker_id: WorkerId, name: str) -> WorkspaceDiff:
        """Return what was changed in a workspace since its base.

        Raises:
            WorkspaceNotFound: The Worker has no such workspace.
            WorkspaceUnavailable: It cannot be told.
        """

    async def unsaved(self, worker_id: WorkerId) -> Sequence[str]:
        """Return the names of the workspaces whose work would be lost with the Worker."""


class ExecutionBackend(Protocol):
    """Runs Workers. It refuses with a BackendAnswer, never with an exception; later events go through the sink.

    An input takes two steps, so that nothing runs that a crash could take back: `dispatch` accepts it; once it is
    committed, `start` lets it run, or else `withdraw` takes it back. A run ends with `run_end`, emitted when the next
    input would be accepted, and after everything else about its end.
    """

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        """Make a Worker ready to take inputs, or ready again, with a new sink, after a loss or a restart.

        A `cancel` meanwhile ends the attempt.
        """

    async def dispatch(self, dispatch: Dispatch) -> BackendAnswer:
        """Accept an input, or answer busy, rejected, errored or unsupported. Nothing runs yet."""

    def start(self, worker_id: WorkerId, input_id: str) -> None:
        """Let an accepted input run. Returns at once."""

    def withdraw(self, worker_id: WorkerId, input_id: str) -> None:
        """Forget an accepted input: it could not be stored. Returns at once."""

    async def interrupt(self, worker_id: WorkerId) -> BackendAnswer:
        """End the current run of a Worker, which continues. Does nothing for an unknown one.

        When it returns `accepted`, the `run_end` was emitted, or there was no run.
        """

    async def stop(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        """End a Worker gracefully. When it returns, nothing of it is left. Does nothing for an unknown one."""

    async def cancel(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        """End a Worker at once. When it returns, nothing of it is left. Does nothing for an unknown one."""

    async def delete(self, worker_id: WorkerId) -> None:
        """Remove what is kept of a Worker that has ended, such as its folder. Does nothing for an unknown one.

        Raises:
            OSError: Something of it is left. Clients may read its `strerror`. The next start calls `delete` again.
        """

    async def close(self) -> None:
        """End every Worker gracefully."""
