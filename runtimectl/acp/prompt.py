"""Turn the content blocks of a prompt into an input. Pure."""

from typing import Any, NamedTuple

from runtimectl.acp.errors import InvalidParams

Block = dict[str, Any]


class PromptInput(NamedTuple):
    """The input that a prompt becomes: its text, and its images and binary resources."""

    text: str
    attachments: tuple[dict[str, str], ...] = ()


def read_prompt(blocks: Any) -> PromptInput:
    """Return the input of a prompt.

    Raises:
        InvalidParams: A block is invalid, of a kind that is not announced, or there is no text.
    """
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise InvalidParams("prompt: expected a list of content blocks")
    texts: list[str] = []
    attachments: list[dict[str, str]] = []
    for index, block in enumerate(blocks):
        _add(block, f"prompt[{index}]", texts, attachments)
    text = "\n".join(texts)
    if not text.strip():
        raise InvalidParams("prompt: expected a text that is not blank")
    return PromptInput(text, tuple(attachments))


def _add(block: Block, place: str, texts: list[str], attachments: list[dict[str, str]]) -> None:
    kind = block.get("type")
    if kind == "text":
        texts.append(_text(block, "text", place))
    elif kind == "resource_link":
        texts.append(_link(block, place))
    elif kind == "resource":
        _add_resource(block.get("resource"), f"{place}.resource", texts, attachments)
    elif kind == "image":
        image = {"mime_type": _text(block, "mimeType", place), "data": _text(block, "data", place)}
        attachments.append({"kind": "image", **image})
    else:
        raise InvalidParams(f"{place}: expected text, image, resource or resource_link, got {kind!r}")


def _add_resource(resource: Any, place: str, texts: list[str], attachments: list[dict[str, str]]) -> None:
    if not isinstance(resource, dict):
        raise InvalidParams(f"{place}: expected an object")
    uri = _text(resource, "uri", place)
    if "text" in resource:
        texts.append(f"[{uri}]\n{_text(resource, 'text', place)}")
        return
    mime_type = resource.get("mimeType") or "application/octet-stream"
    data = _text(resource, "blob", place)
    attachments.append({"kind": "resource", "mime_type": mime_type, "data": data})


def _link(block: Block, place: str) -> str:
    uri, name = _text(block, "uri", place), block.get("name")
    return f"[{name}]({uri})" if isinstance(name, str) and name else uri


def _text(block: Block, name: str, place: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise InvalidParams(f"{place}.{name}: expected a text")
    return value
