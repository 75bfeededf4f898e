"""Save what a run has committed before its end is told."""

from collections.abc import Awaitable, Callable, Sequence

from runtimed.core.ports import EventSink
from runtimed.execution.session.warnings import alert
from runtimed.execution.tasks import completed
from runtimed.model.event import Payload, RunEnd
from runtimed.model.execution import LossReason
from runtimed.model.permission import Question, Ruling

Save = Callable[[], Awaitable[Sequence[str]]]
"""Saves, and returns what could not be saved, in words for people."""


class SavingSink:
    """The EventSink of a Worker whose work has to be brought into another repository behind each run.

    Args:
        sink: The sink of the Worker.
        save: Called before each `run_end`, and before the program is reported as lost.
    """

    def __init__(self, sink: EventSink, save: Save) -> None:
        self._sink = sink
        self._save = save

    async def emit(self, *payloads: Payload) -> None:
        end = next((index for index, payload in enumerate(payloads) if isinstance(payload, RunEnd)), None)
        if end is None:
            await self._sink.emit(*payloads)
            return
        if payloads[:end]:
            await self._sink.emit(*payloads[:end])
        problems = [alert(problem, "error") for problem in await completed(self._save())]
        await self._sink.emit(*problems, *payloads[end:])

    async def ask(self, question: Question) -> Ruling:
        return await self._sink.ask(question)

    async def lose(self, reason: LossReason, message: str) -> None:
        if problems := [alert(problem, "error") for problem in await completed(self._save())]:
            await self._sink.emit(*problems)
        await self._sink.lose(reason, message)
