"""A backend whose Workers each have a session with something of their own."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from runtimed.core.ports import Answer, Dispatch, EventSink, Spawn
from runtimed.model.identity import WorkerId

NOTHING = Answer("errored", "nothing runs this Worker")


class Session(Protocol):
    """What runs one Worker, from its spawn to its end. `lost`: it told the sink so, and runs nothing any more."""

    @property
    def lost(self) -> bool: ...

    async def open(self) -> Answer:
        """Get ready. Errored where that can't be done, or the session is ended meanwhile."""

    async def offer(self, dispatch: Dispatch) -> Answer:
        """As ExecutionBackend.dispatch."""

    def start(self, input_id: str) -> None:
        """As ExecutionBackend.start."""

    def withdraw(self, input_id: str) -> None:
        """As ExecutionBackend.withdraw."""

    async def interrupt(self, grace_s: float) -> None:
        """End the current run, by force where it has not ended after the grace. Raises TimeoutError as Tree.end."""

    async def end(self, grace_s: float) -> None:
        """Fall silent, then end all that was started. Raises TimeoutError as Tree.end."""


class SessionBackend:
    """An ExecutionBackend that keeps a session for each Worker; `new` makes one."""

    def __init__(self, new: Callable[[Spawn, EventSink], Session], stop_grace_s: float) -> None:
        self._new = new
        self._grace_s = stop_grace_s
        self._sessions: dict[WorkerId, Session] = {}

    async def spawn(self, spawn: Spawn, sink: EventSink) -> Answer:
        before = self._sessions.get(spawn.worker_id)
        if before is not None and not before.lost:
            return Answer("rejected", "this Worker is running already")
        session = self._sessions[spawn.worker_id] = self._new(spawn, sink)
        answer = await session.open()
        if answer.outcome != "accepted":
            self._forget(spawn.worker_id, session)
        return answer

    async def dispatch(self, dispatch: Dispatch) -> Answer:
        session = self._sessions.get(dispatch.worker_id)
        return await session.offer(dispatch) if session else NOTHING

    def start(self, worker_id: WorkerId, input_id: str) -> None:
        if session := self._sessions.get(worker_id):
            session.start(input_id)

    def withdraw(self, worker_id: WorkerId, input_id: str) -> None:
        if session := self._sessions.get(worker_id):
            session.withdraw(input_id)

    async def interrupt(self, worker_id: WorkerId) -> Answer:
        session = self._sessions.get(worker_id)
        try:
            if session is not None:
                await session.interrupt(self._grace_s)
        except TimeoutError as error:
            return Answer("errored", str(error))
        return Answer("accepted")

    async def stop(self, worker_id: WorkerId, reason: str | None) -> Answer:
        return await self._end(worker_id, self._grace_s)

    async def cancel(self, worker_id: WorkerId, reason: str | None) -> Answer:
        return await self._end(worker_id, 0)

    async def delete(self, worker_id: WorkerId) -> None:
        """Nothing is kept but the folder, which is not this one's to remove."""

    async def close(self) -> None:
        await asyncio.gather(*(self._end(worker_id, self._grace_s) for worker_id in self._sessions))

    async def _end(self, worker_id: WorkerId, grace_s: float) -> Answer:
        session = self._sessions.get(worker_id)
        if session is None:
            return Answer("accepted")
        try:
            await session.end(grace_s)
        except TimeoutError as error:
            return Answer("errored", str(error))
        finally:
            self._forget(worker_id, session)
        return Answer("accepted")

    def _forget(self, worker_id: WorkerId, session: Session) -> None:
        if self._sessions.get(worker_id) is session:
            del self._sessions[worker_id]
