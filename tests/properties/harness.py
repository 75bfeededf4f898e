"""The harness: a Runtime with its restarts, its clients and its observers, next to a model of what must hold."""

import asyncio
import logging
import traceback
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import attrs

from runtimed.core import BackendAnswer, Runtime
from runtimed.core.limits import Limits
from runtimed.core.paging import PageSize
from runtimed.core.state.change import EncodedEvent
from runtimed.errors import (
    ConfigBundleDigestMismatch,
    ConfigBundleMissing,
    InvalidRequest,
    PermissionNotFound,
    RuntimeStopped,
    StoreFull,
    WorkerExecutionRejected,
    WorkerExecutionUnavailable,
    WorkerNotFound,
    WorkerRunning,
)
from runtimed.feed import Feed
from runtimed.model.bundle import BundleMetadata, BundleProfile, ConfigBundle, Provenance
from runtimed.model.digest import bundle_digest
from runtimed.model.execution import Outcome
from runtimed.model.idempotency import IdempotencyKey
from runtimed.model.identity import WorkerId, WorkerRef, cursor_of, worker_number
from runtimed.model.interaction import InputKind, WhenBusy, WorkerInput
from runtimed.model.permission import PermissionOption, Question, Ruling
from runtimed.model.worker import BuiltinProfile, BundleReference, CreateWorkerRequest
from tests.properties.fakes import CrashableFolder, CrashableMemory, FakeBackend, FakeClock, StoreValve
from tests.properties.model import INTERRUPTED, SAYINGS, Story, behind
from tests.properties.watcher import Watcher

PATIENCE_S = 10
"""The deadline of anything that must happen."""

WIDE = PageSize(100_000, 2**30)
ENDED = {"stop": "stopped", "cancel": "cancelled"}
UNKNOWN = "some other"
PROFILE = BuiltinProfile("builtin:coder")
ALLOW = PermissionOption("yes", "Allow", "allow_once")
REJECT = PermissionOption("no", "Reject", "reject_once")


@attrs.define(eq=False)
class Request:
    """A request to the Runtime.

    Attributes:
        kind: What was requested; `_{kind}_answered` checks the answer.
        calm: Nothing else was going on, so the answer is certain.
        head: The newest sequence when it was made.
        about: What it carries.
        before: The status of the Worker when it was made.
    """

    kind: str
    task: asyncio.Task[Any]
    calm: bool
    head: int
    _story: Story | None = None
    about: Any = None
    before: str = ""

    @property
    def story(self) -> Story:
        """The Worker that it is about."""
        assert self._story is not None, self.kind
        return self._story


@attrs.define(eq=False)
class Life:
    """A Runtime between its start and its close or crash.

    Attributes:
        first: The sequence of the first event that it can publish.
    """

    valve: StoreValve
    backend: FakeBackend
    runtime: Runtime
    feed: Feed
    first: int
    published: list[EncodedEvent] = attrs.field(factory=list)
    closing: bool = False
    over: bool = False


class ErrorLog(logging.Handler):
    """Collects the errors that the Runtime logs. None is expected."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


class Harness:
    """Makes requests, observes and restarts a Runtime, and checks the answers against a model.

    Attributes:
        stories: The models of all Workers that ever existed.
        events: All events that were stored.
        gapless: Nothing has happened so far that may lose numbers.
        fleeting: The titles of permission requests that expire at once.
    """

    def __init__(
        self,
        storage: CrashableMemory | CrashableFolder,
        limits: Limits,
        ring_bytes: int,
        make: Callable[..., Runtime],
    ) -> None:
        self.storage = storage
        self.limits = limits
        self.stories: list[Story] = []
        self.watchers: list[Watcher] = []
        self.requests: list[Request] = []
        self.events: list[EncodedEvent] = []
        self.told: dict[WorkerId, list[EncodedEvent]] = defaultdict(list)
        self.bundles: dict[str, set[str]] = {}
        self.begun: set[str] = set()
        self.asking: dict[str, asyncio.Task[Ruling]] = {}
        self.fleeting: set[str] = set()
        self.faults: list[str] = []
        self.clock = FakeClock()
        self.disturbed = False
        self.gapless = True
        self._ring_bytes = ring_bytes
        self._make = make
        self._life: Life | None = None
        self._lost_creations = 0
        self._newest_number = 0
        self._counted = 0
        self._error_log = ErrorLog()
        logging.getLogger("runtimed").addHandler(self._error_log)

    @property
    def life(self) -> Life:
        assert self._life is not None
        return self._life

    @property
    def runtime(self) -> Runtime:
        return self.life.runtime

    @property
    def present(self) -> list[Story]:
        return [story for story in self.stories if not story.deleted]

    @property
    def calm(self) -> bool:
        """Whether nothing can interfere between a request and its answer."""
        valve, backend = self.life.valve, self.life.backend
        return backend.may.is_set() and not (
            valve.shut or valve.full or self.requests or self.disturbed or busy_workers()
        )

    def ref(self, story: Story) -> WorkerRef:
        return self.runtime.ref(story.worker_id)

    def seam(self, worker_id: WorkerId | None) -> int | None:
        """Return the sequence after which a Worker's events, or all, are in memory; None if nobody observes them."""
        return next((log._ring.begins_after for log in self.life.feed._logs.get(worker_id, ())), None)

    def count(self) -> int:
        self._counted += 1
        return self._counted

    # Requests

    def _ask(
        self, kind: str, work: Coroutine[Any, Any, Any], story: Story | None = None, about: Any = None
    ) -> Request:
        calm, before = self.calm, story.status if story else ""
        self.interfere()
        task = asyncio.get_running_loop().create_task(work)
        self.requests.append(Request(kind, task, calm, self.runtime.head, story, about, before))
        return self.requests[-1]

    def create(self, labels: dict[str, str], revision: int | None, outcome: Outcome) -> Request:
        """Request a Worker, with the bundle of this revision if there is one."""
        self.life.backend.spawned = BackendAnswer(outcome, "as the test says")
        asked = CreateWorkerRequest(labels=labels)
        if revision is not None:
            metadata = bundle_of(f"bundle-{revision % 2}", revision).metadata
            bundle = BundleReference(metadata.id, metadata.digest)
            asked = CreateWorkerRequest(labels=labels, profile=PROFILE, config_bundle=bundle)
        return self._ask("create", self.runtime.create_worker(asked), about=asked)

    def put_bundle(self, revision: int) -> Request:
        made = bundle_of(f"bundle-{revision % 2}", revision)
        self.bundles.setdefault(made.metadata.id, set()).add(made.metadata.digest)
        return self._ask("bundle", self.runtime.put_bundle(made), about=made)

    def send(
        self, story: Story, kind: InputKind, outcome: Outcome, when_busy: WhenBusy = "reject", *, keyed: bool = False
    ) -> Request:
        content = f"input {self.count()}"
        self.life.backend.answers[content] = BackendAnswer(outcome, "as the test says")
        if when_busy != "reject":
            story.patient.add(content)
        key = key_of(story, content) if keyed else None
        if keyed:
            story.keyed.append(content)
        work = self.runtime.send_input(self.ref(story), WorkerInput(kind, content, when_busy), key=key)
        return self._ask("input", work, story, content)

    def repeat(self, story: Story, which: int) -> Request | None:
        """Repeat an acknowledged request with its idempotency key."""
        acked = [content for content in story.keyed if content in story.acked]
        if not acked:
            return None
        content = acked[which % len(acked)]
        message, key = WorkerInput("user", content), key_of(story, content)
        return self._ask("repeat", self.runtime.send_input(self.ref(story), message, key=key), story, content)

    def interrupt(self, story: Story) -> Request:
        return self._ask("interrupt", self.runtime.interrupt_worker(self.ref(story)), story)

    def restore(self, story: Story, outcome: Outcome) -> Request:
        self.life.backend.spawned = BackendAnswer(outcome, "as the test says")
        return self._ask("restore", self.runtime.restore_worker(self.ref(story)), story)

    def want(self, story: Story, timeout_s: float) -> None:
        """Let a Worker ask for a permission. Only the test answers."""
        sink = self.life.backend.sinks.get(story.worker_id)
        if sink is not None:
            title = f"permission {self.count()}"
            question = Question(title, None, (ALLOW, REJECT), timeout_s)
            self.interfere()
            name = None
            if not timeout_s:
                self.fleeting.add(title)
                name = f"{story.worker_id} asks"
            self.asking[title] = asyncio.get_running_loop().create_task(sink.ask(question), name=name)

    def answer(self, story: Story, which: int, option: str | None) -> Request | None:
        """Answer one of the pending permission requests."""
        try:
            waiting = self.runtime.permissions(self.ref(story))
        except WorkerNotFound:
            return None
        if not waiting:
            return None
        asked = waiting[which % len(waiting)]
        work = self.runtime.answer_permission(self.ref(story), asked.request_id, option)
        return self._ask("answer", work, story, asked.title)

    def end(self, story: Story, operation: str) -> Request:
        ref, runtime = self.ref(story), self.runtime
        asks: dict[str, Callable[[WorkerRef], Coroutine[Any, Any, object]]] = {
            "stop": runtime.stop_worker,
            "cancel": runtime.cancel_worker,
            "delete": runtime.delete_worker,
        }
        return self._ask(operation, asks[operation](ref), story)

    def say(self, story: Story, kinds: Sequence[str]) -> Request | None:
        sink = self.life.backend.sinks.get(story.worker_id)
        if sink is None:
            return None
        payloads = [SAYINGS[kind](self.count()) for kind in kinds]

        async def emit() -> None:
            story.said += payloads
            await sink.emit(*payloads)

        return self._ask("say", emit(), story)

    def interfere(self) -> None:
        """Note that the answers to pending requests are no longer certain."""
        for request in self.requests:
            request.calm = False

    async def wait(self, request: Request) -> None:
        """Wait for the answer, unless none can come: on a full disk a backend that ends a run may have to wait."""
        valve = self.life.valve
        held = valve.full and request.kind == "interrupt"
        if self.life.backend.may.is_set() and not valve.shut and not held:
            await asyncio.wait([request.task], timeout=PATIENCE_S)
            self.complain()
            assert request.task.done(), f"no answer to {request}"

    async def hang_up(self, request: Request) -> None:
        """Cancel the client's wait for the answer. A stop that has begun still takes place."""
        if request.kind in ENDED and request.before == "running":
            request.story.kept_end = True
        request.task.cancel()
        await asyncio.wait([request.task])

    async def disk(self, what: str) -> None:
        """Make the disk slow, fast, full or empty."""
        self.interfere()
        valve = self.life.valve
        valve.shut = valve.shut if what in {"full", "empty"} else what == "slow"
        valve.full = valve.full if what in {"slow", "fast"} else what == "full"
        self.disturbed |= valve.full
        self.gapless &= not valve.full
        if not valve.shut:
            valve.release()

    async def pass_time(self, turns: int, writes: int, seconds: int) -> None:
        """Run the event loop, let a slow disk finish some writes, and advance the clock."""
        self.clock.now_ms += 1_000 * seconds
        self.life.valve.release(writes)
        for _ in range(turns):
            await asyncio.sleep(0)

    # Answers

    def collect(self) -> None:
        """Check the answers that have arrived."""
        for request in tuple(self.requests):
            if request.task.done():
                self.requests.remove(request)
                if request.task.cancelled():
                    self._doubt(request)
                elif self.life.closing and isinstance(request.task.exception(), RuntimeStopped):
                    self._turned_away(request)
                else:
                    getattr(self, f"_{request.kind}_answered")(request, request.task.exception())

    def _turned_away(self, request: Request) -> None:
        """Record a refusal by a closing Runtime. Nothing was done, though a Worker may have been created."""
        if request.kind == "input":
            request.story.refused.add(request.about)
        else:
            self._doubt(request)

    def _doubt(self, request: Request) -> None:
        """Record that the outcome of a request is unknown."""
        self.disturbed = True
        if request.kind == "create":
            self._lost_creations += 1
        elif request.kind == "bundle":
            self.bundles[request.about.metadata.id].add(UNKNOWN)
        elif request.kind == "input":
            request.story.unanswered.add(request.about)
        elif request.kind in ENDED:
            request.story.may_end = True
        elif request.kind == "delete":
            request.story.may_go = True

    def _say_answered(self, request: Request, error: BaseException | None) -> None:
        assert error is None, error

    def _bundle_answered(self, request: Request, error: BaseException | None) -> None:
        assert error is None or (isinstance(error, StoreFull) and not request.calm), error
        metadata = request.about.metadata
        self.bundles[metadata.id] = {metadata.digest} if request.calm else self.bundles[metadata.id] | {UNKNOWN}

    def _create_answered(self, request: Request, error: BaseException | None) -> None:
        if isinstance(error, ConfigBundleMissing | ConfigBundleDigestMismatch):
            wanted = request.about.config_bundle
            assert not request.calm or self.bundles.get(wanted.id) != {wanted.digest}
        elif error is not None:
            assert isinstance(error, StoreFull), error
            assert not request.calm
        else:
            detail = request.task.result()
            wanted = request.about.config_bundle
            assert wanted is None or wanted.digest in self.bundles[wanted.id]
            assert detail.labels == request.about.labels
            self._born(detail.worker_id, detail.labels)

    def _born(self, worker_id: WorkerId, labels: dict[str, str]) -> None:
        number = worker_number(worker_id)
        assert number is not None
        assert worker_id not in {story.worker_id for story in self.stories}, "a number was given out twice"
        assert number > self._newest_number, "a number of an earlier life was given out again"
        connected = self._life is not None and worker_id in self._life.backend.sinks
        self.stories.append(Story(worker_id, labels, self.told[worker_id], connected=connected))

    def _input_answered(self, request: Request, error: BaseException | None) -> None:
        story, content = request.story, request.about
        backend = self.life.backend
        able = request.before == "running" and story.connected
        if error is None:
            ack = request.task.result()
            assert ack.worker_ref == self.ref(story)
            told = [event for event in story.told if cursor_of(event.sequence) == ack.cursor]
            assert told, "an input was acknowledged that is not stored"
            assert told[0].sequence > request.head
            story.acked[content] = ack
            return
        story.refused.add(content)
        if isinstance(error, WorkerExecutionRejected):
            assert content in backend.refused or "wait" in error.message
        elif isinstance(error, WorkerNotFound):
            assert story.deleted or story.may_go or not request.calm
        elif isinstance(error, InvalidRequest | WorkerExecutionUnavailable):
            assert not (request.calm and able), error
        else:
            assert isinstance(error, StoreFull), error
            assert not request.calm

    def _repeat_answered(self, request: Request, error: BaseException | None) -> None:
        assert error is None, f"a repeat has another answer: {error}"
        assert request.task.result() == request.story.acked[request.about], "a repeat has another answer"

    def _interrupt_answered(self, request: Request, error: BaseException | None) -> None:
        if isinstance(error, WorkerNotFound):
            assert request.story.deleted or request.story.may_go or not request.calm
        elif error is not None:
            assert isinstance(error, StoreFull), error
            assert not request.calm

    def _restore_answered(self, request: Request, error: BaseException | None) -> None:
        story = request.story
        if error is None:
            story.connected = True
        elif isinstance(error, WorkerExecutionUnavailable | InvalidRequest):
            assert request.before != "running" or not (request.calm and story.connected)
        else:
            self._interrupt_answered(request, error)

    def _answer_answered(self, request: Request, error: BaseException | None) -> None:
        if isinstance(error, PermissionNotFound):
            assert not request.calm or request.about in self.fleeting
        else:
            self._interrupt_answered(request, error)

    def _stop_answered(self, request: Request, error: BaseException | None) -> None:
        story = request.story
        if error is None:
            ack = request.task.result()
            assert ack.status in ENDED.values()
            if story.status == "running" and request.calm:
                assert ack.status == ENDED[request.kind]
            assert story.status in {"running", ack.status}
            assert story.told, "a stop was acknowledged that is not stored"
            assert ack.cursor == cursor_of(story.told[-1].sequence)
            story.status = ack.status
        elif isinstance(error, StoreFull):
            assert not request.calm
            story.may_end = story.kept_end = True
        else:
            assert isinstance(error, WorkerNotFound), error
            assert story.deleted or not request.calm

    _cancel_answered = _stop_answered

    def _delete_answered(self, request: Request, error: BaseException | None) -> None:
        story = request.story
        if error is None:
            assert not request.calm or request.before != "running"
            story.deleted = True
        elif isinstance(error, WorkerRunning):
            assert not request.calm or request.before == "running"
        elif isinstance(error, WorkerNotFound):
            assert story.deleted or not request.calm
        else:
            assert isinstance(error, StoreFull), error
            assert not request.calm

    # Starts, closes and crashes

    async def start(self, *, full: bool = False) -> None:
        """Start a Runtime on what the last one has stored."""
        store = self.storage.store()

        def stored(events: Sequence[EncodedEvent]) -> None:
            if not (self._life is not None and self._life.over):
                self.store(events)

        valve = StoreValve(store, stored)
        valve.full = full
        backend = FakeBackend(on_start=self._started, on_interrupt=self._interrupted)
        backend.may.set()
        self._life = None
        for watcher in self.watchers:
            watcher.visit = None
        for story in self.present:
            story.expect_cut()
        about = {"limits": self.limits, "clock": self.clock, "runtime_id": "runtime-test", "restore": "never"}
        runtime = self._make(valve, backend, **about)
        await runtime.start()
        self._life = Life(valve, backend, runtime, Feed(runtime, self._ring_bytes), runtime.head + 1)
        runtime.subscribe(self)
        self.disturbed = full
        self.gapless &= not full

    def store(self, events: Sequence[EncodedEvent]) -> None:
        """Record events that the store has made durable."""
        for event in events:
            self.events.append(event)
            self.told[event.worker_id].append(event)

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        life = self.life
        if life.over:
            return
        newest = life.published[-1].sequence if life.published else life.first - 1
        if not all(event in self.told[worker_id] for event in events):
            self.faults.append(f"published before it was stored: {events}")
        if [newest, *(event.sequence for event in events)] != sorted({newest, *(e.sequence for e in events)}):
            self.faults.append(f"published out of order: {events} behind {newest}")
        life.published += events

    def changed(self, worker_id: WorkerId) -> None: ...

    def forget(self, worker_id: WorkerId) -> None: ...

    def _interrupted(self, worker_id: WorkerId) -> None:
        for story in self.stories:
            if story.worker_id == worker_id:
                story.said.append(INTERRUPTED)

    def _started(self, worker_id: WorkerId, content: str) -> None:
        if self.life.over:
            return
        if content not in Story(worker_id, {}, self.told[worker_id]).inputs():
            self.faults.append(f"{content} was started before it was stored")
        if content in self.begun:
            self.faults.append(f"{content} was started twice")
        self.begun.add(content)

    async def _ask_no_more(self) -> None:
        """Cancel all permission requests: the backend is gone."""
        for asking in self.asking.values():
            asking.cancel()
        await asyncio.gather(*self.asking.values(), return_exceptions=True)
        self.asking.clear()

    async def close(self) -> None:
        """Close the Runtime, and check that each request has an answer and each observer has seen everything."""
        life = self.life
        life.closing = True
        life.valve.shut = False
        life.valve.release()
        life.backend.may.set()
        life.feed.close()
        for watcher in self.watchers:
            watcher.flowing.set()
        visits = [
            watcher.visit for watcher in self.watchers if watcher.visit is not None and not watcher.visit.done()
        ]
        if visits:
            _, pending = await asyncio.wait(visits, timeout=PATIENCE_S)
            assert not pending, "an observer was not told of the end"
        await asyncio.wait_for(life.runtime.close(), PATIENCE_S)
        if self.requests:
            await asyncio.wait([request.task for request in self.requests], timeout=PATIENCE_S)
        self.collect()
        assert not self.requests
        await self._ask_no_more()
        life.over = True

    async def crash(self) -> None:
        """Crash: go on with the store as it is now, and ignore the old Runtime."""
        life = self.life
        self.collect()
        self.storage.crash()
        life.over = True
        self.gapless = False
        for watcher in self.watchers:
            watcher.deaf = True
        for request in self.requests:
            request.task.cancel()
        if self.requests:
            await asyncio.wait([request.task for request in self.requests])
        for request in self.requests:
            self._doubt(request)
        self.requests.clear()
        await self.let_go()

    async def let_go(self) -> None:
        """Close the Runtime in whatever state it is."""
        life = self.life
        life.over = True
        for watcher in self.watchers:
            await watcher.leave()
        life.valve.shut = life.valve.full = False
        life.valve.release()
        life.backend.may.set()
        life.feed.close()
        await asyncio.wait_for(life.runtime.close(), PATIENCE_S)
        await self._ask_no_more()

    async def check_store(self, *, crashed: bool) -> None:
        """Compare the store with everything that was published, and adopt what a crash kept from being published."""
        store = self.storage.store()
        state = await store.open(None)
        found = {worker.worker_id: worker for worker in state.workers}
        self.adopt({name: worker.request.labels for name, worker in found.items()})
        self._newest_number = max([0, *(worker_number(story.worker_id) or 0 for story in self.stories)])
        for story in self.present:
            if story.worker_id not in found:
                assert story.may_go, f"{story.worker_id} is lost"
                story.deleted = story.lost = True
                continue
            worker = found[story.worker_id]
            events = await store.read_events(story.worker_id, worker.retained_after, worker.last_sequence, WIDE)
            known = len(behind(story.told, worker.retained_after))
            assert list(events[:known]) == behind(story.told, worker.retained_after), f"{story.worker_id} lost events"
            assert crashed or len(events) == known
            self.store(events[known:])
            entries = await store.read_entries(story.worker_id, 0, WIDE)
            assert [(e.role, e.content, e.event) for e in entries] == story.transcript()
            assert worker.status == story.status or story.may_end
            story.status = worker.status
            story.said = story.said_and_told()
            story.connected = False
        self.events.sort(key=lambda event: event.sequence)
        await store.close()
        for story in self.stories:
            story.may_end = story.may_go = story.kept_end = False

    def adopt(self, labels: Mapping[WorkerId, dict[str, str]]) -> None:
        """Add models of Workers whose creators never got the answer."""
        for worker_id in sorted(labels.keys() - {story.worker_id for story in self.stories}):
            assert self._lost_creations > 0, f"nobody has created {worker_id}"
            self._lost_creations -= 1
            self._born(worker_id, labels[worker_id])

    def tear_down(self) -> None:
        logging.getLogger("runtimed").removeHandler(self._error_log)
        self.storage.remove()

    def object_to(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Record an error that would otherwise be lost: in a callback, or in a task that nobody awaits."""
        if error := context.get("exception"):
            self.faults.append("".join(traceback.format_exception(error)))

    def complain(self) -> None:
        """Fail if errors were recorded or logged."""
        assert not self.faults, self.faults
        assert not self._error_log.found, self._error_log.found


def busy_workers() -> list[str]:
    """Return the names of the Runtime's tasks that work for a Worker."""
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith(("worker-", "idempotent"))]


def key_of(story: Story, content: str) -> IdempotencyKey:
    """Return the idempotency key of an input."""
    return IdempotencyKey.of(story.worker_id, content, body=content.encode())


def bundle_of(name: str, revision: int) -> ConfigBundle:
    """Make a bundle that offers one profile."""
    metadata = BundleMetadata(name, "", str(revision), "workspace-1", "2026-06-26T00:00:00Z", Provenance("test"))
    made = ConfigBundle(metadata, (BundleProfile(PROFILE),))
    return attrs.evolve(made, metadata=attrs.evolve(metadata, digest=bundle_digest(made)))
