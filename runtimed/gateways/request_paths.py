"""Paths of requests in one canonical form, and the patterns that they are checked against."""

import re
from typing import Self
from urllib.parse import quote, unquote_to_bytes

import attrs

PATH_RULE = "a path of visible ASCII that begins with / and has no //, no . or .. segment and no encoded / or \\"
PATTERN_RULE = "a * at the end stands for the rest, elsewhere for a part of one segment, with at most one in each"

_RAW = re.compile(r"/(?:[!$&-\[\]-~]|%[0-9A-Fa-f]{2})*", re.ASCII)
_QUERY = re.compile(r'[!"$-~]*', re.ASCII)
_ENCODED_TWICE = re.compile(r"%[0-9A-Fa-f]{2}", re.ASCII)
_HIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")
_UNESCAPED = "/!$&'()*+,;=:@"


class InvalidPath(ValueError):
    """A path could mean different things to different readers. The message says what is accepted."""


@attrs.frozen
class RequestPath:
    """The target of a request.

    Attributes:
        path: The decoded path. It begins with `/`.
        query: The query as it was sent, without the `?`.
    """

    path: str
    query: str = ""

    @classmethod
    def parse(cls, target: str) -> Self:
        """Read the target of a request line.

        Raises:
            InvalidPath: The target is no path, or the upstream could read another path from it than the gateway.
        """
        raw, _, query = target.partition("?")
        if not _RAW.fullmatch(raw) or not _QUERY.fullmatch(query):
            raise InvalidPath(f"expected {PATH_RULE}")
        segments = [_decoded(segment) for segment in raw.split("/")]
        if not all(segments[1:-1]):
            raise InvalidPath(f"expected {PATH_RULE}")
        return cls("/".join(segments), query)

    @property
    def encoded(self) -> str:
        """The path and the query as they are sent on: what was checked, encoded again."""
        path = quote(self.path, safe=_UNESCAPED)
        return f"{path}?{self.query}" if self.query else path


@attrs.frozen
class PathPattern:
    """A path in which `*` stands for at least one character: at the end for the rest, elsewhere within a segment."""

    segments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a pattern.

        Raises:
            ValueError: It is no path, or it has a query or two `*` in a segment.
        """
        if "?" in text:
            raise ValueError(f"{text!r}: expected a path without a query; every query is passed on")
        try:
            path = RequestPath.parse(quote(text, safe=_UNESCAPED)).path
        except InvalidPath as error:
            raise ValueError(f"{text!r}: {error}") from None
        segments = tuple(path.split("/"))
        if any(segment.count("*") > 1 for segment in segments):
            raise ValueError(f"{text!r}: {PATTERN_RULE}")
        return cls(segments)

    def matches(self, path: str) -> bool:
        """Return whether a decoded path fits."""
        splits = len(self.segments) - 1 if self.segments[-1].endswith("*") else -1
        parts = path.split("/", splits)
        return len(parts) == len(self.segments) and all(map(_fits, self.segments, parts))

    def __str__(self) -> str:
        return "/".join(self.segments)


def _fits(pattern: str, text: str) -> bool:
    head, star, tail = pattern.partition("*")
    if not star:
        return text == pattern
    return len(text) > len(head) + len(tail) and text.startswith(head) and text.endswith(tail)


def _decoded(segment: str) -> str:
    try:
        text = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise InvalidPath(f"expected {PATH_RULE}, in UTF-8") from None
    # Some servers cut what follows a ";" from a segment before they look for "..".
    dots = text.partition(";")[0] in {".", ".."}
    if dots or "/" in text or _HIDDEN.search(text) or _ENCODED_TWICE.search(text):
        raise InvalidPath(f"expected {PATH_RULE}")
    return text
