"""What a tool gave, as far as it is told on; the rest of it is not held."""

from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from typing import Any

import attrs

MAX_OUTPUT = 1 << 20
"""Characters of the output of a tool, and of each text in a diff, which say so where they are cut."""

MAX_DIFFS = 256
MAX_DIFFED = 4 << 20
"""How many diffs of one tool call are told, and how many characters may be in those before the last of them."""

MAX_SUMMARY = 200
MAX_PATH = 4096
_FENCE = "```"


@attrs.frozen
class Content:
    """The content of a tool call: all of its text, the first line that says something, and the diffs."""

    text: str = ""
    line: str = ""
    diffs: tuple[dict[str, Any], ...] = ()


class Printed:
    """What a command has printed: its beginning, and how many characters there were in all."""

    def __init__(self) -> None:
        self._kept = StringIO()
        self._size = 0

    def add(self, piece: str) -> None:
        """Take some more."""
        self._kept.write(piece[: max(0, MAX_OUTPUT - self._size)])
        self._size += len(piece)

    def text(self) -> str:
        """What is kept of it."""
        return _marked(self._kept.getvalue(), self._size)


def content_of(blocks: Iterable[Any], home: str) -> Content:
    """The content in these blocks. Paths below `home` are told from there."""
    blocks = [block for block in blocks if isinstance(block, dict)]
    texts = tuple(_texts(blocks))
    diffs = [block for block in blocks if block.get("type") == "diff"]
    shown = tuple(_shown(diffs, home))
    more = [f"[cut: {len(diffs)} diffs in all]"] if len(diffs) > len(shown) else []
    edited = (f"edited {diff['path']}" for diff in shown)
    return Content(cut("\n".join((*more, *texts, *edited))), first_line(texts), shown)


def first_line(texts: Iterable[str]) -> str:
    """The first line that says something: not one that only opens a block of code."""
    for text in texts:
        for line in map(str.strip, StringIO(text)):
            if line and not line.startswith(_FENCE):
                return line[:MAX_SUMMARY]
    return ""


def cut(text: str) -> str:
    """The text, or its beginning and how long it is."""
    return _marked(text, len(text))


def told_text(told: object, otherwise: str) -> str:
    """What an agent has told, where that is a text or a number and says something; a structure is none of them."""
    return str(told) if isinstance(told, str | int | float) and told != "" else otherwise


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
        yield {"path": _path(told_text(diff.get("path"), ""), home), "old_text": old, "new_text": new}


def _path(path: str, home: str) -> str:
    return (path.removeprefix(f"{home}/") if home else path)[:MAX_PATH]


def _text(told: object) -> str | None:
    return cut(told) if isinstance(told, str) else None


def _marked(text: str, size: int) -> str:
    """A text of `size` characters, of which enough is there; what is missing is said."""
    return text if size <= MAX_OUTPUT else f"{text[:MAX_OUTPUT]}\n[cut: {size} characters in all]"
