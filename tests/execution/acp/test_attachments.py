"""Images and resources that go with an input."""

from base64 import b64encode
from typing import Any

import pytest

from runtimed.core.ports import Dispatch
from runtimed.model.interaction import Attachment, WorkerInput
from tests.execution.acp.conftest import ACCEPTED, NewHarness

PIXEL = b64encode(b"\x89PNG").decode()
ABLE = {"promptCapabilities": {"image": True, "embeddedContext": True}}


def encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("able", "forms"),
    [
        ({}, {"link"}),
        ({"promptCapabilities": {"image": True}}, {"link", "image"}),
        ({"promptCapabilities": {"embeddedContext": True}}, {"link", "resource"}),
        (ABLE, {"link", "image", "resource"}),
    ],
)
async def test_a_spawn_says_which_attachments_the_agent_takes(
    new_harness: NewHarness, able: dict[str, Any], forms: set[str]
) -> None:
    harness = new_harness({"capabilities": able})

    answer = await harness.spawn()

    assert answer == ACCEPTED
    assert answer.attachments == forms


@pytest.mark.parametrize(
    ("attachment", "block"),
    [
        (Attachment("image", "image/png", PIXEL), {"type": "image", "mimeType": "image/png", "data": PIXEL}),
        (
            Attachment("image", "image/png", uri="https://example.com/a/b.png?size=1"),
            {
                "type": "resource_link",
                "uri": "https://example.com/a/b.png?size=1",
                "name": "b.png",
                "mimeType": "image/png",
            },
        ),
        (
            Attachment("resource", "text/markdown", encoded("# é")),
            {"type": "resource", "resource": {"uri": "attachment:1", "mimeType": "text/markdown", "text": "# é"}},
        ),
        (
            Attachment("resource", "application/json", encoded("{}")),
            {"type": "resource", "resource": {"uri": "attachment:1", "mimeType": "application/json", "text": "{}"}},
        ),
        (
            Attachment("resource", "text/plain", PIXEL),
            {"type": "resource", "resource": {"uri": "attachment:1", "mimeType": "text/plain", "blob": PIXEL}},
        ),
        (
            Attachment("resource", "application/pdf", PIXEL),
            {"type": "resource", "resource": {"uri": "attachment:1", "mimeType": "application/pdf", "blob": PIXEL}},
        ),
        (
            Attachment("resource", "application/pdf", uri="urn:isbn:1"),
            {"type": "resource_link", "uri": "urn:isbn:1", "name": "urn:isbn:1", "mimeType": "application/pdf"},
        ),
    ],
)
async def test_an_attachment_follows_the_text_of_the_prompt(
    new_harness: NewHarness, attachment: Attachment, block: dict[str, Any]
) -> None:
    harness = new_harness({"capabilities": ABLE})
    await harness.spawn()
    given = WorkerInput("user", "Look at this", attachments=(attachment,))

    assert await harness.backend.dispatch(Dispatch(harness.worker_id, "one", given)) == ACCEPTED
    harness.backend.start(harness.worker_id, "one")
    await harness.sink.until(lambda: harness.sink.ends)

    (told,) = harness.heard("session/prompt")
    assert told["prompt"] == [{"type": "text", "text": "Look at this"}, block]
