"""Carry out a request with an idempotency key once, however often it is sent."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import attrs

from runtimed.core.ports import Clock
from runtimed.core.state.change import IdempotencyRecord
from runtimed.core.state.idempotency_log import IdempotencyLog
from runtimed.errors import IdempotencyConflict
from runtimed.model.idempotency import IdempotencyKey

T = TypeVar("T")


@attrs.frozen
class _Running:
    """A request with a key that is being answered."""

    body: bytes
    task: asyncio.Task[Any]


class Idempotency:
    """Answers a repeated request by the record of the first, and one that comes meanwhile together with the first.

    A key is recorded with the Change that its request leads to, so a request that was refused leaves no key, and its
    repeat is a new attempt.
    """

    def __init__(self, log: IdempotencyLog, clock: Clock) -> None:
        """Make the service for the keys of a log."""
        self._log = log
        self._clock = clock
        self._running: dict[bytes, _Running] = {}

    def find(self, key: IdempotencyKey) -> IdempotencyRecord | None:
        """Return the record of a key, or None. Raises IdempotencyConflict if it belongs to another body."""
        record = self._log.find(key.scope, self._clock.unix_ms())
        if record is not None and record.body != key.body:
            raise IdempotencyConflict
        return record

    async def once(
        self,
        key: IdempotencyKey,
        first: Callable[[], Coroutine[Any, Any, T]],
        again: Callable[[IdempotencyRecord], Coroutine[Any, Any, T]],
    ) -> T:
        """Answer a request. What was begun goes on if the caller is cancelled.

        Args:
            key: The key of the request.
            first: Carries it out, and records the key in the same Change.
            again: Answers a repeat by the record.

        Raises:
            IdempotencyConflict: The key belongs to a request with another body.
        """
        running = self._running.get(key.scope)
        if running is None:
            record = self.find(key)
            running = self._begin(key, first() if record is None else again(record))
        elif running.body != key.body:
            raise IdempotencyConflict
        answer: T = await asyncio.shield(running.task)
        return answer

    def _begin(self, key: IdempotencyKey, work: Coroutine[Any, Any, T]) -> _Running:
        task = asyncio.get_running_loop().create_task(work, name="idempotent request")
        running = self._running[key.scope] = _Running(key.body, task)
        task.add_done_callback(lambda _: self._end(key.scope, task))
        return running

    def _end(self, scope: bytes, task: asyncio.Task[Any]) -> None:
        del self._running[scope]
        if not task.cancelled():
            task.exception()  # the callers may be gone: nobody else retrieves it

    async def close(self) -> None:
        """Cancel what is still being carried out, and wait for it."""
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
