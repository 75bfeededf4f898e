"""The fast parser and the exact parser agree on every body, in linear time."""

import gc
import json
import math
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtimed.wire.json import LARGE_BYTES, MAX_VALUES, _any, _has_too_many_values, _texts, parse
from runtimed.wire.problems import FieldProblem

SPELLINGS = [
    '"',
    '\\"',
    "\\u0022",
    "\\\\",
    "\\\\u0022",
    "\\n",
    "\\ud800",
    "\\ud83d\\ude00",
    "\\u00e9",
    "é",
    "a",
    "\x00",
]
"""Pieces of a JSON string literal: quotation marks in each notation, and characters that may hide one."""

literals = st.lists(st.sampled_from(SPELLINGS[1:-1]), max_size=6).map(lambda pieces: f'"{"".join(pieces)}"')
broken_literals = st.lists(st.sampled_from(SPELLINGS), max_size=6).map(lambda pieces: f'"{"".join(pieces)}"')
names = st.sampled_from(['"a"', '"b"', '"\\u0061"', '""', '"\\""'])
values = literals | st.sampled_from(["1", "null", "true", "[]", "{}", '{"a":"b"}', '["a","a"]', "NaN", "-", ""])


def written(pairs: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}"


objects = st.lists(st.tuples(names | literals, literals), max_size=4).map(written)
odd_objects = st.lists(st.tuples(names | broken_literals, values | broken_literals), max_size=4).map(written)


def outcome(read: Callable[[bytes], object], body: bytes) -> object:
    try:
        return read(body)
    except FieldProblem as problem:
        return problem.problem, problem.path


@given(objects | odd_objects | st.text(max_size=40))
@example('{"a":"x","a":"\\u0022\\u0022"}')
@example('{"a":"\\u0022\\u0022\\u0022\\u0022","a":"x"}')
@example('{"a":"x","\\u0061":"y"}')
@example('{"a":{"b":"x","b":"y"}}')
@example("\ufeff{}")
def test_the_fast_and_the_exact_parser_agree_on_every_text(text: str) -> None:
    body = text.encode()
    assert outcome(parse, body) == outcome(_any, body)


@given(st.binary(max_size=60))
@example(b'{"a":"\xed\xa0\x80"}')
@example(b'{"a":"\xff"}')
def test_the_fast_and_the_exact_parser_agree_on_any_bytes(body: bytes) -> None:
    assert outcome(parse, body) == outcome(_any, body)


@given(st.dictionaries(st.text(), st.text().filter(lambda text: '"' not in text or "\\" not in text), max_size=4))
def test_an_object_of_texts_in_the_usual_notation_takes_the_fast_parser(value: dict[str, str]) -> None:
    body = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    assert _texts(body) == outcome(_any, body) == value


@pytest.mark.parametrize(
    "body",
    [b'{"a":"x","a":"y"}', b'{"a":1}', b'{"a":"x","b":["y"]}', b'["x"]', b'"x"', b'{"a":"\\u0022"}', b"{", b""],
)
def test_any_other_body_takes_the_exact_parser(body: bytes) -> None:
    assert _texts(body) is None


def test_an_object_of_too_many_texts_is_refused() -> None:
    body = json.dumps({str(number): "" for number in range(MAX_VALUES)}).encode()
    with pytest.raises(FieldProblem, match="too many values"):
        parse(body)


HOSTILE = {
    "escaped quotation marks": b'"\\',
    "brackets": b"[",
    "empty texts": b'""',
    "escapes": b"\\u0041",
    "broken escapes": b"\\u",
    "a text of escapes": b'"' + b"\\u0041",
    "backslashes": b"\\",
    "quotation marks and commas": b'","',
    "objects": b'{"a":',
    "fields": b'"a":"\\"",',
    "lines": b"\n",
    "digits": b"1",
    "not UTF-8": b"\xff",
}
SIZE = 2**20
GRAIN_S = 0.02
"""The CPU time below which growth cannot be measured."""


def least_cpu_s(bodies: list[bytes], enough: Callable[..., bool], rounds: int = 3) -> list[float]:
    """Measure the least CPU time of parsing each body, in turns, so that other load affects all alike.

    It takes these rounds at least, and up to 20 until the times are `enough`.
    """
    found = [math.inf for _ in bodies]
    gc.disable()
    try:
        for number in range(1, 21):
            for index, body in enumerate(bodies):
                began = time.thread_time()
                outcome(parse, body)
                found[index] = min(found[index], time.thread_time() - began)
            if number >= rounds and enough(*found):
                break
    finally:
        gc.enable()
    return found


@pytest.mark.parametrize(
    "frame", [b"%b", b'{"content":"%b"}', b'{"a":"%b', b"[%b]"], ids=["bare", "text", "open", "list"]
)
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_body_of_twice_the_size_takes_less_than_three_times_as_long_to_read(kind: str, frame: bytes) -> None:
    unit = HOSTILE[kind]

    def body(size: int) -> bytes:
        return frame.replace(b"%b", unit * (size // len(unit)))

    def in_step(once: float, twice: float) -> bool:
        return twice < 3 * max(once, GRAIN_S)

    [large] = least_cpu_s([body(LARGE_BYTES)], lambda taken: taken < 1, rounds=1)
    assert large < 1
    once, twice = least_cpu_s([body(SIZE), body(2 * SIZE)], in_step)
    assert in_step(once, twice), (once, twice)


def test_a_comma_in_a_text_of_a_large_body_separates_no_values() -> None:
    text = 'a,\\"b,' * LARGE_BYTES

    assert parse(json.dumps({"a": text, "b": 1}).encode()) == {"a": text, "b": 1}


def has_too_many(body: bytes) -> bool:
    """Count the same as the product, byte by byte."""
    commas = texts = place = 0
    while place < len(body):
        if body[place : place + 1] == b",":
            commas += 1
        elif body[place : place + 1] == b'"':
            texts, place = texts + 1, place + 1
            while place < len(body) and body[place : place + 1] != b'"':
                place += 2 if body[place : place + 1] == b"\\" else 1
        place += 1
    return commas > MAX_VALUES or texts > 2 * MAX_VALUES


@given(
    st.lists(st.sampled_from([b'"', b",", b"\\", b'\\"', b"a", b"\n", b"[", b"]"]), min_size=1, max_size=12),
    st.integers(1, 9_000),
)
@example([b'"', b"1,2,3\\n", b'"'], 10)
@example([b'"', b"\\", b'"', b","], 9_000)
def test_the_values_of_a_body_are_counted_outside_of_its_texts(pieces: list[bytes], times: int) -> None:
    body = b"".join(pieces) * times
    assert _has_too_many_values(body) == has_too_many(body)


def test_a_large_text_of_lines_with_commas_is_one_value() -> None:
    content = "1,2,3\r\n" * 20_000

    assert parse(json.dumps({"kind": "user", "content": content}).encode()) == {"kind": "user", "content": content}
