"""Content blocks of a prompt become one input."""

from typing import Any

import pytest

from runtimectl.acp.errors import InvalidParams
from runtimectl.acp.prompt import PromptInput, read_prompt

TEXT = {"type": "text", "text": "look at"}


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"type": "text", "text": "this"}, PromptInput("look at\nthis")),
        ({"type": "resource_link", "uri": "file:///a", "name": "a"}, PromptInput("look at\n[a](file:///a)")),
        ({"type": "resource_link", "uri": "file:///a"}, PromptInput("look at\nfile:///a")),
        (
            {"type": "resource", "resource": {"uri": "file:///a", "text": "content"}},
            PromptInput("look at\n[file:///a]\ncontent"),
        ),
        (
            {"type": "resource", "resource": {"uri": "file:///a", "blob": "AA==", "mimeType": "a/b"}},
            PromptInput("look at", ({"kind": "resource", "mime_type": "a/b", "data": "AA=="},)),
        ),
        (
            {"type": "image", "mimeType": "image/png", "data": "AA=="},
            PromptInput("look at", ({"kind": "image", "mime_type": "image/png", "data": "AA=="},)),
        ),
    ],
)
def test_each_kind_of_block_is_accepted(block: dict[str, Any], expected: PromptInput) -> None:
    assert read_prompt([TEXT, block]) == expected


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (None, "prompt: expected a list of content blocks"),
        (["text"], "prompt: expected a list of content blocks"),
        ([], "prompt: expected a text that is not blank"),
        ([{"type": "text", "text": " \n"}], "prompt: expected a text that is not blank"),
        ([TEXT, {"type": "audio"}], "prompt[1]: expected text, image, resource or resource_link, got 'audio'"),
        ([TEXT, {"type": "image", "data": "AA=="}], "prompt[1].mimeType: expected a text"),
        ([{"type": "resource", "resource": 7}], "prompt[0].resource: expected an object"),
    ],
)
def test_a_wrong_prompt_says_what_is_accepted(blocks: Any, message: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        read_prompt(blocks)

    assert str(refused.value) == message
