"""What the clients of one tenant see of a Runtime, make in it, and may use of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from runtimed.core import Runtime, Store
from runtimed.core.engine.worker_registry import WorkerFilter
from runtimed.core.limits import Limits, TenantLimits
from runtimed.core.state.change import StateAt
from runtimed.errors import (
    ConfigBundleDigestMismatch,
    ConfigBundleMissing,
    Forbidden,
    InvalidRequest,
    RateLimited,
    RuntimedError,
    StoreCorrupt,
    StoreError,
    StoreIo,
    WorkerNotFound,
)
from runtimed.model.bundle import BundleMetadata, BundleProfile, ConfigBundle, Provenance
from runtimed.model.digest import bundle_digest
from runtimed.model.event import SystemItem
from runtimed.model.idempotency import IdempotencyKey
from runtimed.model.identity import WorkerId, WorkerRef
from runtimed.model.interaction import WorkerInput
from runtimed.model.permission import PermissionOption, Question
from runtimed.model.principal import ADMIN, Principal
from runtimed.model.runtime import RuntimeEvent
from runtimed.model.worker import BuiltinProfile, BundleReference, CreateWorkerRequest, RuntimeDefaultProfile
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore
from runtimed.wire.converter import encode_payload
from tests.core.conftest import FakeBackend, MakeStore

ACME, OTHER = Principal("a", "admin", "acme"), Principal("b", "admin", "other")
HELLO = WorkerInput("user", "hello")
QUESTION = Question("run it?", None, (PermissionOption("yes", "Yes", "allow_once"),), timeout_s=60)


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    memory = MemoryStore()
    return (lambda: memory) if request.param == "memory" else lambda: SqliteStore(tmp_path / "store")


@contextlib.asynccontextmanager
async def running(
    store: Store, backend: FakeBackend, tenants: Mapping[str, TenantLimits] | None = None, **limits: int
) -> AsyncIterator[Runtime]:
    async with Runtime(store, backend, limits=Limits(**limits), tenants=tenants) as runtime:
        yield runtime


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def labeled(principal: Principal, **labels: str) -> Principal:
    return attrs.evolve(principal, labels=tuple(labels.items()))


def bundle_of(name: str, revision: str, profile: str = "builtin:coder") -> ConfigBundle:
    metadata = BundleMetadata(name, "0" * 64, revision, "workspace-1", "2026-06-26T00:00:00Z", Provenance("test"))
    made = ConfigBundle(metadata, (BundleProfile(BuiltinProfile(profile)),))
    return attrs.evolve(made, metadata=attrs.evolve(metadata, digest=bundle_digest(made)))


def reference_to(bundle: ConfigBundle) -> BundleReference:
    return BundleReference(bundle.metadata.id, bundle.metadata.digest)


async def made(runtime: Runtime, principal: Principal, **labels: str) -> WorkerRef:
    request = CreateWorkerRequest(labels=labels)
    return (await runtime.create_worker(request, principal=principal)).worker_ref


async def error_of(call: Coroutine[Any, Any, object]) -> RuntimedError:
    with pytest.raises(RuntimedError) as raised:
        await call
    return raised.value


def ids(runtime: Runtime, principal: Principal) -> list[WorkerId]:
    return [worker.worker_id for worker in runtime.workers(principal=principal)]


async def recorded(runtime: Runtime, principal: Principal) -> list[tuple[str, WorkerId | None]]:
    return [(event.kind, event.worker_id) for event in await runtime.runtime_events(principal=principal)]


async def test_a_worker_belongs_to_the_tenant_of_the_token_that_creates_it_for_good(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    async with running(make_store(), backend) as runtime:
        for principal in (ACME, OTHER, ADMIN):
            await made(runtime, principal)
        await runtime.send_input(runtime.ref("worker-00000001"), HELLO)
        await runtime.stop_worker(runtime.ref("worker-00000001"))

    async with running(make_store(), backend) as runtime:
        found = {worker.worker_id: worker.tenant for worker in runtime.workers()}
        seen = [ids(runtime, principal) for principal in (ACME, OTHER)]
        findings = (await runtime.check()).findings

    assert found == {"worker-00000001": "acme", "worker-00000002": "other", "worker-00000003": None}
    assert seen == [["worker-00000001"], ["worker-00000002"]]
    assert findings == ()


async def test_a_client_sees_only_what_belongs_to_its_tenant(make_store: MakeStore, backend: FakeBackend) -> None:
    async with running(make_store(), backend) as runtime:
        own, foreign, free = [await made(runtime, principal) for principal in (ACME, OTHER, ADMIN)]
        for ref in (own, foreign, free):
            await runtime.send_input(ref, HELLO)
        sinks = [backend.sinks[ref.worker_id] for ref in (own, foreign, free)]
        asking = [asyncio.create_task(sink.ask(QUESTION)) for sink in sinks]
        await until(lambda: len(runtime.all_permissions()) == 3)

        summary = runtime.summary(principal=ACME)
        about = {diagnostic.worker_id for diagnostic in runtime.diagnostics(principal=ACME)}
        permissions = [one.worker_id for one in runtime.all_permissions(principal=ACME)]
        history = await recorded(runtime, ACME)

        assert ids(runtime, ACME) == [own.worker_id]
        assert (summary.worker_count, summary.active_worker_count, summary.diagnostic_count) == (1, 1, 2)
        assert runtime.summary().worker_count == 3
        assert about == {own.worker_id}
        assert permissions == [own.worker_id]
        assert history == [("worker_created", own.worker_id), ("worker_input_accepted", own.worker_id)]
        for ref in (own, foreign, free):
            await runtime.cancel_worker(ref)
        await asyncio.gather(*asking)


async def test_the_worker_of_another_tenant_is_refused_as_one_that_does_not_exist(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    async with running(make_store(), backend) as runtime:
        foreign, missing = await made(runtime, OTHER), runtime.ref("worker-00000009")

        async def calls(ref: WorkerRef, principal: Principal) -> list[tuple[type[RuntimedError], str]]:
            refusals = []
            for read in (runtime.worker, runtime.permissions):
                with pytest.raises(RuntimedError) as raised:
                    read(ref, principal=principal)
                refusals.append(raised.value)
            commands = (
                runtime.transcript(ref, principal=principal),
                runtime.workspaces(ref, principal=principal),
                runtime.workspace_diff(ref, "cwd", principal=principal),
                runtime.send_input(ref, HELLO, principal=principal),
                runtime.send_input(ref, HELLO, principal=principal, key=IdempotencyKey.of("k", body=b"")),
                runtime.interrupt_worker(ref, principal=principal),
                runtime.restore_worker(ref, principal=principal),
                runtime.answer_permission(ref, "r", None, principal=principal),
                runtime.stop_worker(ref, principal=principal),
                runtime.cancel_worker(ref, principal=principal),
                runtime.delete_worker(ref, principal=principal),
            )
            errors = [*refusals, *[await error_of(call) for call in commands]]
            return [(type(error), error.message.replace(ref.worker_id, "ID")) for error in errors]

        refused = await calls(foreign, ACME)

        assert refused == await calls(missing, ACME)
        assert {kind for kind, _ in refused} == {WorkerNotFound}
        assert runtime.worker(foreign).status == "running"
        assert runtime.worker(foreign).transcript_len == 0


async def test_the_labels_of_a_token_narrow_what_its_client_sees(make_store: MakeStore, backend: FakeBackend) -> None:
    async with running(make_store(), backend, max_event_batch_items=2) as runtime:
        red, blue = await made(runtime, ACME, team="red"), await made(runtime, ACME, team="blue")
        foreign = await made(runtime, OTHER, team="blue")

        assert ids(runtime, labeled(ACME, team="blue")) == [blue.worker_id]
        assert ids(runtime, labeled(ACME, team="blue", more="x")) == []
        assert ids(runtime, labeled(ADMIN, team="blue")) == [blue.worker_id, foreign.worker_id]
        assert runtime.workers(WorkerFilter(labels={"team": "red"}), principal=labeled(ACME, team="blue")) == ()
        assert await recorded(runtime, labeled(ADMIN, team="blue")) == [
            ("worker_created", blue.worker_id),
            ("worker_created", foreign.worker_id),
        ]
        with pytest.raises(WorkerNotFound):
            runtime.worker(red, principal=labeled(ACME, team="blue"))


async def test_a_page_of_history_for_a_token_with_labels_is_one_read_whatever_others_do(
    backend: FakeBackend,
) -> None:
    reads = list[int]()

    class CountingStore(MemoryStore):
        async def read_runtime_events(self, after: int, *wanted: Any) -> Sequence[RuntimeEvent]:
            reads.append(after)
            return await super().read_runtime_events(after, *wanted)

    async with running(CountingStore(), backend, max_event_batch_items=2) as runtime:
        for _ in range(10):
            await made(runtime, ACME, team="blue")
        red = await made(runtime, ACME, team="red")

        assert await recorded(runtime, labeled(ACME, team="red")) == [("worker_created", red.worker_id)]
        assert reads == [0]


async def test_a_worker_gets_the_labels_of_the_token_that_creates_it(backend: FakeBackend) -> None:
    principal = labeled(ACME, team="red")
    async with running(MemoryStore(), backend) as runtime:
        created = await runtime.create_worker(CreateWorkerRequest(labels={"a": "b"}), principal=principal)
        same = await runtime.create_worker(CreateWorkerRequest(labels={"team": "red"}), principal=principal)
        refused = await error_of(
            runtime.create_worker(CreateWorkerRequest(labels={"team": "x"}), principal=principal)
        )

        assert (created.labels, same.labels) == ({"a": "b", "team": "red"}, {"team": "red"})
        assert type(refused) is Forbidden
        assert refused.message == "labels.team: expected red: the labels of the token are those of its Workers"
        assert runtime.summary().worker_count == 2


async def test_a_repeat_of_a_create_shows_no_worker_that_the_token_has_lost_sight_of(backend: FakeBackend) -> None:
    key = IdempotencyKey.of("same", body=b"")
    async with running(MemoryStore(), backend) as runtime:
        first = await runtime.create_worker(principal=ACME, key=key)

        assert (await runtime.create_worker(principal=ACME, key=key)).worker_id == first.worker_id
        for narrower in (OTHER, labeled(ACME, team="red")):
            assert type(await error_of(runtime.create_worker(principal=narrower, key=key))) is WorkerNotFound


async def test_the_history_of_deleted_workers_stays_with_their_tenant(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    async with running(make_store(), backend) as runtime:
        ref = await made(runtime, ACME)
        await runtime.stop_worker(ref)
        await runtime.delete_worker(ref, principal=ACME)

        kinds = [kind for kind, _ in await recorded(runtime, ACME)]

        assert kinds == ["worker_created", "worker_stopped"]
        assert await recorded(runtime, OTHER) == await recorded(runtime, labeled(ACME, team="red")) == []


async def test_tenants_have_bundles_of_their_own(make_store: MakeStore, backend: FakeBackend) -> None:
    ours, theirs, free = bundle_of("same", "1"), bundle_of("same", "2", "builtin:x"), bundle_of("free", "1")
    async with running(make_store(), backend) as runtime:
        for bundle, principal in ((ours, ACME), (theirs, OTHER), (free, ADMIN)):
            await runtime.put_bundle(bundle, principal=principal)

    async with running(make_store(), backend) as runtime:
        listed = {
            principal.tenant: [(one.id, one.revision, one.tenant) for one in runtime.bundles(principal=principal)]
            for principal in (ACME, OTHER, ADMIN)
        }
        narrowed = {
            principal.tenant: [one.id for one in runtime.bundles(principal=labeled(principal, team="red"))]
            for principal in (ACME, ADMIN)
        }
        assert narrowed == {"acme": ["same"], None: ["free", "same", "same"]}
        assert listed == {
            "acme": [("same", "1", "acme")],
            "other": [("same", "2", "other")],
            None: [("free", "1", None), ("same", "1", "acme"), ("same", "2", "other")],
        }
        for bundle in (ours, theirs, free):
            assert runtime.bundle_availability(reference_to(bundle)).summary.revision == bundle.metadata.revision
        assert runtime.bundle_availability(reference_to(ours), principal=ACME).summary.tenant == "acme"
        with pytest.raises(ConfigBundleDigestMismatch):
            runtime.bundle_availability(reference_to(theirs), principal=ACME)
        for principal in (ACME, labeled(ACME, team="red")):
            with pytest.raises(ConfigBundleMissing):
                runtime.bundle_availability(reference_to(free), principal=principal)

        def request(bundle: ConfigBundle) -> CreateWorkerRequest:
            profile = bundle.profiles[0].selector
            assert not isinstance(profile, RuntimeDefaultProfile)
            return CreateWorkerRequest(profile=profile, config_bundle=reference_to(bundle))

        created = await runtime.create_worker(request(theirs), principal=OTHER)
        assert created.config_bundle == reference_to(theirs)
        for bundle, principal, expected in (
            (theirs, ACME, ConfigBundleDigestMismatch),
            (free, ACME, ConfigBundleMissing),
            (ours, ADMIN, ConfigBundleMissing),
        ):
            assert type(await error_of(runtime.create_worker(request(bundle), principal=principal))) is expected


async def test_a_replaced_bundle_leaves_that_of_another_tenant_as_it_was(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    async with running(make_store(), backend, max_bundles=2) as runtime:
        await runtime.put_bundle(bundle_of("same", "1"), principal=ACME)
        await runtime.put_bundle(bundle_of("same", "2"), principal=OTHER)
        await runtime.put_bundle(bundle_of("same", "3"), principal=ACME)

        assert [one.revision for one in runtime.bundles()] == ["3", "2"]
        assert type(await error_of(runtime.put_bundle(bundle_of("same", "4")))) is InvalidRequest


async def test_a_tenant_creates_no_more_workers_than_it_may_have_whatever_others_have(backend: FakeBackend) -> None:
    async with running(MemoryStore(), backend, {"acme": TenantLimits(max_workers=2)}) as runtime:
        await made(runtime, OTHER)
        backend.gate.clear()
        creating = [asyncio.create_task(runtime.create_worker(principal=ACME)) for _ in range(4)]
        await asyncio.wait(creating, return_when=asyncio.FIRST_EXCEPTION)
        backend.gate.set()
        outcomes = await asyncio.gather(*creating, return_exceptions=True)

        refused = [one for one in outcomes if isinstance(one, RuntimedError)]
        assert [type(one) for one in refused] == [InvalidRequest, InvalidRequest]
        assert len(ids(runtime, ACME)) == 2
        await made(runtime, OTHER)
        first = runtime.ref(ids(runtime, ACME)[0])
        await runtime.stop_worker(first)
        await runtime.delete_worker(first)
        await made(runtime, ACME)


async def test_a_tenant_that_creates_workers_too_fast_is_told_to_wait(backend: FakeBackend) -> None:
    key = IdempotencyKey.of("same", body=b"")
    async with running(MemoryStore(), backend, {"acme": TenantLimits(max_creates_per_s=0.001)}) as runtime:
        first = await runtime.create_worker(principal=ACME, key=key)

        refused = await error_of(runtime.create_worker(principal=ACME))

        assert isinstance(refused, RateLimited)
        assert 990 < refused.retry_after_s <= 1_000
        assert (await runtime.create_worker(principal=ACME, key=key)).worker_id == first.worker_id
        await made(runtime, OTHER)
        await made(runtime, ADMIN)
        assert runtime.summary().worker_count == 3


EVENT = SystemItem({"kind": "said", "text": "x" * 100})
EVENT_BYTES = len(encode_payload(EVENT))


async def chatter(runtime: Runtime, backend: FakeBackend, ref: WorkerRef, count: int) -> None:
    """Emit so many events of a Worker, and wait until they are published."""
    upto = runtime.head + count
    for _ in range(count):
        await backend.say(ref.worker_id, EVENT)
    await until(lambda: runtime.head >= upto)


async def test_the_events_of_a_tenant_beyond_its_bytes_go_and_those_of_others_stay(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    limits = {"acme": TenantLimits(max_event_bytes=20_000)}
    async with running(make_store(), backend, limits) as runtime:
        refs = [await made(runtime, principal) for principal in (ACME, OTHER, ACME)]
        for _ in range(10):
            for ref in refs:
                await chatter(runtime, backend, ref, 20)
        first, foreign, second = refs

        def bytes_left(*of: WorkerRef) -> int:
            return sum(runtime.row(ref).retained for ref in of) * EVENT_BYTES

        await until(lambda: bytes_left(first, second) <= 20_000)

        assert bytes_left(first, second) > 15_000
        assert (runtime.retained_after(foreign), runtime.row(foreign).retained) == (0, 200)
        assert min(runtime.row(first).retained, runtime.row(second).retained) > 20
        assert runtime.tenant_retained_after("other") == 0
        kept = await runtime.tenant_events("other", 0)
        assert {event.worker_id for event in kept.events} == {foreign.worker_id}

    async with running(make_store(), backend, {"other": TenantLimits(max_event_bytes=10_000)}) as runtime:
        before = runtime.retained_after(first)
        await until(lambda: runtime.row(foreign).retained * EVENT_BYTES <= 10_000)
        assert runtime.row(foreign).retained > 50
        assert runtime.retained_after(first) == before
        runtime.reload_tenants({"acme": TenantLimits(max_event_bytes=5_000)})
        await until(lambda: sum(runtime.row(ref).retained for ref in (first, second)) * EVENT_BYTES <= 5_000)


async def test_a_tenant_may_fill_the_bytes_that_its_deleted_workers_had(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    async with running(make_store(), backend, {"acme": TenantLimits(max_event_bytes=30_000)}) as runtime:
        gone, kept = await made(runtime, ACME), await made(runtime, ACME)
        await chatter(runtime, backend, gone, 150)
        await runtime.cancel_worker(gone)
        await runtime.delete_worker(gone)

        await chatter(runtime, backend, kept, 150)

        assert runtime.retained_after(kept) == 0


class FailingStore(MemoryStore):
    """A store that cannot measure the events of some Workers."""

    def __init__(self) -> None:
        super().__init__()
        self.errors = dict[WorkerId, StoreError]()
        self.failed = 0

    async def measure_events(self, worker_id: WorkerId, upto: int) -> int:
        if worker_id in self.errors:
            self.failed += 1
            raise self.errors[worker_id]
        return await super().measure_events(worker_id, upto)


async def test_events_that_could_not_be_measured_are_measured_again(backend: FakeBackend) -> None:
    store = FailingStore()
    async with running(store, backend) as runtime:
        ref = await made(runtime, ACME)
        await chatter(runtime, backend, ref, 100)
        store.errors[ref.worker_id] = StoreIo("the disk does not answer")
        runtime.reload_tenants({"acme": TenantLimits(max_event_bytes=5_000)})
        await until(lambda: store.failed > 0)
        store.errors.clear()

        await chatter(runtime, backend, ref, 1)

        await until(lambda: runtime.row(ref).retained * EVENT_BYTES <= 5_000)


async def test_a_worker_whose_events_are_damaged_keeps_no_others_from_being_trimmed(backend: FakeBackend) -> None:
    store = FailingStore()
    async with running(store, backend) as runtime:
        damaged, *others = [await made(runtime, ACME) for _ in range(3)]
        for ref in others:
            await chatter(runtime, backend, ref, 100)
        store.errors[damaged.worker_id] = StoreCorrupt("a page is damaged")

        runtime.reload_tenants({"acme": TenantLimits(max_event_bytes=5_000)})

        await until(lambda: sum(runtime.row(ref).retained for ref in others) * EVENT_BYTES <= 5_000)


async def test_a_trim_that_a_deletion_overtakes_expires_no_cursor_of_the_tenant(backend: FakeBackend) -> None:
    reading, may_read = asyncio.Event(), asyncio.Event()

    class HeldStore(MemoryStore):
        async def state_at(self, worker_id: WorkerId, sequence: int) -> StateAt:
            reading.set()
            await may_read.wait()
            return await super().state_at(worker_id, sequence)

    async with running(HeldStore(), backend, {"acme": TenantLimits(max_event_bytes=5_000)}) as runtime:
        kept, gone = await made(runtime, ACME), await made(runtime, ACME)
        await chatter(runtime, backend, kept, 1)
        await chatter(runtime, backend, gone, 100)
        await reading.wait()
        for ref in (gone, kept):
            await runtime.cancel_worker(ref)
            await runtime.delete_worker(ref)
        may_read.set()
        fresh = await made(runtime, ACME)
        await chatter(runtime, backend, fresh, 10)

        assert runtime.tenant_retained_after("acme") == runtime.fleet_retained_after == 0
        assert len((await runtime.tenant_events("acme", 0)).events) == 10
