"""Runs each user input as a script in the long-lived shell of its Worker."""

import asyncio
import logging
import shlex
from collections.abc import Sequence
from functools import partial

import attrs
import orjson

from runtimed.core.ports import Dispatch, EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import Entry
from runtimed.execution.processes.pipes import readable
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.profile import Profile
from runtimed.execution.session.backend import SessionBackend
from runtimed.execution.session.driver import DriverError, Exit, Progress, Run
from runtimed.execution.session.exit_reason import explain_exit, failure_text
from runtimed.execution.session.run_machine import START_MARGIN_S
from runtimed.execution.session.text_output import TextOutput
from runtimed.execution.session.warnings import alert
from runtimed.execution.shell.shell import BEGIN_DEADLINE_S, Shell, ShellFailed, plain
from runtimed.execution.tasks import ready_in_time
from runtimed.execution.workspace import Home, Workspaces
from runtimed.model.event import ErrorRaised, Payload, RunEnd, ToolCallDone, ToolCallStart, ToolResult
from runtimed.model.execution import LossReason
from runtimed.model.interaction import WorkerInput

TOOL = "shell"

RETURN_HOME = 'command [ . -ef "${{PWD-}}" ] || command cd -- {home} || :; '
"""Goes before a script if the Worker's folder was made again: a shell in the removed one changes to the new one."""

STATE_LOST = "variables, functions and background jobs are gone, and a fresh shell starts in the last known directory"
"""What an alert adds after a shell has ended."""

MAX_TRIES = 2
"""How many shells may end before they begin a script. Then the script fails."""

log = logging.getLogger(__name__)


class ShellBackend(SessionBackend):
    """An ExecutionBackend for all Workers of one profile. The owner of the Supervisor closes that."""

    def __init__(self, profile: Profile, workspaces: Workspaces, supervisor: Supervisor) -> None:
        super().__init__(partial(ShellDriver, profile, workspaces, supervisor), profile)


@attrs.frozen
class _End:
    """How the last shell ended.

    Attributes:
        reason: The limit that ended it, or `exit`.
        message: The same in words.
        status: Its exit status.
    """

    reason: LossReason
    message: str
    status: int


class ShellDriver:
    """One Worker's shell. If a script ends the shell, the run ends, and the next script gets a fresh shell."""

    noun = "shell"
    holds_output = True

    def __init__(
        self, profile: Profile, workspaces: Workspaces, supervisor: Supervisor, spawn: Spawn, sink: EventSink
    ) -> None:
        self._profile = profile.with_env(spawn.folders.others)
        self._home = Home(workspaces, spawn, profile.max_folder_bytes)
        self._supervisor = supervisor
        self._worker_id = spawn.worker_id
        self._sink = sink
        self._text = TextOutput(sink, spawn.max_open_text)
        self._wake = asyncio.Event()
        self._shell: Shell | None = None
        self._directory: bytes | None = None
        self._end: _End | None = None
        self._is_end_told = True
        self._run: Run | None = None
        self._is_taken = False
        self._status = 0
        self.received = 0

    @property
    def has_open_text(self) -> bool:
        return self._text.is_open

    @property
    def _is_confined(self) -> bool:
        enclosure = self._supervisor.confiner.of(self._worker_id)
        return enclosure is not None and enclosure.confines

    def refusal(self, dispatch: Dispatch) -> BackendAnswer | None:
        if dispatch.input.kind != "user":
            return BackendAnswer("unsupported", "kind: a shell takes user inputs only")
        if _script(dispatch.input) is None:
            return BackendAnswer("rejected", "content: a script must be Unicode text without the NUL character")
        return None

    async def start(self, history: Sequence[Entry] | None) -> Sequence[Payload]:
        notes = [await asyncio.to_thread(self._home.make)]
        await self._renew()
        if history:
            notes.append("a fresh shell was started: the directory and variables of the last one are lost")
        return [alert(note) for note in notes if note]

    async def restart(self) -> Sequence[Payload]:
        """Do nothing: the next script gets a fresh shell."""
        return ()

    async def begin_run(self) -> None:
        await self._text.close()

    async def write(self, run: Run) -> None:
        self._run, self._is_taken = run, False
        try:
            self._is_taken = await self._hand_over(_script(run.dispatch.input) or b"", run)
        except OSError as error:
            self._run = None
            raise DriverError(f"the script could not be run: {failure_text(error)}") from error
        if self._is_taken:
            await self._sink.emit(*_call(run.dispatch))

    async def read(self) -> Progress:
        if self._run is not None and not self._is_taken:
            return "over" if self._shell else "exited"
        if self._shell is None:
            return await self._read_nothing()
        await self._shell.activity(self._wake)
        status, exit_status = self._shell.status(), self._shell.ended
        await self._pass_on(self._shell)
        if status is not None and self._run is not None:
            self._status = status
            return "over"
        return "running" if exit_status is None else "exited"

    async def flush(self) -> None:
        if self._shell is not None:
            await self._pass_on(self._shell)
        await self._text.close()

    async def close_text(self) -> None:
        await self._text.close()

    def wake(self) -> None:
        self._wake.set()

    async def interrupt(self) -> None:
        if self._shell is not None:
            await self._shell.interrupt()

    async def kill(self) -> None:
        if self._shell is not None:
            await self._shell.kill()

    async def end_run(self, run: Run) -> Sequence[Payload]:
        self._run = None
        await self._text.close()
        return (_result(run.dispatch, self._status), *_ending(run)) if self._is_taken else _ending(run)

    async def reap(self, reason: LossReason | None, run: Run | None) -> Exit:
        if self._shell is not None:
            self._end = await self._reap(self._shell, reason)
            await self._text.close()
        end = self._end or _End("exit", "the shell ended", 0)
        self._run = None
        return Exit(end.reason, end.message, self._ending_after(end, run) if run else ())

    async def close(self, grace_s: float) -> None:
        if self._shell is not None:
            await self._shell.end(grace_s)

    async def _read_nothing(self) -> Progress:
        """Wait for the next run, if the profile allows one after the shell has ended."""
        if self._profile.restart == "never":
            return "exited"
        await readable((), self._wake)
        return "running"

    async def _pass_on(self, shell: Shell) -> None:
        output = shell.read()
        self.received += len(output)
        await self._text.feed(output)

    async def _hand_over(self, script: bytes, run: Run) -> bool:
        """Give the script to the shell, or to a fresh one if the shell has ended or ends before it begins the script.

        Returns:
            Whether a shell began the script. False if the run was interrupted before, or the shell did not respond.
        """
        script = plain(script)
        enclosure = self._supervisor.confiner.of(self._worker_id)
        if renewed := await self._home.renewed(enclosure, stays=self._profile.restart == "never"):
            await self._sink.emit(renewed)
            await self._leave_old_folder()
            script = RETURN_HOME.format(home=shlex.quote(str(self._home.path))).encode() + script
        for _ in range(MAX_TRIES):
            if self._shell is None and self._profile.restart == "never":
                break
            shell = self._shell or await self._another()
            if run.is_interrupted:
                return False
            if await shell.run(script, self._wake):
                return True
            end = self._end = await self._reap(shell, None)
            if _is_called_off(run, end):
                return False
        raise ShellFailed("the shell ended before it began the script")

    async def _leave_old_folder(self) -> None:
        """End a confined shell whose folder was made anew, for a fresh one: it never sees the new folder."""
        if self._shell is not None and self._is_confined and self._profile.restart != "never":
            self._end = await self._reap(self._shell, None)
            self._directory = None

    async def _renew(self) -> Shell:
        starting = Shell.start(self._supervisor, self._home, self._profile, self._wake, self._directory)
        self._shell = await ready_in_time(starting, self._profile.start_timeout_s + START_MARGIN_S)
        return self._shell

    async def _another(self) -> Shell:
        if self._end is not None and not self._is_end_told:
            await self._sink.emit(self._loss_alert(self._end))
        shell = await self._renew()
        if shell.lost_directory:
            await self._sink.emit(alert("the last directory cannot be entered: the script starts in the home"))
        return shell

    def _loss_alert(self, end: _End) -> Payload:
        """Return the alert that the shell has ended, which is emitted once."""
        self._is_end_told = True
        return alert(f"{end.message}; {STATE_LOST}")

    def _ending_after(self, end: _End, run: Run) -> Sequence[Payload]:
        """Return the events that end a run whose shell is gone: with an error if a limit ended the shell."""
        ending: list[Payload] = []
        message = end.message
        if not self._is_taken:
            message = f"the shell was ended: it began no script for {BEGIN_DEADLINE_S:g} s"
        else:
            if self._profile.restart != "never":
                ending.append(self._loss_alert(end))
            ending.append(_result(run.dispatch, end.status))
        if end.reason == "exit":
            return (*ending, *_ending(run))
        return (*ending, ErrorRaised("internal", message, end.reason), RunEnd("rolled_back"))

    async def _reap(self, shell: Shell, reason: LossReason | None) -> _End:
        """End a shell, emit its last output and return how it ended."""
        try:
            await shell.kill()
            await self._pass_on(shell)
            shell.read_records()
            await shell.end(0)
        except TimeoutError as error:
            log.error("not all of a shell has ended", extra={"worker_id": self._worker_id, "reason": error})
        self._shell, self._directory, self._is_end_told = None, shell.directory or self._directory, False
        reason, status = reason or shell.excess or "exit", shell.ended or 0
        message = explain_exit(reason, status, self._profile, what="shell", folder_bytes=shell.folder_bytes)
        return _End(reason, message, status)


def _script(given: WorkerInput) -> bytes | None:
    try:
        script = given.content.encode()
    except UnicodeEncodeError:
        return None
    return None if b"\0" in script else script


def _is_called_off(run: Run, end: _End) -> bool:
    """Return whether the script of this run must not be given to another shell."""
    return run.is_interrupted or end.reason == "unresponsive"


def _call(dispatch: Dispatch) -> tuple[Payload, Payload]:
    arguments = orjson.dumps({"script": dispatch.input.content}).decode()
    return ToolCallStart(dispatch.input_id, TOOL), ToolCallDone(dispatch.input_id, TOOL, arguments)


def _result(dispatch: Dispatch, status: int) -> ToolResult:
    summary = f"exit status {status}"
    return ToolResult(dispatch.input_id, summary, is_error=status != 0, exit_status=status)


def _ending(run: Run) -> tuple[Payload, ...]:
    if not run.is_interrupted:
        return (RunEnd("finished"),)
    return alert("the run was interrupted"), RunEnd("rolled_back")
