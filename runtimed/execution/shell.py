"""`builtin:shell`: one long-lived shell for each Worker, each user input a script run in it."""

import asyncio
import contextlib
import logging
import time
from pathlib import Path

import attrs
import orjson

from runtimed.core.ports import Answer, Dispatch, EventSink, Spawn
from runtimed.execution.driver import Shell, ShellFailed
from runtimed.execution.gate import Gate
from runtimed.execution.output import TextOutput
from runtimed.execution.pipes import readable
from runtimed.execution.profile import Profile
from runtimed.execution.supervise import Supervisor, environment
from runtimed.execution.tasks import begin, finish
from runtimed.execution.workspace import Workspaces
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
from runtimed.model.identity import WorkerId
from runtimed.model.interaction import WorkerInput

TOOL = "shell"

MAX_TRIES = 2
"""How many shells may end before they take a script, until it is given up."""

_log = logging.getLogger(__name__)


class ShellBackend:
    """An ExecutionBackend for all Workers of one profile. Whoever gave it the Supervisor closes that."""

    def __init__(self, profile: Profile, workspaces: Workspaces, supervisor: Supervisor) -> None:
        self._profile = profile
        self._workspaces = workspaces
        self._supervisor = supervisor
        self._sessions: dict[WorkerId, _Session] = {}

    async def spawn(self, spawn: Spawn, sink: EventSink) -> Answer:
        if spawn.worker_id in self._sessions:
            return Answer("rejected", "this Worker is running already")
        session = _Session(self._profile, self._supervisor, sink)
        self._sessions[spawn.worker_id] = session
        answer = await session.open(self._workspaces, spawn.worker_id)
        if answer.outcome != "accepted":
            self._forget(spawn.worker_id, session)
        elif spawn.history:
            await sink.emit(_warning("a fresh shell was started: the directory and variables of the last are gone"))
        return answer

    async def dispatch(self, dispatch: Dispatch) -> Answer:
        session = self._sessions.get(dispatch.worker_id)
        return session.offer(dispatch) if session else Answer("errored", "nothing runs this Worker")

    def start(self, worker_id: WorkerId, input_id: str) -> None:
        if session := self._sessions.get(worker_id):
            session.start(input_id)

    def withdraw(self, worker_id: WorkerId, input_id: str) -> None:
        if session := self._sessions.get(worker_id):
            session.withdraw(input_id)

    async def interrupt(self, worker_id: WorkerId) -> Answer:
        session = self._sessions.get(worker_id)
        try:
            if session is not None:
                await session.interrupt(self._profile.stop_grace_s)
        except TimeoutError as error:
            return Answer("errored", str(error))
        return Answer("accepted")

    async def stop(self, worker_id: WorkerId, reason: str | None) -> Answer:
        return await self._end(worker_id, self._profile.stop_grace_s)

    async def cancel(self, worker_id: WorkerId, reason: str | None) -> Answer:
        return await self._end(worker_id, 0)

    async def delete(self, worker_id: WorkerId) -> None:
        """Nothing is kept but the folder, which is not this one's to remove."""

    async def close(self) -> None:
        await asyncio.gather(*(self._end(worker_id, self._profile.stop_grace_s) for worker_id in self._sessions))

    async def _end(self, worker_id: WorkerId, grace: float) -> Answer:
        session = self._sessions.get(worker_id)
        if session is None:
            return Answer("accepted")
        try:
            await session.end(grace)
        except TimeoutError as error:
            return Answer("errored", str(error))
        finally:
            self._forget(worker_id, session)
        return Answer("accepted")

    def _forget(self, worker_id: WorkerId, session: "_Session") -> None:
        if self._sessions.get(worker_id) is session:
            del self._sessions[worker_id]


@attrs.define(eq=False)
class _Run:
    """A script from `start` to its end; `over` is set just before that is said."""

    dispatch: Dispatch
    interrupted: bool = False
    over: asyncio.Event = attrs.field(factory=asyncio.Event)


class _Session:
    """One Worker: its shell, renewed when a script has ended it, and the one task that says what happens."""

    def __init__(self, profile: Profile, supervisor: Supervisor, sink: EventSink) -> None:
        self._profile = profile
        self._supervisor = supervisor
        self._sink = sink
        self._text = TextOutput(sink)
        self._gate = Gate()
        self._next: _Run | None = None
        self._current: _Run | None = None
        self._wake = asyncio.Event()
        self._folder = Path()
        self._shell: Shell | None = None
        self._ended: int | None = None
        self._ending = False
        self._task: asyncio.Task[None] | None = None

    async def open(self, workspaces: Workspaces, worker_id: WorkerId) -> Answer:
        """Start the shell. Errored when that can't be done, or the session is ended meanwhile."""
        opening = self._task = asyncio.create_task(self._open(workspaces, worker_id))
        await asyncio.wait({opening})
        if self._ending or opening.cancelled():
            return Answer("errored", "the Worker was ended before its shell was ready")
        if error := opening.exception():
            _log.error("a shell could not be started", exc_info=error)
            return Answer("errored", f"no shell could be started: {error}")
        self._task = begin(self._live())
        return Answer("accepted")

    def offer(self, dispatch: Dispatch) -> Answer:
        """Accept an input, or say why not."""
        if dispatch.input.kind != "user":
            return Answer("unsupported", "kind: a shell takes user inputs only")
        if _script(dispatch.input) is None:
            return Answer("rejected", "content: a script must be Unicode text without the NUL character")
        if self._ending or self._task is None or self._task.done():
            return Answer("errored", "nothing runs this Worker any more: stop it")
        if self._gate.busy:
            return Answer("busy", "a run is going on: wait for its run_end")
        self._gate.offer(dispatch)
        return Answer("accepted")

    def start(self, input_id: str) -> None:
        """Let the accepted input run."""
        if started := self._gate.start(input_id):
            self._next = self._current = _Run(started)
            self._wake.set()

    def withdraw(self, input_id: str) -> None:
        """Forget the accepted input."""
        self._gate.withdraw(input_id)

    async def interrupt(self, grace: float) -> None:
        """Have the script end; where it has not after `grace` seconds, kill its shell. As Tree.end."""
        run = self._current
        if run is None or not self._gate.running:
            return
        run.interrupted = True
        self._wake.set()
        while not run.over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(run.over.wait(), grace)
                break
            if self._shell is not None:
                await self._shell.kill()

    async def end(self, grace: float) -> None:
        """Fall silent, then end the shell and all that it started; as Tree.end."""
        self._ending = True
        if self._task is not None:
            await finish(self._task)
        if self._current is not None:
            self._current.over.set()
        if self._shell is not None:
            await self._shell.end(grace)

    async def _open(self, workspaces: Workspaces, worker_id: WorkerId) -> None:
        self._folder = await asyncio.to_thread(lambda: workspaces.worker_folder(worker_id).absolute())
        await self._renew()

    async def _renew(self) -> Shell:
        env = environment(self._profile.env)
        self._shell = await Shell.start(self._supervisor, self._folder, env, self._wake)
        return self._shell

    async def _live(self) -> None:
        while True:
            await self._run(await self._idle())

    async def _idle(self) -> _Run:
        while self._next is None:
            if self._shell is not None:
                await self._follow(self._shell)
            else:
                await readable((), self._wake)
        taken, self._next = self._next, None
        return taken

    async def _run(self, run: _Run) -> None:
        dispatch = run.dispatch
        script = _script(dispatch.input) or b""
        await self._text.close()
        await self._sink.emit(InvokeStart("user_send"))
        try:
            shell = await self._hand_over(script)
        except OSError as error:
            await self._fail(run, error)
            return
        await self._sink.emit(*_call(dispatch))
        status = await self._end_of(run, shell)
        await self._text.close()
        self._finish(run)
        await self._sink.emit(_result(dispatch, status), *_end(run))

    async def _end_of(self, run: _Run, shell: Shell) -> int:
        """Say what the script says until it has ended; it is interrupted once, when that is wanted."""
        status, told = None, False
        while status is None:
            if run.interrupted and not told:
                told = True
                await shell.interrupt()
            status = await self._follow(shell)
        return status

    async def _hand_over(self, script: bytes) -> Shell:
        """Give the script to the shell; to a fresh one where that has ended, or ends before it took the script."""
        for _ in range(MAX_TRIES):
            shell = self._shell or await self._another()
            if await shell.run(script, self._wake):
                return shell
            await self._bury(shell)
        raise ShellFailed("the shell ends before it takes a script")

    async def _another(self) -> Shell:
        await self._sink.emit(_alert(self._ended))
        return await self._renew()

    def _finish(self, run: _Run) -> None:
        self._gate.finish()
        run.over.set()

    async def _fail(self, run: _Run, error: OSError) -> None:
        _log.error("a script could not be run: %s", error)
        self._finish(run)
        failed = ErrorRaised("internal", f"the script could not be run: {error.strerror or error}")
        await self._sink.emit(failed, RunEnd("rolled_back"))

    async def _follow(self, shell: Shell) -> int | None:
        """Say what has come next; the status once the script, or the whole shell, has ended."""
        await shell.activity(self._wake)
        told, ended = shell.status(), shell.ended
        await self._text.feed(shell.read())
        if ended is not None:
            await self._bury(shell)
        return ended if told is None else told

    async def _bury(self, shell: Shell) -> None:
        await self._text.feed(shell.read())
        self._shell, self._ended = None, shell.ended
        try:
            await shell.end(0)
        except TimeoutError as error:
            _log.error("a shell ended, but %s", error)


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
    return _warning("the run was interrupted"), RunEnd("rolled_back")


def _alert(status: int | None) -> Alert:
    message = f"the shell had ended with status {status}; a fresh one starts: its directory and variables are new"
    return _warning(message)


def _warning(message: str) -> Alert:
    return Alert("warn", "worker", message, time.time_ns() // 1_000_000)
