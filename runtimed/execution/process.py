"""Backend `process`: any program that reads and writes lines, one for each Worker."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator
from functools import partial
from typing import Any

import attrs

from runtimed.core.engine.mailbox import RUN_END_S
from runtimed.core.ports import Dispatch, EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution import protocol
from runtimed.execution.complaints import alert
from runtimed.execution.executable import located
from runtimed.execution.gate import Gate
from runtimed.execution.lines import Chunk
from runtimed.execution.loss import cause, explained, unpassed
from runtimed.execution.output import QUIET_S
from runtimed.execution.profile import Profile
from runtimed.execution.program import Command, LineProgram, Unresponsive
from runtimed.execution.sessions import NOTHING, SessionBackend
from runtimed.execution.speech import Speech
from runtimed.execution.supervise import Supervisor, environment
from runtimed.execution.tasks import begin, finish, ready_in_time
from runtimed.execution.workspace import Home, Workspaces
from runtimed.model.event import ErrorRaised, InvokeStart, Payload, RunEnd
from runtimed.model.execution import LossReason

MAX_EMITTED = 64
"""How many events are given to the sink at once, so that it can make the program wait."""

_log = logging.getLogger(__name__)


class ProcessBackend(SessionBackend):
    """An ExecutionBackend for all Workers of one profile. Whoever gave it the Supervisor closes that."""

    def __init__(self, profile: Profile, workspaces: Workspaces, supervisor: Supervisor) -> None:
        super().__init__(partial(ProcessSession, profile, workspaces, supervisor), profile)


@attrs.define(eq=False)
class _Run:
    """An input from `start` to the end of its run; `over` is set just before that is said.

    An `error` of the program is held until then, for by itself it would be the end as well. Where the program says
    nothing more behind it, `is_over` is set, and that was the end.
    """

    dispatch: Dispatch
    received: int = 0
    error: ErrorRaised | None = None
    interrupted: bool = False
    over: asyncio.Event = attrs.field(factory=asyncio.Event)
    is_over: bool = False
    deadline: asyncio.TimerHandle | None = None
    ending: asyncio.TimerHandle | None = None


class ProcessSession:
    """One Worker: its program, and the one task that says what the program says.

    A program that ends is lost, and the session with it. One that an interrupt has ended is started anew, unless
    `restart` of its profile is `never`.
    """

    def __init__(
        self, profile: Profile, workspaces: Workspaces, supervisor: Supervisor, spawn: Spawn, sink: EventSink
    ) -> None:
        self._profile = profile
        self._home = Home(workspaces, spawn)
        self._supervisor = supervisor
        self._spawn = spawn
        self._sink = sink
        self._speech = Speech(spawn.max_open_text)
        self._gate = Gate()
        self._next: _Run | None = None
        self._run: _Run | None = None
        self._interrupting = False
        self._settled: asyncio.Future[None] | None = None
        self._released = asyncio.Event()
        self._why: tuple[LossReason, str] | None = None
        self._told: str | None = None
        self._program: LineProgram | None = None
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False
        self.lost = False

    async def open(self) -> BackendAnswer:
        """See Session."""
        opening = self._task = asyncio.create_task(self._start())
        await asyncio.wait({opening})
        if self._ending or opening.cancelled():
            return BackendAnswer("errored", "the Worker was ended before its program was started")
        if error := opening.exception():
            unknown = None if isinstance(error, OSError) else error
            _log.error("the program of %s could not be started: %s", self._spawn.worker_id, error, exc_info=unknown)
            return BackendAnswer("errored", f"the program could not be started: {cause(error)}")
        self._task = begin(self._live())
        return BackendAnswer("accepted")

    async def offer(self, dispatch: Dispatch) -> BackendAnswer:
        """See Session. What was said between the runs is told, and its text closed, before an input is accepted."""
        if protocol.input_line(dispatch) is None:
            return BackendAnswer("rejected", "content: expected Unicode text")
        if self._ending or self.lost or self._task is None:
            return NOTHING
        answer = self._gate.offer(dispatch)
        if answer.outcome == "accepted":
            settled = self._settled = asyncio.get_running_loop().create_future()
            self._wake()
            await asyncio.wait({settled, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if not settled.done():
                self._gate.withdraw(dispatch.input_id)
                return NOTHING
        return answer

    def start(self, input_id: str) -> None:
        """See Session."""
        started = self._gate.start(input_id)
        self._released.set()
        if started is not None and not self.lost:
            self._next = self._run = _Run(started)
            self._wake()

    def withdraw(self, input_id: str) -> None:
        """See Session."""
        self._gate.withdraw(input_id)
        self._released.set()

    async def interrupt(self, grace_s: float) -> None:
        """See Session."""
        run = self._run
        if run is None:
            return
        self._interrupting = self._interrupting or not run.interrupted
        run.interrupted = True
        self._wake()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(run.over.wait(), grace_s)
        if not run.over.is_set() and self._program is not None:
            await self._program.kill()
        await run.over.wait()

    async def end(self, grace_s: float) -> None:
        """See Session."""
        self._ending = True
        await finish(*(task for task in (self._task, *self._tasks) if task is not None))
        self._end_run()
        if self._program is not None:
            await self._program.stop(grace_s, protocol.STOP)

    async def _start(self) -> None:
        self._told = await asyncio.to_thread(self._home.make) or self._told
        home = self._home.path
        env = environment(self._profile.env, self._profile.env_pass)
        argv = await asyncio.to_thread(located, self._profile.command, env, home)
        command = Command(argv, home, env, self._profile.tree_limits)
        self._program = await LineProgram.start(self._supervisor, command, partial=True)

    async def _live(self) -> None:
        try:
            if self._spawn.history:
                await self._say(alert("the program was started anew: it knows nothing of what was before"))
            await self._tell_of_home()
            while self._program is not None:
                await self._hear(self._program)
        except Exception as error:  # noqa: BLE001 the Worker must not be left as if its program could still be heard
            _log.exception("what a program said could not be passed on")
            await self._give_up("protocol", unpassed(error, "program"))

    async def _tell_of_home(self) -> None:
        told, self._told = self._told, None
        if told:
            await self._say(alert(told))

    async def _hear(self, program: LineProgram) -> None:
        chunk = await self._read(program)
        if self._next is not None:
            run, self._next = self._next, None
            await self._begin(program, run)
        if self._interrupting:
            self._interrupting = False
            self._begin_task(self._write_interrupt(program))
        if chunk is None:
            await self._ended(program)
        elif not chunk.data and self._run is not None and self._run.is_over:
            await self._say(*self._ending_of(self._run, RunEnd("rolled_back")))
        elif self._why is None:
            await self._pass_on(chunk)
        if self._settled is not None:
            await self._settle(self._settled)

    async def _read(self, program: LineProgram) -> Chunk | None:
        """What the program says next; between two runs what is open is closed once nothing came for QUIET_S."""
        if self._run is not None or not self._speech.is_open:
            return await program.read()
        timer = asyncio.get_running_loop().call_later(QUIET_S, program.wake)
        try:
            chunk = await program.read()
        finally:
            timer.cancel()
        if chunk is not None and not chunk.data:
            await self._fall_quiet()
        return chunk

    async def _fall_quiet(self) -> None:
        """Close what is open, unless a run begins or an input was offered, which see to that themselves."""
        if self._run is None and self._settled is None:
            await self._say(*self._speech.pause())

    async def _settle(self, settled: asyncio.Future[None]) -> None:
        """Say what has come until an input was offered, and nothing more until that is started or withdrawn."""
        self._settled = None
        if self._program is not None and self._why is None:
            for chunk in self._program.pending():
                await self._pass_on(chunk)
            await self._say(*self._speech.pause())
        settled.set_result(None)
        while self._is_held():
            self._released.clear()
            await self._released.wait()

    def _is_held(self) -> bool:
        return self._gate.held and self._settled is None and not self.lost

    async def _begin(self, program: LineProgram, run: _Run) -> None:
        kind = run.dispatch.input.kind
        await self._say(*self._speech.closing(), InvokeStart("user_send" if kind == "user" else "notify"))
        if renewed := await self._home.renewed():
            await self._say(renewed)
        await program.begin_run()
        if self._profile.max_run_s:
            loop = asyncio.get_running_loop()
            run.deadline = loop.call_later(self._profile.max_run_s, self._fail, program, "timeout")
        self._begin_task(self._write_input(program, protocol.input_line(run.dispatch) or b""))

    async def _write_input(self, program: LineProgram, line: bytes) -> None:
        try:
            await program.write(line)
        except Unresponsive as error:
            self._fail(program, "unresponsive", str(error))
        except BrokenPipeError:
            _log.debug("a program ended before it took its input")

    async def _write_interrupt(self, program: LineProgram) -> None:
        with contextlib.suppress(OSError):  # whoever interrupts has a deadline, and a remedy
            await program.write(protocol.INTERRUPT)

    async def _pass_on(self, chunk: Chunk) -> None:
        events: list[Payload] = []
        for event in self._events(chunk):
            events.append(event)
            if len(events) >= MAX_EMITTED or isinstance(event, RunEnd):
                await self._say(*events)
                events.clear()
        await self._say(*events)
        self._await_end()
        if self._run is not None:
            self._run.received += len(chunk.data)
            if 0 < self._profile.max_output_bytes < self._run.received and self._program is not None:
                self._fail(self._program, "output")

    def _await_end(self) -> None:
        """End the run in which the program has said `error`, unless it says more before RUN_END_S are over."""
        run = self._run
        if run is None:
            return
        run.is_over = False
        if run.ending is not None:
            run.ending.cancel()
            run.ending = None
        if run.error is not None:
            run.ending = asyncio.get_running_loop().call_later(RUN_END_S, self._end_errored, run)

    def _end_errored(self, run: _Run) -> None:
        run.is_over = True
        self._wake()

    def _events(self, chunk: Chunk) -> Iterator[Payload]:
        for event in self._speech.events(chunk):
            if not isinstance(event, RunEnd | ErrorRaised):
                yield event
            elif self._run is None:
                said = f"{event.event}: {event.message}" if isinstance(event, ErrorRaised) else event.event
                yield from self._speech.complain(f"the program says this while no run is going on: {said}")
            elif isinstance(event, ErrorRaised):
                yield from self._held_error()
                self._run.error = event
            else:
                yield from self._ending_of(self._run, event)

    def _ending_of(self, run: _Run, end: RunEnd) -> Iterator[Payload]:
        yield from self._speech.closing()
        if run.interrupted:
            yield alert("the run was interrupted")
        if run.error is not None:
            yield run.error
        self._end_run()
        yield end

    def _held_error(self) -> Iterator[Payload]:
        """The error that the program has reported in this run, as something that did not end it."""
        if self._run is not None and self._run.error is not None:
            yield alert(f"the program reports an error: {self._run.error.message}", "error")
            self._run.error = None

    def _end_run(self) -> None:
        """The run is over, if one was going on: to be called just before that is said."""
        run, self._run, self._next = self._run, None, None
        if run is None:
            return
        for timer in (run.deadline, run.ending):
            if timer is not None:
                timer.cancel()
        if self._program is not None:
            self._program.end_run()
        self._gate.finish()
        run.over.set()

    def _fail(self, program: LineProgram, reason: LossReason, message: str = "") -> None:
        """End the program for this reason, unless it has one already or is replaced."""
        if self._why is None and self._program is program and not self._ending:
            self._why = (reason, message)
            self._begin_task(_kill(program))

    async def _ended(self, program: LineProgram) -> None:
        reason, message = self._why or (program.excess or "exit", "")
        message = message or explained(reason, program.status or 0, self._profile, program.last_words())
        await self._say(*self._speech.closing(), *self._held_error())
        await self._bury(program)
        is_interrupted = self._run is not None and self._run.interrupted
        if reason == "exit" and is_interrupted and self._profile.restart != "never":
            await self._start_anew()
        else:
            await self._give_up(reason, message)

    async def _start_anew(self) -> None:
        try:
            await ready_in_time(self._start(), self._profile.start_timeout_s)
        except OSError as error:
            await self._give_up("exit", f"the program could not be started anew: {cause(error)}")
            return
        told = alert(
            "the run was interrupted and its program ended: it was started anew, and knows nothing of before"
        )
        await self._tell_of_home()
        self._end_run()
        await self._say(told, RunEnd("rolled_back"))

    async def _give_up(self, reason: LossReason, message: str) -> None:
        self.lost = True
        try:
            if self._program is not None:
                await self._bury(self._program)
        finally:
            try:
                await self._sink.lose(reason, message)
            finally:
                self._end_run()

    async def _bury(self, program: LineProgram) -> None:
        try:
            await program.stop(0)
        except TimeoutError as error:
            _log.error("the program of %s ended, but %s", self._spawn.worker_id, error)
        self._program = None

    async def _say(self, *events: Payload) -> None:
        if events:
            await self._sink.emit(*events)

    def _wake(self) -> None:
        if self._program is not None:
            self._program.wake()

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = begin(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _kill(program: LineProgram) -> None:
    try:
        await program.kill()
    except TimeoutError as error:
        _log.error("a program was killed, but %s", error)
