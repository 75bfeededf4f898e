"""Bytes of a terminal become keys, however they are cut."""

import pytest

from runtimectl.attach.keys import KeyReader


def keys(*pieces: bytes) -> list[str]:
    reader = KeyReader()
    return [key for piece in pieces for key in reader.feed(piece)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a\xc3\xb6\r", ["a", "ö", "enter"]),
        (b"\x03\x04\x7f", ["interrupt", "end_of_input", "backspace"]),
        (b"\x1b[A\x1bOB\x1b[3~\x1b[H", ["up", "down", "delete", "home"]),
        (b"\x1b[1;5C", ["right"]),
        (b"\x1b[200~x", ["unknown", "x"]),
        (b"\x1bx", ["unknown", "x"]),
        (b"\xffa", ["�", "a"]),
    ],
)
def test_each_key_has_its_character_or_its_name(data: bytes, expected: list[str]) -> None:
    assert keys(data) == expected


def test_characters_and_sequences_may_come_in_pieces() -> None:
    assert keys(b"\xc3", b"\xb6\x1b", b"[", b"Ab") == ["ö", "up", "b"]
