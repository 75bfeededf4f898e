"""`builtin:echo`: answers each input with its own text."""

from runtimed.core.ports import EventSink
from runtimed.execution.factories import BackendFactory
from runtimed.execution.function import FunctionBackend
from runtimed.execution.session.text_output import TextOutput
from runtimed.model.interaction import WorkerInput


class EchoBackend(FunctionBackend):
    """An ExecutionBackend without processes, to try out the Runtime and to measure it."""

    def __init__(self) -> None:
        super().__init__(_echo)


async def _echo(message: WorkerInput, sink: EventSink) -> None:
    text = TextOutput(sink)
    await text.write(message.content)
    await text.close()


FACTORY = BackendFactory(
    lambda _profile, _workspaces, _supervisor: EchoBackend(), workspaces="ignored", runs_programs=False
)
