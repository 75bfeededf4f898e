"""The answer of an execution backend."""

import attrs

from runtimed.model.execution import Outcome, RestartPolicy
from runtimed.model.interaction import AttachmentForm
from runtimed.model.profile import Sandbox
from runtimed.model.value import value


@value
class BackendAnswer:
    """The answer of an execution backend to one request.

    Attributes:
        outcome: Whether the backend accepted the request.
        message: For any outcome but `accepted`, what went wrong and what to do about it.
        restart: In the answer to a spawn, what the core does when the backend loses what it spawned.
        attachments: In the answer to a spawn, the forms of attachments that inputs may have. Others are refused.
        sandbox: In the answer to a spawn, what confines the programs; None if it runs none.
        profile: In the answer to a spawn, the selector of the configured profile, if there is one.
    """

    outcome: Outcome
    message: str | None = None
    restart: RestartPolicy = attrs.field(default="never", eq=False)
    attachments: frozenset[AttachmentForm] = attrs.field(default=frozenset(), eq=False)
    sandbox: Sandbox | None = attrs.field(default=None, eq=False)
    profile: str | None = attrs.field(default=None, eq=False)
