"""Attachments of inputs: stored with them, given with them, refused where nothing takes them."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from runtimed.core import BackendAnswer, Dispatch, Runtime
from runtimed.core.ports import Store
from runtimed.core.state.attachment_rules import MAX_ATTACHMENT_CHARS, MAX_ATTACHMENTS
from runtimed.errors import InvalidRequest
from runtimed.model.identity import WorkerRef
from runtimed.model.interaction import Attachment, AttachmentForm, WorkerInput
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore
from tests.core.conftest import FakeBackend

EVERYTHING: frozenset[AttachmentForm] = frozenset({"image", "resource", "link"})
IMAGE = Attachment("image", "image/png", data="aGVsbG8=")
RESOURCE = Attachment("resource", "text/plain", data="aGVsbG8=")
LINK = Attachment("image", "image/png", uri="https://example.org/a.png")


@attrs.define(eq=False)
class TakingBackend(FakeBackend):
    """A backend that takes attachments, and keeps the inputs that it was offered."""

    offered: list[WorkerInput] = attrs.field(factory=list)

    async def dispatch(self, dispatch: Dispatch) -> BackendAnswer:
        self.offered.append(dispatch.input)
        return await super().dispatch(dispatch)


@pytest.fixture
async def backend() -> TakingBackend:
    return TakingBackend(spawned=BackendAnswer("accepted", attachments=EVERYTHING))


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    memory = MemoryStore()
    return (lambda: memory) if request.param == "memory" else lambda: SqliteStore(tmp_path / "store")


def look(*attachments: Attachment, queued: bool = False) -> WorkerInput:
    return WorkerInput("user", "look", "queue" if queued else "reject", attachments)


async def refusal(runtime: Runtime, ref: WorkerRef, *attachments: Attachment) -> str:
    with pytest.raises(InvalidRequest) as refused:
        await runtime.send_input(ref, look(*attachments))
    return refused.value.message


async def test_attachments_reach_the_backend_with_their_input(runtime: Runtime, backend: TakingBackend) -> None:
    ref = (await runtime.create_worker()).worker_ref

    await runtime.send_input(ref, look(IMAGE, RESOURCE, LINK))

    assert [message.attachments for message in backend.offered] == [(IMAGE, RESOURCE, LINK)]


async def test_a_queued_input_keeps_its_attachments_through_a_restart(
    make_store: Callable[[], Store], backend: TakingBackend
) -> None:
    async with Runtime(make_store(), backend) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        await runtime.send_input(ref, look())
        await runtime.send_input(ref, look(IMAGE, LINK, queued=True))

    again = TakingBackend(spawned=backend.spawned)
    async with Runtime(make_store(), again), asyncio.timeout(10):
        await again.started.wait()
    assert [message.attachments for message in again.offered] == [(IMAGE, LINK)]


async def test_a_backend_gets_no_attachment_that_it_does_not_take(runtime: Runtime, backend: TakingBackend) -> None:
    backend.spawned = BackendAnswer("accepted", attachments=frozenset({"link"}))
    linking = (await runtime.create_worker()).worker_ref
    backend.spawned = BackendAnswer("accepted")
    plain = (await runtime.create_worker()).worker_ref

    assert await refusal(runtime, linking, LINK, IMAGE) == (
        "attachments[1]: this Worker takes no image; it takes: link"
    )
    assert await refusal(runtime, plain, LINK) == "attachments[0]: this Worker takes no link; it takes: none"
    await runtime.send_input(linking, look(LINK))
    assert [message.attachments for message in backend.offered] == [(LINK,)]
    assert runtime.worker(plain).transcript_len == 0


@pytest.mark.parametrize(
    ("attachment", "problem"),
    [
        (Attachment("image", "png", data="aGVsbG8="), "attachments[0].mime_type: expected a media type"),
        (Attachment("image", "text/plain", data="aGVsbG8="), "attachments[0].mime_type: expected one of an image"),
        (Attachment("resource", "text/plain"), "attachments[0]: expected either data or uri"),
        (attrs.evolve(IMAGE, uri="https://example.org"), "attachments[0]: expected either data or uri"),
        (Attachment("resource", "text/plain", data="no base64"), "attachments[0].data: expected base64"),
        (Attachment("resource", "text/plain", data=""), "attachments[0].data: expected base64"),
        (Attachment("resource", "text/plain", uri="a/path"), "attachments[0].uri: expected a URI"),
        (Attachment("resource", "text/plain", uri="x:" + "y" * 2_048), "attachments[0].uri: expected a URI"),
    ],
)
async def test_a_malformed_attachment_is_refused_and_named(
    runtime: Runtime, attachment: Attachment, problem: str
) -> None:
    ref = (await runtime.create_worker()).worker_ref
    assert (await refusal(runtime, ref, attachment)).startswith(problem)


async def test_attachments_are_bounded_in_number_and_in_size(runtime: Runtime) -> None:
    ref = (await runtime.create_worker()).worker_ref
    half = attrs.evolve(RESOURCE, data="A" * (MAX_ATTACHMENT_CHARS // 2 + 4))

    assert (await refusal(runtime, ref, *[LINK] * (MAX_ATTACHMENTS + 1))).startswith(
        "attachments: expected at most 32"
    )
    assert (await refusal(runtime, ref, half, half)).startswith("attachments: expected at most 8388608 characters")
