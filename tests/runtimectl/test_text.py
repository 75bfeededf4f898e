"""Text out of a Worker, made fit for a terminal."""

import json

import pytest

from runtimectl import text

NASTY = "a\x1b[2J\x07\r\n\tb\x7f\x9b\u202e\u2028c"


def test_one_line_leaves_no_character_that_controls_anything():
    assert text.one_line(NASTY) == r"a\x1b[2J\x07\r\n\tb\x7f\x9b\u202e\u2028c"


def test_lines_keeps_line_feeds_and_tabs_alone():
    assert text.lines(NASTY) == "a\\x1b[2J\\x07\\r\n\tb\\x7f\\x9b\\u202e\\u2028c"


def test_json_keeps_its_meaning_when_it_is_made_safe():
    safe = text.json_safe(json.dumps(NASTY, ensure_ascii=False))
    assert safe.isascii()
    assert json.loads(safe) == NASTY


def test_letters_of_every_script_stay_as_they_are():
    assert text.one_line("Ümläut 漢字 👍") == "Ümläut 漢字 👍"


@pytest.mark.parametrize(("shown", "columns"), [("abc", 3), ("漢字", 4), ("e\u0301", 1), ("", 0)])
def test_the_width_of_a_text_is_that_on_a_terminal(shown, columns):
    assert text.width(shown) == columns


def test_a_long_text_is_cut_with_an_ellipsis_and_a_short_one_is_not():
    assert text.shortened("abcdef", 4) == "abc…"
    assert text.shortened("abcd", 4) == "abcd"
