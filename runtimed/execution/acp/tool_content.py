"""The content of a tool call, cut to bounded sizes."""

from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from typing import Any

import attrs

MAX_OUTPUT = 1 << 20
"""The most characters of the output of a tool, and of each text in a diff. A text that is cut has a mark."""

MAX_DIFFS = 256
MAX_DIFFED = 4 << 20
"""The most diffs of one tool call, and the most characters in all but the last of them."""

MAX_SUMMARY = 200
MAX_PATH = 4096
_FENCE = "```"


@attrs.frozen
class Content:
    """The content of a tool call.

    Attributes:
        text: All of its text.
        line: The first line that is not blank.
        diffs: Its diffs.
    """

    text: str = ""
    line: str = ""
    diffs: tuple[dict[str, Any], ...] = ()


class CommandOutput:
    """The beginning of the output of a command, and the size of all of it."""

    def __init__(self) -> None:
        self._kept = StringIO()
        self._size = 0

    def add(self, piece: str) -> None:
        """Add a piece."""
        self._kept.write(piece[: max(0, MAX_OUTPUT - self._size)])
        self._size += len(piece)

    def text(self) -> str:
        """Return what is kept."""
        return _marked(self._kept.getvalue(), self._size)


def content_of(blocks: Iterable[Any], home: str) -> Content:
    """Return the content of some blocks. Paths below `home` are made relative to it."""
    blocks = [block for block in blocks if isinstance(block, dict)]
    texts = tuple(_texts(blocks))
    diffs = [block for block in blocks if block.get("type") == "diff"]
    shown = tuple(_shown(diffs, home))
    more = [f"[cut: {len(diffs)} diffs in all]"] if len(diffs) > len(shown) else []
    edited = (f"edited {diff['path']}" for diff in shown)
    return Content(cut("\n".join((*more, *texts, *edited))), first_line(texts), shown)


def first_line(texts: Iterable[str]) -> str:
    """Return the first line that is not blank and does not only open a block of code."""
    for text in texts:
        for line in map(str.strip, StringIO(text)):
            if line and not line.startswith(_FENCE):
                return line[:MAX_SUMMARY]
    return ""


def cut(text: str) -> str:
    """Return the text, or its beginning and its size."""
    return _marked(text, len(text))


def as_text(value: object, otherwise: str) -> str:
    """Return a value as text if it is a text or a number; `otherwise` if it is empty or anything else."""
    return str(value) if isinstance(value, str | int | float) and value != "" else otherwise


def _texts(blocks: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for block in blocks:
        inner = block.get("content")
        if block.get("type") == "content" and isinstance(inner, dict) and isinstance(text := inner.get("text"), str):
            yield text


def _shown(diffs: Iterable[Mapping[str, Any]], home: str) -> Iterator[dict[str, Any]]:
    left = MAX_DIFFED
    for _, diff in zip(range(MAX_DIFFS), diffs, strict=False):
        if left <= 0:
            break
        old, new = (_text(diff.get(key)) for key in ("oldText", "newText"))
        left -= len(old or "") + len(new or "")
        yield {"path": _path(as_text(diff.get("path"), ""), home), "old_text": old, "new_text": new}


def _path(path: str, home: str) -> str:
    return (path.removeprefix(f"{home}/") if home else path)[:MAX_PATH]


def _text(value: object) -> str | None:
    return cut(value) if isinstance(value, str) else None


def _marked(text: str, size: int) -> str:
    """Return the beginning of a text of `size` characters, with a mark if it is cut."""
    return text if size <= MAX_OUTPUT else f"{text[:MAX_OUTPUT]}\n[cut: {size} characters in all]"
