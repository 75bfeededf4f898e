"""Waits for a Worker."""

from typing import Literal

from runtimed.model.identity import Cursor
from runtimed.model.value import value
from runtimed.model.worker import WorkerDetail

WaitCondition = Literal["idle", "busy", "stopped", "permission", "error"]


@value
class Wait:
    """The end of a wait: a condition holds, or has held.

    Attributes:
        matched: The condition.
        cursor: Where it held first: right after this event.
        worker: The Worker as it is now.
    """

    matched: WaitCondition
    cursor: Cursor
    worker: WorkerDetail
