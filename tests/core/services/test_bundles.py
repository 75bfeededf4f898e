"""Workers that are created from a config bundle: what their backend is told of it."""

from pathlib import Path

import attrs
import pytest

from runtimed.core import Runtime
from runtimed.core.state.decisions.creation import MAX_DECLARATION_CHARACTERS, MAX_DECLARATIONS
from runtimed.errors import InvalidRequest
from runtimed.model.bundle import BundleMetadata, BundleProfile, ConfigBundle, Declaration, Provenance
from runtimed.model.digest import bundle_digest
from runtimed.model.worker import BundleReference, CreateWorkerRequest, RuntimeDefaultProfile
from runtimed.store.sqlite import SqliteStore
from tests.core.conftest import FakeBackend

SECRET = Declaration("secret_ref", "credential", "secret:github-token")
MOUNT = Declaration("mount_grant", "documents", "mount:docs")


def bundle(*declarations: Declaration) -> ConfigBundle:
    metadata = BundleMetadata("b", "", "1", "workspace-1", "2026-06-26T00:00:00Z", Provenance("test"))
    unsigned = ConfigBundle(metadata, (BundleProfile(RuntimeDefaultProfile()),), declarations)
    return attrs.evolve(unsigned, metadata=attrs.evolve(metadata, digest=bundle_digest(unsigned)))


def request_from(held: ConfigBundle) -> CreateWorkerRequest:
    return CreateWorkerRequest(config_bundle=BundleReference(held.metadata.id, held.metadata.digest))


async def test_a_spawn_has_the_declarations_of_the_bundle(runtime: Runtime, backend: FakeBackend) -> None:
    held = bundle(SECRET, MOUNT)
    await runtime.put_bundle(held)

    await runtime.create_worker(request_from(held))
    await runtime.create_worker()

    assert backend.declarations == [(SECRET, MOUNT), ()]


async def test_a_worker_keeps_the_declarations_though_its_bundle_is_replaced_and_the_runtime_restarted(
    tmp_path: Path, backend: FakeBackend
) -> None:
    held = bundle(SECRET)
    async with Runtime(SqliteStore(tmp_path / "store.db"), backend) as runtime:
        await runtime.put_bundle(held)
        worker = await runtime.create_worker(request_from(held))
        await runtime.put_bundle(bundle(MOUNT))

    async with Runtime(SqliteStore(tmp_path / "store.db"), backend) as runtime:
        restored = await runtime.restore_worker(worker.worker_ref)

    assert backend.declarations == [(SECRET,), (SECRET,)]
    assert restored.config_bundle == worker.config_bundle


@pytest.mark.parametrize(
    "declarations",
    [
        (SECRET,) * (MAX_DECLARATIONS + 1),
        (attrs.evolve(SECRET, reference=f"secret:{'x' * MAX_DECLARATION_CHARACTERS}"),),
    ],
    ids=["many", "long"],
)
async def test_a_bundle_that_declares_more_than_a_worker_can_keep_creates_none(
    declarations: tuple[Declaration, ...], runtime: Runtime
) -> None:
    held = bundle(*declarations)
    await runtime.put_bundle(held)

    with pytest.raises(InvalidRequest, match="config_bundle: expected a bundle with at most 256 declarations"):
        await runtime.create_worker(request_from(held))

    assert runtime.workers() == ()
