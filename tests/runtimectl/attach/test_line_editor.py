from collections.abc import Sequence

import pytest

from runtimectl.attach.line_editor import LineEditor


@pytest.mark.parametrize(
    ("keys", "left", "cursor"),
    [
        ((*"one", "home", "delete"), "ne", 0),
        ((*"one", "home", "end_of_input"), "ne", 0),
        ((*"one", "left", "left", "left", "left", "right", "backspace"), "ne", 0),
        ((*"one two ", "erase_word"), "one ", 4),
        ((*"one", "left", "erase_line"), "e", 0),
        ((*"one", "left", "erase_end"), "on", 2),
        ((*"one", "interrupt"), "one", 3),
        (("up", "up", "up"), "first", 5),
        (("up", "up", "down"), "second", 6),
        (("up", "down", "down"), "", 0),
    ],
)
def test_a_key_edits_the_line(keys: Sequence[str], left: str, cursor: int) -> None:
    editor = LineEditor()
    for line in ("first", "second"):
        for key in line:
            editor.press(key)
        assert editor.take() == line

    for key in keys:
        assert editor.press(key) is None

    assert (editor.text, editor.cursor) == (left, cursor)


def test_enter_completes_a_line_and_the_end_of_the_input_an_empty_one() -> None:
    editor = LineEditor()

    assert editor.press("end_of_input") == "end"
    editor.press("a")
    assert editor.press("enter") == "enter"
