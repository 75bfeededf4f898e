"""The acp backend: Workers that are agents of the Agent Client Protocol."""

import asyncio
from typing import TYPE_CHECKING

from runtimed.core.ports import Answer, Dispatch, EventSink, Spawn
from runtimed.execution.profile import Profile
from runtimed.execution.supervise import Supervisor
from runtimed.execution.workspace import Workspaces
from runtimed.model.identity import WorkerId

if TYPE_CHECKING:
    from runtimed.execution.acp.session import Session

MISSING = "this daemon was installed without ACP: install runtimed[acp]"


class AcpBackend:
    """An ExecutionBackend for all Workers of one profile. Whoever gave it the Supervisor closes that.

    The library for the protocol is loaded with the first Worker: it takes most of a second, and 40 MB.
    """

    def __init__(self, profile: Profile, workspaces: Workspaces, supervisor: Supervisor) -> None:
        self._profile = profile
        self._workspaces = workspaces
        self._supervisor = supervisor
        self._sessions: dict[WorkerId, Session] = {}

    async def spawn(self, spawn: Spawn, sink: EventSink) -> Answer:
        if not self._profile.command:
            return Answer("rejected", "the profile has no command: set it to the argv of an ACP agent")
        try:
            make = await asyncio.to_thread(_load)
        except ImportError:
            return Answer("unsupported", MISSING)
        if (before := self._sessions.get(spawn.worker_id)) is not None:
            if before.live:
                return Answer("rejected", "this Worker is running already")
            await self._end(spawn.worker_id, 0)
        session = self._sessions[spawn.worker_id] = make(
            self._profile, self._supervisor, self._workspaces, spawn, sink
        )
        answer = await session.open()
        if answer.outcome != "accepted":
            self._forget(spawn.worker_id, session)
        return answer

    async def dispatch(self, dispatch: Dispatch) -> Answer:
        session = self._sessions.get(dispatch.worker_id)
        return session.offer(dispatch) if session else Answer("errored", "nothing runs this Worker")

    def start(self, worker_id: WorkerId, input_id: str) -> None:
        if session := self._sessions.get(worker_id):
            session.start(input_id)

    def withdraw(self, worker_id: WorkerId, input_id: str) -> None:
        if session := self._sessions.get(worker_id):
            session.withdraw(input_id)

    async def interrupt(self, worker_id: WorkerId) -> Answer:
        session = self._sessions.get(worker_id)
        return await session.interrupt() if session else Answer("accepted")

    async def stop(self, worker_id: WorkerId, reason: str | None) -> Answer:
        return await self._end(worker_id, self._profile.stop_grace_s)

    async def cancel(self, worker_id: WorkerId, reason: str | None) -> Answer:
        return await self._end(worker_id, 0)

    async def delete(self, worker_id: WorkerId) -> None:
        """Nothing is kept but the folder, which is not this one's to remove."""

    async def close(self) -> None:
        await asyncio.gather(*(self._end(worker_id, self._profile.stop_grace_s) for worker_id in self._sessions))

    async def _end(self, worker_id: WorkerId, grace: float) -> Answer:
        session = self._sessions.get(worker_id)
        if session is None:
            return Answer("accepted")
        try:
            await session.end(grace)
        except TimeoutError as error:
            return Answer("errored", str(error))
        finally:
            self._forget(worker_id, session)
        return Answer("accepted")

    def _forget(self, worker_id: WorkerId, session: "Session") -> None:
        if self._sessions.get(worker_id) is session:
            del self._sessions[worker_id]


def _load() -> "type[Session]":
    from runtimed.execution.acp.session import Session

    return Session
