"""Read keys from the bytes of a terminal. Pure."""

import codecs
import re
from collections.abc import Iterator

_CONTROLS = {
    "\r": "enter",
    "\n": "enter",
    "\x01": "home",
    "\x02": "left",
    "\x03": "interrupt",
    "\x04": "end_of_input",
    "\x05": "end",
    "\x06": "right",
    "\x08": "backspace",
    "\x0b": "erase_end",
    "\x0c": "redraw",
    "\x0e": "down",
    "\x10": "up",
    "\x15": "erase_line",
    "\x17": "erase_word",
    "\x7f": "backspace",
}
_SEQUENCES = {
    "A": "up",
    "B": "down",
    "C": "right",
    "D": "left",
    "H": "home",
    "F": "end",
    "1~": "home",
    "3~": "delete",
    "4~": "end",
}
_ESCAPE = re.compile(r"\x1b(?:\[|O)([0-9;]*)([A-Za-z~])")
_UNFINISHED = re.compile(r"\x1b(?:(?:\[|O)[0-9;]{0,16})?")


class KeyReader:
    """Turns bytes into keys: characters, and names for all others. Sequences may come in pieces."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting = ""

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the keys in the bytes."""
        text, self._waiting = self._waiting + self._decoder.decode(data), ""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                found = _ESCAPE.match(text, at)
                if found is None and _UNFINISHED.fullmatch(text, at):
                    self._waiting = text[at:]
                    return
                if found is not None:
                    at = found.end()
                    yield _SEQUENCES.get(found[2] if found[2] != "~" else f"{found[1]}~", "unknown")
                    continue
            yield _CONTROLS.get(text[at]) or (text[at] if text[at].isprintable() else "unknown")
            at += 1
