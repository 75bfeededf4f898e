"""Many requests, several at a time."""

import threading

import pytest

from runtimectl import pool
from runtimectl.errors import Denied

NAMES = [f"worker-{number:08x}" for number in range(10 * pool.MAX_AT_ONCE)]
DEADLINE_S = 20


def test_as_many_are_asked_at_once_as_may_be_and_no_more():
    together, lock, asked = threading.Barrier(pool.MAX_AT_ONCE), threading.Lock(), [0, 0]

    def ask(name):
        with lock:
            asked[0] += 1
            asked[1] = max(asked)
        together.wait(DEADLINE_S)
        with lock:
            asked[0] -= 1
        return name

    assert list(pool.answers(ask, NAMES)) == NAMES
    assert asked == [0, pool.MAX_AT_ONCE]


def test_answers_come_in_the_order_of_the_questions_whichever_is_there_first():
    last = threading.Event()

    def ask(name):
        if name == "first":
            assert last.wait(DEADLINE_S)
        else:
            last.set()
        return name

    assert list(pool.answers(ask, ["first", "last"])) == ["first", "last"]


def test_what_is_refused_is_raised_and_no_more_is_asked():
    asked, free, before = [], threading.Event(), set(threading.enumerate())

    def ask(name):
        asked.append(name)
        if name != NAMES[0]:
            free.wait(DEADLINE_S)
        raise Denied(name)

    with pytest.raises(Denied, match=NAMES[0]):
        list(pool.answers(ask, NAMES))
    free.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE_S)
    assert len(asked) <= pool.MAX_AT_ONCE + 1


def test_nobody_is_asked_where_there_is_nobody():
    assert list(pool.answers(lambda name: name, [])) == []
