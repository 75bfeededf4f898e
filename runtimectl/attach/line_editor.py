"""Edit one line of input. Pure: keys go in, the line comes out."""

from typing import Literal

from runtimectl.output.text import width

MAX_LINE_CHARACTERS = 100_000
MAX_HISTORY = 200

Key = str
"""A character, or the name of a key such as `left`."""

Action = Literal["enter", "end"]


class LineEditor:
    """The line that is being typed, its cursor, and the lines before.

    Attributes:
        text: The line.
        cursor: Where the next character goes.
    """

    def __init__(self) -> None:
        self.text = ""
        self.cursor = 0
        self._history: list[str] = []
        self._place = 0

    def press(self, key: Key) -> Action | None:
        """Take a key. Returns `enter` for a complete line, `end` for the end of the input on an empty line."""
        if key == "enter":
            return "enter"
        if key == "end_of_input":
            if not self.text:
                return "end"
            key = "delete"
        if len(key) == 1:
            self._insert(key)
        else:
            self._edit(key)
        return None

    def take(self) -> str:
        """Return the line and begin a new one."""
        line = self.text
        if line.strip() and self._history[-1:] != [line]:
            self._history = [*self._history, line][-MAX_HISTORY:]
        self._place = len(self._history)
        self._set("")
        return line

    def view(self, columns: int) -> tuple[str, int]:
        """Return the part of the line that fits, and the columns in front of the cursor.

        Args:
            columns: How many columns the part may take.
        """
        begin, end, before = self.cursor, self.cursor, 0
        while begin > 0 and before + width(self.text[begin - 1]) < columns:
            begin -= 1
            before += width(self.text[begin])
        size = before
        while end < len(self.text) and size + width(self.text[end]) < columns:
            size += width(self.text[end])
            end += 1
        return self.text[begin:end], before

    def _insert(self, char: str) -> None:
        if len(self.text) < MAX_LINE_CHARACTERS:
            self.text = self.text[: self.cursor] + char + self.text[self.cursor :]
            self.cursor += 1

    def _edit(self, key: Key) -> None:
        if key in {"up", "down"}:
            self._recall(-1 if key == "up" else 1)
        elif key in {"left", "right", "home", "end"}:
            self._move(key)
        else:
            self._erase(key)

    def _move(self, key: Key) -> None:
        size = len(self.text)
        places = {"left": self.cursor - 1, "right": self.cursor + 1, "home": 0, "end": size}
        self.cursor = min(max(places[key], 0), size)

    def _erase(self, key: Key) -> None:
        before, behind = self.text[: self.cursor], self.text[self.cursor :]
        match key:
            case "backspace":
                self._set(before[:-1] + behind, len(before[:-1]))
            case "delete":
                self._set(before + behind[1:], self.cursor)
            case "erase_word":
                kept = before.rstrip(" ")
                kept = kept[: kept.rfind(" ") + 1]
                self._set(kept + behind, len(kept))
            case "erase_line":
                self._set(behind, 0)
            case "erase_end":
                self._set(before)
            case _:
                pass

    def _recall(self, step: int) -> None:
        place = self._place + step
        if 0 <= place <= len(self._history):
            self._place = place
            self._set(self._history[place] if place < len(self._history) else "")

    def _set(self, text: str, cursor: int | None = None) -> None:
        self.text, self.cursor = text, len(text) if cursor is None else cursor
