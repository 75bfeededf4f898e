"""Text of Workers, made safe for a terminal: control characters become escapes."""

import re
import unicodedata

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CONTROLS_IN_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_SHORT_ESCAPES = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def one_line(text: str) -> str:
    """Return the text with all control characters, line feeds too, as escapes such as `\\x1b`."""
    return _CONTROLS.sub(_escaped, text)


def escape_controls(text: str) -> str:
    """Return the text with all control characters but tabs and line feeds as escapes."""
    return _CONTROLS_IN_LINES.sub(_escaped, text)


def json_safe(encoded: str) -> str:
    """Return JSON with the same meaning, in which the control characters that JSON permits are escaped too."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", encoded)


def shortened(text: str, limit: int) -> str:
    """Return the text, cut to `limit` characters with an ellipsis at its end."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def width(text: str) -> int:
    """Return how many columns a line takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    return _SHORT_ESCAPES.get(char) or (f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}")
