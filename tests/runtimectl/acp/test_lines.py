"""Bytes of an editor become messages, however they are cut and however long they are."""

import pytest

from runtimectl.acp.stdio import LineBuffer


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"one\ntwo\n"], [b"one", b"two"]),
        ([b"o", b"ne\nt", b"wo", b"\n"], [b"one", b"two"]),
        ([b"\n \r\none\n"], [b"one"]),
        ([b"0123456789\n"], [b"0123456789"]),
        ([b"0123456789a", b"bc\nnext\n"], [b"0123456789", b"next"]),
        ([b"01234", b"56789ab", b"c" * 100, b"\nnext\n"], [b"0123456789", b"next"]),
        ([b"without an end"], [b"without an"]),
        ([b"no end"], []),
    ],
)
def test_each_line_is_one_message_and_a_long_one_is_cut(pieces: list[bytes], lines: list[bytes]) -> None:
    buffer = LineBuffer(10)

    assert [line for piece in pieces for line in buffer.feed(piece)] == lines
