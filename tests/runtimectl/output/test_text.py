"""Text of Workers is made safe for a terminal."""

import json

import pytest

from runtimectl.output import text

NASTY = "a\x1b[2J\x07\r\n\tb\x7f\x9b\u202e\u2028c"


def test_one_line_escapes_every_control_character() -> None:
    assert text.one_line(NASTY) == r"a\x1b[2J\x07\r\n\tb\x7f\x9b\u202e\u2028c"


def test_escape_controls_keeps_line_feeds_and_tabs() -> None:
    assert text.escape_controls(NASTY) == "a\\x1b[2J\\x07\\r\n\tb\\x7f\\x9b\\u202e\\u2028c"


def test_safe_json_keeps_its_meaning() -> None:
    safe = text.json_safe(json.dumps(NASTY, ensure_ascii=False))
    assert safe.isascii()
    assert json.loads(safe) == NASTY


def test_letters_of_all_scripts_are_kept() -> None:
    assert text.one_line("Ümläut 漢字 👍") == "Ümläut 漢字 👍"


@pytest.mark.parametrize(("shown", "columns"), [("abc", 3), ("漢字", 4), ("e\u0301", 1), ("", 0)])
def test_the_width_of_a_text_counts_terminal_columns(shown: str, columns: int) -> None:
    assert text.width(shown) == columns


def test_only_a_text_beyond_the_limit_is_cut_with_an_ellipsis() -> None:
    assert text.shortened("abcdef", 4) == "abc…"
    assert text.shortened("abcd", 4) == "abcd"
