"""How output that comes in chunks becomes lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimed.execution.processes.lines import Chunk, LineBuffer


def _fed(buffer: LineBuffer, *parts: bytes) -> list[Chunk]:
    return [chunk for part in parts for chunk in buffer.feed(part)]


def test_lines_are_passed_on_when_they_are_whole() -> None:
    buffer = LineBuffer()
    assert _fed(buffer, b"one", b" line\ntwo\nth", b"ree\n") == [Chunk(b"one line\ntwo\n"), Chunk(b"three\n")]
    assert list(buffer.close()) == []


def test_a_line_ends_with_a_line_feed_and_nothing_else() -> None:
    assert Chunk(b"a\rb\x0bc\x0c\x85\nd\r\ne").lines() == [b"a\rb\x0bc\x0c\x85\n", b"d\r\n", b"e"]


def test_the_last_line_may_lack_its_line_feed() -> None:
    buffer = LineBuffer()
    assert _fed(buffer, b"whole\nhalf") == [Chunk(b"whole\n")]
    assert list(buffer.close()) == [Chunk(b"half")]


def test_a_line_that_is_too_long_comes_in_pieces_and_the_next_is_whole_again() -> None:
    buffer = LineBuffer(max_line_bytes=4)
    assert _fed(buffer, b"ab", b"cde", b"f", b"g\nnext\nrest") == [
        Chunk(b"abcde", partial=True),
        Chunk(b"f", partial=True),
        Chunk(b"g\n", partial=True),
        Chunk(b"next\n"),
    ]
    assert list(buffer.close()) == [Chunk(b"rest")]


@given(st.lists(st.text(alphabet="ab\n", max_size=12).map(str.encode)), st.integers(1, 6))
def test_nothing_is_lost_and_what_is_whole_ends_with_a_line_feed(parts: list[bytes], limit: int) -> None:
    buffer = LineBuffer(limit)
    chunks = _fed(buffer, *parts)
    last = list(buffer.close())
    assert b"".join(chunk.data for chunk in chunks + last) == b"".join(parts)
    assert all(chunk.data.endswith(b"\n") for chunk in chunks if not chunk.partial)
    assert all(b"\n" not in chunk.data[:-1] for chunk in chunks if chunk.partial)
    assert all(len(chunk.data) <= limit for chunk in last)


@pytest.mark.parametrize(
    ("begun", "shown", "kept"),
    [
        (b"name? ", b"name? ", b""),
        (b"whole\nhalf", b"half", b""),
        (b'text{"event":', b"text", b'{"event":'),
        (b"text{", b"text", b"{"),
        (b"f(x) {return", b"f(x) {return", b""),
        (b'{"event":', b"", b'{"event":'),
        (b"  {", b"", b"  {"),
        (b"\xef\xbb\xbf{", b"", b"\xef\xbb\xbf{"),
        (b"", b"", b""),
    ],
)
def test_a_line_that_has_begun_is_shown_up_to_where_an_object_may_begin(
    begun: bytes, shown: bytes, kept: bytes
) -> None:
    buffer = LineBuffer()
    _fed(buffer, begun)
    assert buffer.can_show == bool(shown)
    assert list(buffer.show()) == [Chunk(shown, partial=True)] * bool(shown)
    assert _fed(buffer, b"\n") == [Chunk(kept + b"\n")]
