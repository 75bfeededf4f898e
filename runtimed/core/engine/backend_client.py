"""Calls to the execution backend. A backend that raises has answered `errored`."""

import asyncio
import logging
from collections.abc import Awaitable

import attrs

from runtimed.core.ports import Dispatch, EventSink, ExecutionBackend, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.errors import RuntimeStopped
from runtimed.model.identity import WorkerId

UNDELETED = "the execution backend failed to delete what it keeps of a Worker"
FAILED = "the execution backend failed; the daemon's log has the details"

log = logging.getLogger(__name__)


class BackendClient:
    """The execution backend of a Runtime, or none.

    Without a backend Workers are created and ended, but nothing runs them. Answers hold valid Unicode only.
    """

    def __init__(self, backend: ExecutionBackend | None) -> None:
        self._backend = backend

    @property
    def is_attached(self) -> bool:
        """Whether there is a backend."""
        return self._backend is not None

    @property
    def _attached(self) -> ExecutionBackend:
        if self._backend is None:
            raise RuntimeStopped
        return self._backend

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        """Have a Worker spawned. Raises RuntimeStopped without a backend."""
        return await _answer(self._attached.spawn(spawn, sink))

    async def dispatch(self, dispatch: Dispatch) -> BackendAnswer:
        """Offer an input. Cancelling the caller withdraws it. Raises RuntimeStopped without a backend."""
        try:
            return await _answer(self._attached.dispatch(dispatch))
        except asyncio.CancelledError:
            self.withdraw(dispatch.worker_id, dispatch.input_id)
            raise

    def start(self, worker_id: WorkerId, input_id: str) -> None:
        """Let an accepted input run: it is committed."""
        self._attached.start(worker_id, input_id)

    def withdraw(self, worker_id: WorkerId, input_id: str) -> None:
        """Take an accepted input back: it was not committed."""
        self._attached.withdraw(worker_id, input_id)

    async def interrupt(self, worker_id: WorkerId) -> BackendAnswer:
        """End the current run. Raises RuntimeStopped without a backend."""
        return await _answer(self._attached.interrupt(worker_id))

    async def stop(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        """Stop a Worker. Without a backend that is accepted."""
        return (
            BackendAnswer("accepted")
            if self._backend is None
            else await _answer(self._backend.stop(worker_id, reason))
        )

    async def cancel(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        """Cancel a Worker. Without a backend that is accepted."""
        return (
            BackendAnswer("accepted")
            if self._backend is None
            else await _answer(self._backend.cancel(worker_id, reason))
        )

    async def delete(self, worker_id: WorkerId) -> str | None:
        """Delete what the backend keeps of a Worker.

        Returns:
            None, or why something is left, in words for clients.
        """
        if self._backend is None:
            return None
        try:
            await self._backend.delete(worker_id)
        except OSError as error:
            log.warning(UNDELETED, extra={"worker_id": worker_id, "reason": error})
            return error.strerror or FAILED
        except Exception:
            log.exception(UNDELETED, extra={"worker_id": worker_id})
            return FAILED
        return None

    async def close(self) -> None:
        """Close the backend."""
        if self._backend is not None:
            await self._backend.close()


async def _answer(answering: Awaitable[BackendAnswer]) -> BackendAnswer:
    try:
        answer = await answering
        if answer.message is None:
            return answer
        message = answer.message.encode(errors="replace").decode()
        return attrs.evolve(answer, message=message)
    except Exception:
        log.exception("the execution backend failed")
        return BackendAnswer("errored", FAILED)
