"""Runs each input as a prompt of the agent of its Worker."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtimed.core.ports import Dispatch, EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import Entry
from runtimed.execution.acp.agent import METHOD_NOT_FOUND, AgentFailed, AgentRefused
from runtimed.execution.acp.handshake import Handshake, Opened
from runtimed.execution.acp.inbox import Inbox
from runtimed.execution.acp.prompt import blocks, introduction
from runtimed.execution.acp.terminals import Terminals
from runtimed.execution.acp.update_reader import UpdateReader
from runtimed.execution.acp.update_translator import CANCELLED
from runtimed.execution.acp.warm_pool import WarmPool
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.profile import Profile
from runtimed.execution.session.driver import DriverError, Exit, Progress, Run
from runtimed.execution.session.exit_reason import failure_text
from runtimed.execution.session.warnings import alert
from runtimed.execution.tasks import finish
from runtimed.execution.workspace import Workspaces
from runtimed.model.event import Payload, RunEnd
from runtimed.model.execution import LossReason
from runtimed.model.interaction import AttachmentForm

NO_AGENT = "check whether its command speaks ACP, and whether it needs an option for that"

_FAILURES = (AgentFailed, AgentRefused, OSError)
log = logging.getLogger(__name__)


class AcpDriver:
    """One Worker's agent with its session and terminals.

    If the agent ends, the Worker is lost. If it ends because a run was interrupted, it is started again and its
    session is opened again.
    """

    noun = "agent"
    holds_output = False

    def __init__(
        self,
        profile: Profile,
        supervisor: Supervisor,
        workspaces: Workspaces,
        spawn: Spawn,
        sink: EventSink,
        warm_pool: WarmPool | None = None,
    ) -> None:
        self._profile = profile = profile.with_env(spawn.folders.others)
        self._intent = spawn.request.intent
        self._inbox = Inbox()
        self._reader = UpdateReader(profile, sink, self._inbox, spawn.max_open_text)
        self._translator = self._reader.translator
        self._terminals = Terminals(profile, supervisor, spawn.worker_id)
        self._handshake = Handshake(profile, supervisor, workspaces, spawn, warm_pool)
        self._opened: Opened | None = None
        self._run: Run | None = None
        self._prompt: asyncio.Task[dict[str, Any]] | None = None

    @property
    def received(self) -> int:
        return self._opened.agent.received if self._opened is not None else 0

    @property
    def has_open_text(self) -> bool:
        return self._translator.has_open_text

    @property
    def attachments(self) -> frozenset[AttachmentForm]:
        """The forms of attachments that the agent takes. Every agent takes links."""
        if self._opened is None:
            return frozenset()
        able = self._opened.agent.abilities
        forms: dict[AttachmentForm, bool] = {"link": True, "image": able.images, "resource": able.resources}
        return frozenset(form for form, is_taken in forms.items() if is_taken)

    def refusal(self, dispatch: Dispatch) -> BackendAnswer | None:
        try:
            dispatch.input.content.encode()
        except UnicodeEncodeError:
            return BackendAnswer("rejected", "content: a message must be Unicode text")
        return None

    async def start(self, history: Sequence[Entry] | None) -> Sequence[Payload]:
        self._inbox.listening = False
        try:
            opened = self._opened = await self._handshake.open(self._inbox, self._terminals, history)
        except AgentRefused as error:
            raise DriverError(self._refused(error)) from None
        self._reader.session_id = opened.saved.session_id
        self._translator.show_paths_from(str(self._handshake.home))
        self._inbox.listening = True
        return [alert(note) for note in (self._handshake.note, opened.remark) if note]

    async def restart(self) -> Sequence[Payload]:
        try:
            return await self.start(())
        except OSError as error:
            raise DriverError(failure_text(error)) from error

    async def begin_run(self) -> None:
        await self._reader.emit(self._translator.begin())

    async def write(self, run: Run) -> None:
        self._run = run
        if (opened := self._opened) is None:
            return
        if renewed := await self._handshake.renew_home(opened):
            await self._reader.emit((renewed,))
        await opened.agent.begin_run()
        await self._terminals.begin_run()
        self._prompt = asyncio.create_task(self._send_prompt(run, opened))
        self._prompt.add_done_callback(lambda _: self._inbox.wake())

    async def read(self) -> Progress:
        if self._opened is None:
            return "exited"
        if self._prompt is None:
            return await self._read_between_runs(self._opened)
        if not self._prompt.done():
            await self._inbox.changed()
            await self._reader.read(asked=self._run is None or not self._run.is_interrupted)
        if not self._prompt.done():
            return "running"
        await self._reader.settle()
        return "exited" if isinstance(self._prompt.exception(), AgentFailed) else "over"

    async def flush(self) -> None:
        await self._reader.read()
        await self.close_text()

    async def close_text(self) -> None:
        await self._reader.emit(self._translator.close_text())

    def wake(self) -> None:
        self._inbox.wake()

    async def interrupt(self) -> None:
        run, opened = self._run, self._opened
        if run is None or opened is None:
            return
        await asyncio.sleep(0)  # what the prompt's task has to write comes first
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(run.grace_s):
                await opened.agent.cancel(opened.saved.session_id)
        await self._reader.dismiss()

    async def kill(self) -> None:
        if self._opened is not None:
            await self._opened.agent.kill()

    async def end_run(self, run: Run) -> Sequence[Payload]:
        prompt = self._prompt
        await self._end_prompt()
        error = prompt.exception() if prompt is not None else None
        if error is not None and not isinstance(error, _FAILURES):
            raise error
        if error is not None and not run.is_interrupted:
            payloads = self._translator.fail(_reason(error))
        else:
            response = {"stopReason": CANCELLED} if error is not None or prompt is None else prompt.result()
            payloads = self._translator.end(response, interrupted=run.is_interrupted)
        return (*self._reader.held(), *payloads)

    async def reap(self, reason: LossReason | None, run: Run | None) -> Exit:
        failed = await self._exit_error(reason)
        await self._end_prompt()
        await self._terminals.close()
        self._opened = None
        if failed.reason == "exit" and run is not None and run.is_interrupted:
            return await self._interrupted_exit(run)
        await self._emit_rest()
        return Exit(failed.reason, str(failed))

    async def close(self, grace_s: float) -> None:
        is_running = self._run is not None
        await self._end_prompt()
        self._inbox.listening = False
        try:
            if self._opened is not None:
                await self._opened.agent.stop(grace_s, self._opened.saved.session_id, is_running=is_running)
        finally:
            await self._terminals.close()
            await self._reader.emit((*self._reader.held(), *self._translator.spent()))

    async def _read_between_runs(self, opened: Opened) -> Progress:
        if not opened.agent.ended:
            await self._inbox.changed()
        await self._reader.read()
        return "exited" if opened.agent.ended else "running"

    async def _send_prompt(self, run: Run, opened: Opened) -> dict[str, Any]:
        context = None
        if not opened.saved.introduced:
            context = introduction(self._intent)
            self._opened = await self._handshake.remember(opened, introduced=True)
        if run.is_interrupted:
            if context is not None:
                self._opened = await self._handshake.remember(opened, introduced=False)
            return {"stopReason": CANCELLED}
        given = run.dispatch.input
        prompt = await asyncio.to_thread(blocks, given, context) if given.attachments else blocks(given, context)
        return await opened.agent.prompt(opened.saved.session_id, prompt)

    async def _end_prompt(self) -> None:
        """Forget the prompt and the requests of the agent: its run is over."""
        prompt, self._prompt, self._run = self._prompt, None, None
        if prompt is not None:
            await finish(prompt)
        if self._opened is not None:
            self._opened.agent.end_run()
        self._terminals.end_run()
        await self._reader.dismiss()

    async def _exit_error(self, reason: LossReason | None) -> AgentFailed:
        """End what is left of the agent, and return why it ended."""
        if self._opened is None:
            return AgentFailed("exit", "the agent ended")
        if reason is not None:
            return await self._opened.agent.end_for(reason)
        if self._prompt is not None and self._prompt.done():
            error = self._prompt.exception()
            if isinstance(error, AgentFailed):
                return error
        return await self._opened.agent.exit_error()

    async def _interrupted_exit(self, run: Run) -> Exit:
        why = "the run was interrupted and the agent ended"
        if run.is_killed:
            why = f"the agent did not end its run within {run.grace_s:g} seconds"
        await self._reader.read(asked=False)
        closing = (*self._reader.held(), *self._translator.close(CANCELLED), *self._translator.spent())
        if self._profile.restart == "never":
            await self._reader.emit(closing)
            return Exit("exit", why)
        return Exit("exit", why, (*closing, alert(f"{why}: it is started again"), RunEnd("rolled_back")))

    async def _emit_rest(self) -> None:
        """Emit what an agent that has ended left behind. Failures are logged."""
        try:
            await self._reader.read(asked=False)
            await self._reader.emit((*self._reader.held(), *self._translator.settle(), *self._translator.spent()))
        except Exception:
            log.exception("the last output of an agent could not be passed on")

    def _refused(self, error: AgentRefused) -> str:
        """Return which program refused to open a session, and why."""
        hint = f"; {NO_AGENT}" if error.code == METHOD_NOT_FOUND else ""
        return f"{Path(self._profile.command[0]).name} refused to open a session: {error}{hint}"


def _reason(error: BaseException) -> str:
    """Return what went wrong, in words for clients: without paths of this host."""
    return str(error) if isinstance(error, AgentFailed | AgentRefused) else failure_text(error)
