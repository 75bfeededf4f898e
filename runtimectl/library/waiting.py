"""A wait for a Worker, in requests that a proxy does not cut."""

import math
import time
from typing import TYPE_CHECKING

from runtimectl.errors import ApiError, TimedOut
from runtimectl.library import calls

if TYPE_CHECKING:
    from runtimed.model.waiting import Wait, WaitCondition

REQUEST_S = 60
"""Seconds that one request waits at most."""


class PendingWait:
    """A wait that goes on until one of the conditions holds.

    Args:
        worker_id: The Worker.
        conditions: What is waited for; none of them means `idle`.
        cursor: What held behind this cursor counts.
        timeout: Seconds after which to give up, or None.
    """

    def __init__(
        self, worker_id: str, conditions: "tuple[WaitCondition, ...]", cursor: str, timeout: float | None
    ) -> None:
        self._worker_id = worker_id
        self._conditions = conditions or ("idle",)
        self._cursor = cursor
        self._timeout = timeout
        self._deadline = math.inf if timeout is None else time.monotonic() + timeout

    def request(self) -> "calls.Call[Wait]":
        """Return the next request."""
        left = math.ceil(max(self._deadline - time.monotonic(), 1)) if self._timeout is not None else REQUEST_S
        return calls.wait(self._worker_id, self._conditions, self._cursor, min(left, REQUEST_S))

    def go_on(self, error: ApiError) -> None:
        """Raise the error unless another request should follow: the one before waited in vain."""
        if error.code != "wait_timeout":
            raise error
        if time.monotonic() >= self._deadline:
            wanted = " or ".join(self._conditions)
            raise TimedOut(f"{self._worker_id} was not {wanted} within {self._timeout:g} s") from None
