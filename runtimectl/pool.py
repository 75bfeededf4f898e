"""One question to many, several at a time."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import TypeVar

MAX_AT_ONCE = 8
"""How many requests are on their way at the same time."""

T = TypeVar("T")


def answers(ask: Callable[[str], T], names: Sequence[str]) -> Iterator[T]:
    """What `ask` gives for each of these, in their order, or raises.

    Whoever stops listening begins no more of them, and need not wait for those on their way.
    """
    futures: list[Future[T]] = [Future() for _ in names]
    left = deque(zip(names, futures, strict=True))
    for _ in range(min(MAX_AT_ONCE, len(names))):
        Thread(target=_work, args=(ask, left), daemon=True).start()
    try:
        for future in futures:
            yield future.result()
    finally:
        left.clear()


def _work(ask: Callable[[str], T], left: deque[tuple[str, Future[T]]]) -> None:
    with suppress(IndexError):
        while True:
            _answer(ask, *left.popleft())


def _answer(ask: Callable[[str], T], name: str, future: Future[T]) -> None:
    try:
        future.set_result(ask(name))
    except Exception as error:  # noqa: BLE001 raised where the answer is wanted
        future.set_exception(error)
