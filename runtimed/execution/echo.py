"""`builtin:echo`: says back what it hears."""

from runtimed.core.ports import EventSink
from runtimed.execution.function import FunctionBackend
from runtimed.execution.output import TextOutput
from runtimed.model.interaction import WorkerInput


class EchoBackend(FunctionBackend):
    """An ExecutionBackend that needs no process: to try things out, and to measure everything else."""

    def __init__(self) -> None:
        super().__init__(_echo)


async def _echo(message: WorkerInput, sink: EventSink) -> None:
    text = TextOutput(sink)
    await text.write(message.content)
    await text.close()
