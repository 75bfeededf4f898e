"""The answer of an execution backend."""

import attrs

from runtimed.model.execution import Outcome, RestartPolicy
from runtimed.model.value import value


@value
class BackendAnswer:
    """The answer of an execution backend to one request.

    Attributes:
        outcome: Whether the backend accepted the request.
        message: For any outcome but `accepted`, what went wrong and what to do about it.
        restart: In the answer to a spawn, what the core does when the backend loses what it spawned.
    """

    outcome: Outcome
    message: str | None = None
    restart: RestartPolicy = attrs.field(default="never", eq=False)
