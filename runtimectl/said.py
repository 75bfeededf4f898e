"""The text of a run on stdout, as it comes."""

import sys
from typing import Any

from runtimectl.text import lines


class SaidText:
    """Prints the text that a Worker says, each piece once, with its control characters as escapes.

    A text that is done ends its line.
    """

    def __init__(self) -> None:
        self._printed = 0
        self._in_line = False

    def see(self, payload: dict[str, Any]) -> None:
        """Print what is new in an event, if it is text."""
        name, text = payload["event"], (payload.get("data") or {}).get("text", "")
        if name == "text_delta":
            self._printed += len(text)
            self._print(text)
        elif name == "text_done":
            self._print(text[self._printed :])
            self._printed = 0
            self.end_line()

    def end_line(self) -> None:
        """End the line that is open."""
        if self._in_line:
            self._print("\n")

    def _print(self, text: str) -> None:
        if text:
            sys.stdout.write(lines(text))
            sys.stdout.flush()
            self._in_line = not text.endswith("\n")
