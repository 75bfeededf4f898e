"""What a Worker wrote, made fit for a terminal: no character in it controls anything."""

import re
import unicodedata

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_KEEPING_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_NAMED = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def one_line(text: str) -> str:
    """The text with every control character, line feeds included, as an escape such as `\\x1b`."""
    return _CONTROLS.sub(_escaped, text)


def lines(text: str) -> str:
    """The text with tabs and line feeds left as they are, the other control characters as escapes."""
    return _KEEPING_LINES.sub(_escaped, text)


def json_safe(encoded: str) -> str:
    """JSON in which what JSON itself leaves unescaped is escaped as well, without a change of its meaning."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", encoded)


def shortened(text: str, limit: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def width(text: str) -> int:
    """The columns that a line takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    return _NAMED.get(char) or (f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}")
