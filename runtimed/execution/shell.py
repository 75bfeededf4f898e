"""`builtin:shell`: one long-lived shell for each Worker, each user input a script run in it."""

import asyncio
import contextlib
import logging
import shlex
from collections.abc import Iterator
from functools import partial

import attrs
import orjson

from runtimed.core.ports import Dispatch, EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.complaints import alert
from runtimed.execution.driver import TAKE_DEADLINE_S, Shell, ShellFailed, plain
from runtimed.execution.gate import Gate
from runtimed.execution.loss import cause, explained, unpassed
from runtimed.execution.output import QUIET_S, TextOutput
from runtimed.execution.pipes import readable
from runtimed.execution.profile import Profile
from runtimed.execution.sessions import NOTHING, START_MARGIN_S, SessionBackend
from runtimed.execution.supervise import Supervisor
from runtimed.execution.tasks import begin, finish, ready_in_time
from runtimed.execution.workspace import Home, Workspaces
from runtimed.model.event import (
    Alert,
    ErrorRaised,
    InvokeStart,
    Payload,
    RunEnd,
    ToolCallDone,
    ToolCallStart,
    ToolResult,
)
from runtimed.model.execution import LossReason
from runtimed.model.interaction import WorkerInput

TOOL = "shell"

RETURN = 'command [ . -ef "${{PWD-}}" ] || command cd -- {home} || :; '
"""Stands before a script where the folder of the Worker was made anew, and has a shell leave one that is gone."""

FRESH = (
    "variables, functions and background jobs are gone, and a fresh shell begins in the last directory that is known"
)
"""What is told of a shell that has ended."""

MAX_TRIES = 2
"""How many shells may end before they take a script, until it is given up."""

_log = logging.getLogger(__name__)


class ShellBackend(SessionBackend):
    """An ExecutionBackend for all Workers of one profile. Whoever gave it the Supervisor closes that."""

    def __init__(self, profile: Profile, workspaces: Workspaces, supervisor: Supervisor) -> None:
        super().__init__(partial(_Session, profile, workspaces, supervisor), profile)


@attrs.define(eq=False)
class _Run:
    """A script from `start` to its end; `over` is set just before that is said."""

    dispatch: Dispatch
    received: int = 0
    interrupted: bool = False
    over: asyncio.Event = attrs.field(factory=asyncio.Event)


class _Session:
    """One Worker: its shell, renewed when a script has ended it, and the one task that says what happens."""

    def __init__(
        self, profile: Profile, workspaces: Workspaces, supervisor: Supervisor, spawn: Spawn, sink: EventSink
    ) -> None:
        self._profile = profile
        self._home = Home(workspaces, spawn)
        self._supervisor = supervisor
        self._spawn = spawn
        self._sink = sink
        self._text = TextOutput(sink, spawn.max_open_text)
        self._gate = Gate()
        self._next: _Run | None = None
        self._current: _Run | None = None
        self._wake = asyncio.Event()
        self._settled: asyncio.Future[None] | None = None
        self._shell: Shell | None = None
        self._directory: bytes | None = None
        self._ended: str | None = None
        self._gone = ""
        self._excess: LossReason | None = None
        self._received = 0
        self._ending = False
        self._task: asyncio.Task[None] | None = None
        self.lost = False

    async def open(self) -> BackendAnswer:
        """See Session."""
        opening = self._task = asyncio.create_task(self._open())
        await asyncio.wait({opening})
        if self._ending or opening.cancelled():
            return BackendAnswer("errored", "the Worker was ended before its shell was ready")
        if error := opening.exception():
            unknown = None if isinstance(error, OSError) else error
            _log.error("the shell of %s could not be started: %s", self._spawn.worker_id, error, exc_info=unknown)
            return BackendAnswer("errored", f"no shell could be started: {cause(error)}")
        if self._spawn.history:
            await self._sink.emit(
                alert("a fresh shell was started: the directory and variables of the last are gone")
            )
        self._task = begin(self._live())
        return BackendAnswer("accepted")

    async def offer(self, dispatch: Dispatch) -> BackendAnswer:
        """See Session. What was said between the runs is told, and its text closed, before an input is accepted."""
        if dispatch.input.kind != "user":
            return BackendAnswer("unsupported", "kind: a shell takes user inputs only")
        if _script(dispatch.input) is None:
            return BackendAnswer("rejected", "content: a script must be Unicode text without the NUL character")
        if self._ending or self.lost or self._task is None or self._task.done():
            return NOTHING
        answer = self._gate.offer(dispatch)
        if answer.outcome == "accepted":
            settled = self._settled = asyncio.get_running_loop().create_future()
            self._wake.set()
            await asyncio.wait({settled, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if not settled.done():
                self._gate.withdraw(dispatch.input_id)
                return NOTHING
        return answer

    def start(self, input_id: str) -> None:
        """See Session."""
        started = self._gate.start(input_id)
        if started is not None and not self.lost:
            self._next = self._current = _Run(started)
            self._wake.set()

    def withdraw(self, input_id: str) -> None:
        """See Session."""
        self._gate.withdraw(input_id)
        self._wake.set()

    async def interrupt(self, grace_s: float) -> None:
        """See Session. Where the script has not ended after the grace, its shell is killed."""
        run = self._current
        if run is None or not self._gate.running:
            return
        run.interrupted = True
        self._wake.set()
        while not run.over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(run.over.wait(), grace_s)
                break
            if self._shell is not None:
                await self._shell.kill()

    async def end(self, grace_s: float) -> None:
        """See Session."""
        self._ending = True
        if self._task is not None:
            await finish(self._task)
        if self._current is not None:
            self._current.over.set()
        if self._shell is not None:
            await self._shell.end(grace_s)

    async def _open(self) -> None:
        if told := await asyncio.to_thread(self._home.make):
            await self._sink.emit(alert(told))
        await self._renew()

    async def _renew(self) -> Shell:
        starting = Shell.start(self._supervisor, self._home, self._profile, self._wake, self._directory)
        self._shell = await ready_in_time(starting, self._profile.start_timeout_s + START_MARGIN_S)
        return self._shell

    async def _live(self) -> None:
        try:
            while not self.lost:
                await self._step()
        except Exception as error:  # noqa: BLE001 whatever it is, the run must end and the shell must not go on unheard
            _log.exception("what a shell said could not be passed on")
            await self._lose("protocol", unpassed(error, "shell"))

    async def _step(self) -> None:
        if self._shell is None and self._profile.restart == "never":
            await self._lose(self._excess or "exit", self._gone)
        elif self._next is not None:
            run, self._next = self._next, None
            await self._run(run)
        elif self._gate.held:
            await self._settle()
        elif self._shell is not None:
            await self._overhear(self._shell)
        else:
            await readable((), self._wake)

    async def _lose(self, reason: LossReason, message: str) -> None:
        """Tell that the shell is gone and no other follows by itself; nothing of it is left."""
        self.lost = True
        try:
            if self._shell is not None:
                await self._shell.end(0)
        except Exception:  # noqa: BLE001 the loss must be told all the same
            _log.exception("the shell of %s was given up, but could not be ended", self._spawn.worker_id)
        finally:
            self._shell = None
            self._gate.finish()
            try:
                await self._sink.lose(reason, message)
            finally:
                if self._current is not None:
                    self._current.over.set()

    async def _overhear(self, shell: Shell) -> None:
        """Say what comes between two runs; once nothing more came for QUIET_S, its text is closed."""
        timer = asyncio.get_running_loop().call_later(QUIET_S, self._wake.set) if self._text.is_open else None
        try:
            said = self._received
            await self._follow(shell)
        finally:
            if timer is not None:
                timer.cancel()
        if self._received == said or self._shell is None:
            await self._text.close()

    async def _settle(self) -> None:
        """Say what has come until an input was offered, and nothing more until that is started or withdrawn."""
        if self._settled is None or self._settled.done():
            await readable((), self._wake)
            return
        if self._shell is not None:
            await self._text.feed(self._shell.read())
        await self._text.close()
        self._settled.set_result(None)

    async def _run(self, run: _Run) -> None:
        dispatch = run.dispatch
        script = _script(dispatch.input) or b""
        await self._text.close()
        await self._sink.emit(InvokeStart("user_send"))
        try:
            shell = await self._hand_over(script, run)
        except OSError as error:
            await self._fail(run, error)
            return
        if shell is None:
            self._finish(run)
            await self._sink.emit(*self._end(run, taken=False))
            return
        await self._sink.emit(*_call(dispatch))
        status = await self._end_of(run, shell)
        await self._text.close()
        if self._ended is not None and self._profile.restart != "never":
            await self._sink.emit(self._farewell(self._ended))
        self._finish(run)
        await self._sink.emit(_result(dispatch, status), *self._end(run))

    async def _end_of(self, run: _Run, shell: Shell) -> int:
        """Say what the script says until it has ended; it is interrupted once, when that is wanted."""
        status, told = None, False
        with self._deadline(shell):
            while status is None:
                if run.interrupted and not told:
                    told = True
                    await shell.interrupt()
                status = await self._follow(shell, run)
        return status

    @contextlib.contextmanager
    def _deadline(self, shell: Shell) -> Iterator[None]:
        if not self._profile.max_run_s:
            yield
            return
        timer = asyncio.get_running_loop().call_later(self._profile.max_run_s, shell.exceed, "timeout")
        try:
            yield
        finally:
            timer.cancel()

    async def _hand_over(self, script: bytes, run: _Run) -> Shell | None:
        """Give the script to the shell; to a fresh one where that has ended, or ends before it took the script.

        None where the shell was ended for a reason of the run, before it took the script.
        """
        self._excess = None
        script = plain(script)
        if renewed := await self._home.renewed():
            await self._sink.emit(renewed)
            script = RETURN.format(home=shlex.quote(str(self._home.path))).encode() + script
        for _ in range(MAX_TRIES):
            shell = self._shell or await self._another()
            if self._is_called_off(run):
                return None
            if await shell.run(script, self._wake):
                return shell
            await self._bury(shell)
            if self._is_called_off(run):
                return None
            if self._profile.restart == "never":
                break
        raise ShellFailed("the shell ends before it takes a script")

    def _is_called_off(self, run: _Run) -> bool:
        return run.interrupted or self._excess == "unresponsive"

    async def _another(self) -> Shell:
        if self._ended is not None:
            await self._sink.emit(self._farewell(self._ended))
        shell = await self._renew()
        if shell.astray:
            await self._sink.emit(alert("the last directory can't be entered any more: the script begins at home"))
        return shell

    def _farewell(self, ended: str) -> Alert:
        """The alert that the shell has ended; it is told once."""
        self._ended = None
        return alert(f"{ended}; {FRESH}")

    def _end(self, run: _Run, *, taken: bool = True) -> tuple[Payload, ...]:
        """How a run ends: an error where the shell was ended for a reason, which every backend tells in this way."""
        if self._excess is None:
            return _end(run)
        message = self._gone if taken else f"the shell was ended: it took no script for {TAKE_DEADLINE_S:g} s"
        return ErrorRaised("internal", message, self._excess), RunEnd("rolled_back")

    def _finish(self, run: _Run) -> None:
        self._gate.finish()
        run.over.set()

    async def _fail(self, run: _Run, error: OSError) -> None:
        _log.error("a script of %s could not be run: %s", self._spawn.worker_id, error)
        self._finish(run)
        failed = ErrorRaised("internal", f"the script could not be run: {cause(error)}")
        await self._sink.emit(failed, RunEnd("rolled_back"))

    async def _follow(self, shell: Shell, run: _Run | None = None) -> int | None:
        """Say what has come next; the status once the script, or the whole shell, has ended."""
        await shell.activity(self._wake)
        told, ended = shell.status(), shell.ended
        output = shell.read()
        self._received += len(output)
        await self._text.feed(output)
        if run is not None:
            run.received += len(output)
            if 0 < self._profile.max_output_bytes < run.received:
                shell.exceed("output")
        if ended is not None:
            await self._bury(shell)
        return ended if told is None else told

    async def _bury(self, shell: Shell) -> None:
        await self._text.feed(shell.read())
        shell.listen()
        self._shell, self._excess, self._directory = None, shell.excess, shell.directory or self._directory
        self._ended = explained(shell.excess or "exit", shell.ended or 0, self._profile, what="shell")
        self._gone = self._ended
        try:
            await shell.end(0)
        except TimeoutError as error:
            _log.error("the shell of %s ended, but %s", self._spawn.worker_id, error)


def _script(given: WorkerInput) -> bytes | None:
    try:
        script = given.content.encode()
    except UnicodeEncodeError:
        return None
    return None if b"\0" in script else script


def _call(dispatch: Dispatch) -> tuple[Payload, Payload]:
    arguments = orjson.dumps({"script": dispatch.input.content}).decode()
    return ToolCallStart(dispatch.input_id, TOOL), ToolCallDone(dispatch.input_id, TOOL, arguments)


def _result(dispatch: Dispatch, status: int) -> ToolResult:
    summary = f"exit status {status}"
    return ToolResult(dispatch.input_id, summary, is_error=status != 0, exit_status=status)


def _end(run: _Run) -> tuple[Payload, ...]:
    if not run.interrupted:
        return (RunEnd("finished"),)
    return alert("the run was interrupted"), RunEnd("rolled_back")
