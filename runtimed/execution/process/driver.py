"""Backend `process`: any program that reads and writes lines, one for each Worker."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from runtimed.core.engine.mailbox import RUN_END_S
from runtimed.core.ports import Dispatch, EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import Entry
from runtimed.execution.process import protocol
from runtimed.execution.process.translator import Translator
from runtimed.execution.processes.environment import environment
from runtimed.execution.processes.executable import located
from runtimed.execution.processes.line_process import Command, LineProcess, Unresponsive
from runtimed.execution.processes.lines import Chunk
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.profile import Profile
from runtimed.execution.session.backend import SessionBackend
from runtimed.execution.session.driver import Exit, Progress, Run
from runtimed.execution.session.exit_reason import explain_exit
from runtimed.execution.session.warnings import alert
from runtimed.execution.tasks import begin, finish
from runtimed.execution.workspace import Home, Workspaces
from runtimed.model.event import ErrorRaised, Payload, RunEnd
from runtimed.model.execution import LossReason

MAX_EMITTED = 64
"""The most events in one call of the sink, which can make the program wait."""

RESTARTED = "the run was interrupted and its program ended: it is started again without its earlier state"

log = logging.getLogger(__name__)


class ProcessBackend(SessionBackend):
    """An ExecutionBackend for all Workers of one profile. The owner of the Supervisor closes that."""

    def __init__(self, profile: Profile, workspaces: Workspaces, supervisor: Supervisor) -> None:
        super().__init__(partial(ProcessDriver, profile, workspaces, supervisor), profile)


class ProcessDriver:
    """One Worker's program. If the program ends, the Worker is lost, unless an interrupt has ended the program.

    An `error` of the program is held back until its run ends, because the Runtime ends a run at an `error`. If the
    program writes nothing more within RUN_END_S, the run ends with the error.
    """

    noun = "program"
    holds_output = True

    def __init__(
        self, profile: Profile, workspaces: Workspaces, supervisor: Supervisor, spawn: Spawn, sink: EventSink
    ) -> None:
        self._profile = profile.with_env(spawn.folders.others)
        self._home = Home(workspaces, spawn, profile.max_folder_bytes)
        self._supervisor = supervisor
        self._worker_id = spawn.worker_id
        self._sink = sink
        self._translator = Translator(spawn.max_open_text)
        self._unread: Iterator[Payload] = iter(())
        self._program: LineProcess | None = None
        self._unresponsive = ""
        self._run: Run | None = None
        self._run_end: RunEnd | None = None
        self._error: ErrorRaised | None = None
        self._error_timer: asyncio.TimerHandle | None = None
        self._is_over = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.received = 0

    @property
    def has_open_text(self) -> bool:
        return self._translator.is_open

    def refusal(self, dispatch: Dispatch) -> BackendAnswer | None:
        if protocol.input_line(dispatch) is None:
            return BackendAnswer("rejected", "content: expected Unicode text")
        return None

    async def start(self, history: Sequence[Entry] | None) -> Sequence[Payload]:
        notes = ["the program was started again without its earlier state"] if history else []
        if made := await asyncio.to_thread(self._home.make):
            notes.append(made)
        home, env = self._home.path, environment(self._profile.env, self._profile.env_pass)
        argv = await asyncio.to_thread(located, self._profile.command, env, home)
        command = Command(argv, home, env, self._profile.tree_limits, self._worker_id)
        self._program = await LineProcess.start(self._supervisor, command, partial=True)
        self._program.limit_folder(self._home.folder_limit)
        self._unread, self._unresponsive = iter(()), ""
        return [alert(note) for note in notes]

    async def restart(self) -> Sequence[Payload]:
        return await self.start(None)

    async def begin_run(self) -> None:
        await self._emit(self._translator.end_run())

    async def write(self, run: Run) -> None:
        self._run = run
        if renewed := await self._home.renewed(self._supervisor.confiner.of(self._worker_id)):
            await self._emit((renewed,))
        if self._program is not None:
            await self._program.begin_run()
            self._begin_task(self._write(self._program, protocol.input_line(run.dispatch) or b""))

    async def read(self) -> Progress:
        if await self._pass_on():
            return "over"
        chunk = await self._program.read() if self._program is not None else None
        if chunk is None:
            return "exited"
        if not chunk.data:
            return "over" if self._is_over else "running"
        return "over" if await self._take(chunk) else "running"

    async def flush(self) -> None:
        await self._pass_on()
        for chunk in self._program.pending() if self._program is not None else ():
            await self._take(chunk)
        await self.close_text()

    async def close_text(self) -> None:
        await self._emit(self._translator.close_open())

    def wake(self) -> None:
        if self._program is not None:
            self._program.wake()

    async def interrupt(self) -> None:
        if self._program is not None:
            with contextlib.suppress(OSError):  # the caller has a deadline, after which it kills the program
                await self._program.write(protocol.INTERRUPT)

    async def kill(self) -> None:
        if self._program is not None:
            await self._program.kill()

    async def end_run(self, run: Run) -> Sequence[Payload]:
        interrupted = [alert("the run was interrupted")] if run.is_interrupted else []
        errors = [self._error] if self._error is not None else []
        end = self._run_end or RunEnd("rolled_back")
        self._forget_run()
        return (*self._translator.end_run(), *interrupted, *errors, end)

    async def reap(self, reason: LossReason | None, run: Run | None) -> Exit:
        program = self._program
        found = reason or ("unresponsive" if self._unresponsive else program.excess if program else None) or "exit"
        message = self._unresponsive
        if program is not None and (reason or not message):
            message = explain_exit(
                found,
                program.status or 0,
                self._profile,
                program.stderr_tail(),
                folder_bytes=program.folder_bytes,
            )
        await self._emit((*self._translator.end_run(), *self._error_as_alert()))
        self._forget_run()
        await self._stop()
        is_replaced = found == "exit" and run is not None and run.is_interrupted and self._profile.restart != "never"
        return Exit(found, message, (alert(RESTARTED), RunEnd("rolled_back")) if is_replaced else None)

    async def close(self, grace_s: float) -> None:
        await finish(*self._tasks)
        self._forget_run()
        if self._program is not None:
            await self._program.stop(grace_s, protocol.STOP)

    async def _take(self, chunk: Chunk) -> bool:
        """Emit the events of a chunk up to the end of the run. Returns whether the run has ended."""
        self.received += len(chunk.data)
        if self._unresponsive:  # it is being killed
            return False
        self._unread = self._translator.events(chunk)
        is_over = await self._pass_on()
        self._await_end()
        return is_over

    async def _pass_on(self) -> bool:
        """Emit unread events up to the end of the run. Returns whether it has ended; later events stay unread."""
        events: list[Payload] = []
        for event in self._unread:
            if self._run is not None and isinstance(event, RunEnd):
                self._run_end = event
                break
            events += self._own(event)
            if len(events) >= MAX_EMITTED:
                await self._emit(events)
                events.clear()
        await self._emit(events)
        return self._run_end is not None

    def _own(self, event: Payload) -> Iterable[Payload]:
        """Return what to emit for an event. An error is held until its run ends; outside of a run it is a warning."""
        if not isinstance(event, RunEnd | ErrorRaised):
            return (event,)
        if self._run is None:
            report = f"{event.event}: {event.message}" if isinstance(event, ErrorRaised) else event.event
            return self._translator.warn(f"the program wrote this outside of a run: {report}")
        before = self._error_as_alert()
        self._error = event if isinstance(event, ErrorRaised) else None
        return before

    def _error_as_alert(self) -> list[Payload]:
        """Return the held error of this run as an alert, because it did not end the run."""
        if self._error is None:
            return []
        error, self._error = self._error, None
        return [alert(f"the program reports an error: {error.message}", "error")]

    def _await_end(self) -> None:
        """End the run after an `error`, unless the program writes more within RUN_END_S."""
        self._is_over = False
        if self._error_timer is not None:
            self._error_timer.cancel()
            self._error_timer = None
        if self._error is not None and self._run_end is None:
            self._error_timer = asyncio.get_running_loop().call_later(RUN_END_S, self._end_after_error)

    def _end_after_error(self) -> None:
        self._is_over = True
        self.wake()

    def _forget_run(self) -> None:
        self._run = self._run_end = self._error = None
        self._await_end()
        if self._program is not None:
            self._program.end_run()

    async def _write(self, program: LineProcess, line: bytes) -> None:
        try:
            await program.write(line)
        except Unresponsive as error:
            if program is self._program:
                self._unresponsive = str(error)
                await self._kill(program)
        except BrokenPipeError:
            log.debug("a program ended before it took its input")

    async def _kill(self, program: LineProcess) -> None:
        try:
            await program.kill()
        except TimeoutError as error:
            log.error("not all of a killed program has ended", extra={"worker_id": self._worker_id, "reason": error})

    async def _stop(self) -> None:
        program, self._program = self._program, None
        try:
            if program is not None:
                await program.stop(0)
        except TimeoutError as error:
            log.error("not all of a program has ended", extra={"worker_id": self._worker_id, "reason": error})

    async def _emit(self, events: Iterable[Payload]) -> None:
        emitted = tuple(events)
        if emitted:
            await self._sink.emit(*emitted)

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = begin(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
