"""A wait for a Worker, in requests that a proxy does not cut."""

import math
import time
from typing import TYPE_CHECKING

from runtimectl.client.api import MAX_WAIT_S
from runtimectl.errors import ApiError, TimedOut
from runtimectl.library import calls

if TYPE_CHECKING:
    from runtimed.model.waiting import Wait, WaitCondition
    from runtimed.model.worker import WorkerDetail


class PendingWait:
    """A wait that goes on until one of the conditions holds.

    Args:
        worker_id: The Worker.
        conditions: What is waited for; none of them means `idle`.
        timeout: Seconds after which to give up, or None.
    """

    def __init__(self, worker_id: str, conditions: "tuple[WaitCondition, ...]", timeout: float | None) -> None:
        self._worker_id = worker_id
        self._conditions = conditions or ("idle",)
        self._timeout = timeout
        self._deadline = math.inf if timeout is None else time.monotonic() + timeout

    def begin(self) -> "calls.Call[WorkerDetail]":
        """Return the request whose answer has the cursor behind which to wait."""
        return calls.worker(self._worker_id)._replace(repeat_for=self._left_s())

    def request(self, cursor: str) -> "calls.Call[Wait]":
        """Return the next request: what held behind the cursor counts."""
        left_s = self._left_s()
        waiting_s = math.ceil(max(min(left_s, MAX_WAIT_S), 1))
        return calls.wait(self._worker_id, self._conditions, cursor, waiting_s)._replace(repeat_for=left_s)

    def _left_s(self) -> float:
        return max(self._deadline - time.monotonic(), 0)

    def go_on(self, error: ApiError) -> None:
        """Raise the error unless another request should follow: the one before waited in vain."""
        if error.code != "wait_timeout":
            raise error
        if time.monotonic() >= self._deadline:
            wanted = " or ".join(self._conditions)
            raise TimedOut(f"{self._worker_id} was not {wanted} within {self._timeout:g} s") from None
