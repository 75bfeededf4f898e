"""Text is broken into rows that are narrower than the terminal, whatever their characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimectl.attach.line_editor import MAX_LINE_CHARACTERS, LineEditor
from runtimectl.attach.rows import RowWrapper, fitted, wrapped
from runtimectl.output.text import width


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ("", [""]),
        ("short", ["short"]),
        ("one two three", ["one two", "three"]),
        ("unbreakableword", ["unbreakab", "leword"]),
        ("日本語日本語", ["日本語日", "本語"]),
    ],
)
def test_a_line_is_broken_between_words_or_where_it_must_be(line: str, rows: list[str]) -> None:
    assert wrapped(line, 10) == rows


@given(st.text(alphabet="ab 日\u0301"), st.integers(4, 20))
def test_every_row_fits_and_no_character_but_blanks_is_lost(line: str, columns: int) -> None:
    rows = wrapped(line, columns)

    assert all(width(row) < columns for row in rows)
    assert "".join(rows).replace(" ", "") == line.replace(" ", "")


@given(st.lists(st.text(alphabet="ab \n")), st.integers(4, 20))
def test_a_stream_has_the_same_rows_however_it_is_cut(pieces: list[str], columns: int) -> None:
    whole, cut = RowWrapper(columns), RowWrapper(columns)

    rows = whole.add("".join(pieces)) + whole.finish()

    assert [row for piece in pieces for row in cut.add(piece)] + cut.finish() == rows


def test_a_text_is_cut_to_one_row() -> None:
    assert fitted("short", 10) == "short"
    assert fitted("much too long", 10) == "much too…"
    assert width(fitted("日本語日本語", 10)) < 10


@pytest.mark.parametrize(("char", "fits"), [("x", 9), ("宽", 4)])
def test_a_long_line_is_edited_through_a_window_around_its_cursor(char: str, fits: int) -> None:
    editor = LineEditor()
    editor.text, editor.cursor = char * MAX_LINE_CHARACTERS, MAX_LINE_CHARACTERS

    at_end = editor.view(10)
    editor.press("home")

    assert at_end == (char * fits, width(char * fits))
    assert editor.view(10) == (char * fits, 0)
