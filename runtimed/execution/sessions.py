"""A backend whose Workers each have a session with something of their own."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

import attrs

from runtimed.core.ports import Dispatch, EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.profile import Profile
from runtimed.execution.silence import WatchedSink
from runtimed.execution.tasks import finish
from runtimed.model.identity import WorkerId

NOTHING = BackendAnswer("errored", "nothing runs this Worker")

START_MARGIN_S = 1.0
"""How much longer than `start_timeout_s` a session may take to open, so that it can say itself what was late."""

_log = logging.getLogger(__name__)


class Session(Protocol):
    """What runs one Worker, from its spawn to its end. `lost`: it told the sink so, and runs nothing any more."""

    @property
    def lost(self) -> bool: ...

    async def open(self) -> BackendAnswer:
        """Get ready. Errored where that can't be done, or the session is ended meanwhile."""

    async def offer(self, dispatch: Dispatch) -> BackendAnswer:
        """As ExecutionBackend.dispatch."""

    def start(self, input_id: str) -> None:
        """As ExecutionBackend.start."""

    def withdraw(self, input_id: str) -> None:
        """As ExecutionBackend.withdraw."""

    async def interrupt(self, grace_s: float) -> None:
        """End the current run, by force where it has not ended after the grace. Raises TimeoutError as Tree.end."""

    async def end(self, grace_s: float) -> None:
        """Fall silent, then end all that was started. Raises TimeoutError as Tree.end."""


@attrs.frozen(eq=False)
class _Watched:
    """A session, and the sink that knows how long it has been silent."""

    session: Session
    sink: WatchedSink


class SessionBackend:
    """An ExecutionBackend that keeps a session for each Worker of one profile; `new` makes one."""

    def __init__(self, new: Callable[[Spawn, EventSink], Session], profile: Profile) -> None:
        self._new = new
        self._profile = profile
        self._watched: dict[WorkerId, _Watched] = {}

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        before = self._watched.get(spawn.worker_id)
        if before is not None and not before.session.lost:
            return BackendAnswer("rejected", "this Worker is running already")
        watched_sink = WatchedSink(self._profile, sink)
        session = self._new(spawn, watched_sink)
        watched_sink.interrupt_by(partial(session.interrupt, self._profile.stop_grace_s))
        watched = self._watched[spawn.worker_id] = _Watched(session, watched_sink)
        is_running = False
        try:
            answer = await self._open(session)
            is_running = answer.outcome == "accepted"
        finally:
            if not is_running:
                self._forget(spawn.worker_id, watched)
        return answer

    async def _open(self, session: Session) -> BackendAnswer:
        """Open the session. One that is not ready in time is ended."""
        limit_s = self._profile.start_timeout_s
        opening = asyncio.create_task(session.open())
        try:
            done, _ = await asyncio.wait({opening}, timeout=limit_s + START_MARGIN_S)
            if done:
                return opening.result()
            await session.end(0)
        except TimeoutError as error:
            return BackendAnswer("errored", str(error))
        except BaseException:
            await session.end(0)
            raise
        finally:
            await finish(opening)
        return BackendAnswer("errored", f"it was not ready within {limit_s:g} seconds (start_timeout_s)")

    async def dispatch(self, dispatch: Dispatch) -> BackendAnswer:
        watched = self._watched.get(dispatch.worker_id)
        return await watched.session.offer(dispatch) if watched else NOTHING

    def start(self, worker_id: WorkerId, input_id: str) -> None:
        if watched := self._watched.get(worker_id):
            watched.session.start(input_id)

    def withdraw(self, worker_id: WorkerId, input_id: str) -> None:
        if watched := self._watched.get(worker_id):
            watched.session.withdraw(input_id)

    async def interrupt(self, worker_id: WorkerId) -> BackendAnswer:
        watched = self._watched.get(worker_id)
        try:
            if watched is not None:
                await watched.session.interrupt(self._profile.stop_grace_s)
        except TimeoutError as error:
            return BackendAnswer("errored", str(error))
        return BackendAnswer("accepted")

    async def stop(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        return await self._end(worker_id, self._profile.stop_grace_s)

    async def cancel(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        return await self._end(worker_id, 0)

    async def delete(self, worker_id: WorkerId) -> None:
        """Nothing is kept but the folder, which is not this one's to remove."""

    async def close(self) -> None:
        worker_ids = tuple(self._watched)
        ending = (self._end(worker_id, self._profile.stop_grace_s) for worker_id in worker_ids)
        for worker_id, outcome in zip(worker_ids, await asyncio.gather(*ending, return_exceptions=True), strict=True):
            if isinstance(outcome, BaseException):
                _log.error("the session of %s could not be ended", worker_id, exc_info=outcome)

    async def _end(self, worker_id: WorkerId, grace_s: float) -> BackendAnswer:
        watched = self._watched.get(worker_id)
        if watched is None:
            return BackendAnswer("accepted")
        try:
            await watched.session.end(grace_s)
        except TimeoutError as error:
            return BackendAnswer("errored", str(error))
        finally:
            await watched.sink.close()
            self._forget(worker_id, watched)
        return BackendAnswer("accepted")

    def _forget(self, worker_id: WorkerId, watched: _Watched) -> None:
        if self._watched.get(worker_id) is watched:
            del self._watched[worker_id]
