"""A decision on its way: submitted, decided, committed, answered."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from runtimed.core.state.change_builder import ChangeBuilder
from runtimed.errors import Internal, RuntimedError

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class Command:
    """A decision that is queued in a mailbox.

    Attributes:
        decide: The decision. It records its part of the Change in the ChangeBuilder; its return value is the answer.
        answered: Resolves to the answer once the Change is committed, or to the error. None if no caller waits.
        committed: Called once the Change is committed, even if the caller is gone.
        abandoned: Called if nothing of the decision will be stored.
        keep: Retry while the store is full. The caller gets StoreFull at once; the decision is taken later.
        weight: The number of output events in it.
        patient: The decision may wait to be collected with others.
    """

    decide: Callable[[ChangeBuilder], Any]
    answered: asyncio.Future[Any] | None = None
    committed: Callable[[], None] | None = None
    abandoned: Callable[[], None] | None = None
    keep: bool = False
    weight: int = 0
    patient: bool = False
    _answer: Any = None

    def apply_to(self, builder: ChangeBuilder, *, apart: bool) -> bool:
        """Take the decision. Returns False if it failed: it is answered, and the builder is unchanged.

        Args:
            builder: The Change so far.
            apart: Do not join the text of this command with that of the one before.
        """
        if apart and self.weight:
            builder.part()
        try:
            self._answer = builder.apply(self.decide)
        except RuntimedError as error:
            self.fail(error)
        except Exception:
            log.exception("a decision failed")
            self.fail(Internal())
        else:
            return True
        return False

    def succeed(self) -> None:
        """Answer the caller: the Change is committed, applied and published."""
        _call(self.committed)
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(self._answer)

    def fail(self, error: BaseException) -> None:
        """Give up: nothing of the decision was stored or will be."""
        _call(self.abandoned)
        self.report(error)

    def report(self, error: BaseException) -> None:
        """Raise `error` in the caller, without giving up."""
        if self.answered is not None and not self.answered.done():
            self.answered.set_exception(error)


def succeed_all(commands: Sequence[Command]) -> None:
    """Answer every command."""
    for command in commands:
        command.succeed()


def fail_all(commands: Sequence[Command], error: BaseException) -> None:
    """Give up every command with the same error."""
    for command in commands:
        command.fail(error)


def _call(callback: Callable[[], None] | None) -> None:
    try:
        if callback is not None:
            callback()
    except Exception:
        log.exception("the execution backend failed")
