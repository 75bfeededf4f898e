"""One Worker and its agent: its runs, one at a time, and how they end."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from runtimed.core.ports import Dispatch, EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import Entry
from runtimed.execution.acp.agent import METHOD_NOT_FOUND, AgentFailed, AgentRefused
from runtimed.execution.acp.inbox import Inbox
from runtimed.execution.acp.listener import Listener
from runtimed.execution.acp.mapping import CANCELLED
from runtimed.execution.acp.opening import Opened, Opener
from runtimed.execution.acp.prompt import blocks, introduction
from runtimed.execution.acp.terminals import Terminals
from runtimed.execution.complaints import alert
from runtimed.execution.gate import Gate
from runtimed.execution.loss import cause, unpassed
from runtimed.execution.profile import Profile
from runtimed.execution.sessions import NOTHING, START_MARGIN_S
from runtimed.execution.supervise import Supervisor
from runtimed.execution.tasks import begin, finish, ready_in_time
from runtimed.execution.workspace import Workspaces
from runtimed.model.event import InvokeStart, Payload, RunEnd
from runtimed.model.execution import LossReason

NO_AGENT = "see whether its command speaks ACP, or lacks an option for that"

_FAILURES = (AgentFailed, AgentRefused, OSError)
_log = logging.getLogger(__name__)


@attrs.define(eq=False)
class _Run:
    """An input on its way through the agent; `over` once its `run_end` was said."""

    dispatch: Dispatch
    interrupted: bool = False
    grace_s: float = 0.0
    over: asyncio.Event = attrs.field(factory=asyncio.Event)


class AcpSession:
    """Owns the agent of one Worker, its terminals, and the one task that takes what it says."""

    def __init__(
        self, profile: Profile, supervisor: Supervisor, workspaces: Workspaces, spawn: Spawn, sink: EventSink
    ) -> None:
        self._profile = profile
        self._spawn = spawn
        self._sink = sink
        self._inbox = Inbox()
        self._gate = Gate()
        self._listener = Listener(profile, sink, self._inbox, spawn.max_open_text)
        self._terminals = Terminals(profile, supervisor)
        self._opener = Opener(profile, supervisor, workspaces, spawn)
        self._opened: Opened | None = None
        self._current: _Run | None = None
        self._next: _Run | None = None
        self._ending = False
        self._task: asyncio.Task[None] | None = None
        self.lost = False

    async def open(self) -> BackendAnswer:
        """See Session."""
        opening = asyncio.create_task(self._open(self._spawn.history))
        self._task = opening
        await asyncio.wait({opening})
        if self._ending or opening.cancelled():
            return BackendAnswer("errored", "the Worker was ended before its agent was ready")
        if error := opening.exception():
            unknown = None if isinstance(error, _FAILURES) else error
            _log.error("the agent of %s could not be started: %s", self._spawn.worker_id, error, exc_info=unknown)
            return BackendAnswer("errored", f"no agent could be started: {self._unopened(error)}")
        self._task = begin(self._live())
        return BackendAnswer("accepted")

    async def offer(self, dispatch: Dispatch) -> BackendAnswer:
        """See Session."""
        try:
            dispatch.input.content.encode()
        except UnicodeEncodeError:
            return BackendAnswer("rejected", "content: a message must be Unicode text")
        if self._ending or self.lost:
            return NOTHING
        return self._gate.offer(dispatch)

    def start(self, input_id: str) -> None:
        """See Session."""
        started = self._gate.start(input_id)
        if started is not None and not self.lost:
            self._current = self._next = _Run(started)
            self._inbox.wake()

    def withdraw(self, input_id: str) -> None:
        """See Session."""
        self._gate.withdraw(input_id)

    async def interrupt(self, grace_s: float) -> None:
        """See Session."""
        if (run := self._current) is not None:
            run.interrupted, run.grace_s = True, grace_s
            self._inbox.wake()
            await run.over.wait()

    async def end(self, grace_s: float) -> None:
        """See Session."""
        self._ending = True
        running = self._current is not None
        if self._task is not None:
            await finish(self._task)
        if self._current is not None:
            self._current.over.set()
        await self._listener.dismiss()
        try:
            if self._opened is not None:
                await self._opened.agent.stop(grace_s, self._opened.memory.session_id if running else None)
        finally:
            await self._terminals.close()
            await self._listener.say((*self._listener.held(), *self._listener.narration.spent()))

    def _unopened(self, error: BaseException) -> str:
        """Why there is no session; of one who refuses, who that is."""
        if not isinstance(error, AgentRefused):
            return _reason(error)
        hint = f"; {NO_AGENT}" if error.code == METHOD_NOT_FOUND else ""
        return f"{Path(self._profile.command[0]).name} refused to open a session: {_reason(error)}{hint}"

    async def _open(self, history: Sequence[Entry] | None) -> None:
        self._inbox.listening = False
        self._opened = await self._opener.open(self._inbox, self._terminals, history)
        self._listener.session_id = self._opened.memory.session_id
        self._listener.narration.live_in(str(self._opener.home))
        self._inbox.listening = True
        for told in (self._opener.told, self._opened.remark):
            if told:
                self._inbox.put(alert(told))

    async def _live(self) -> None:
        try:
            while (opened := self._opened) is not None:
                if self._next is None and not opened.agent.ended:
                    await self._inbox.changed()
                await self._listener.hear()
                if self._next is not None:
                    run, self._next = self._next, None
                    await self._run(run, opened)
                elif opened.agent.ended:
                    await self._lose(await opened.agent.epitaph())
                else:
                    await self._listener.say(self._listener.narration.close_prose())
        except Exception as error:  # noqa: BLE001 whatever it is, the agent must not be left running unheard
            _log.exception("what an agent said could not be passed on")
            await self._lose(await self._failed(error))

    async def _failed(self, error: Exception) -> AgentFailed:
        """End the agent, through no fault of its own."""
        if self._opened is not None:
            try:
                await self._opened.agent.stop(0)
            except Exception:  # noqa: BLE001 the loss must be told all the same
                _log.exception("the agent of %s was given up, but could not be ended", self._spawn.worker_id)
        self._inbox.take()
        return AgentFailed("protocol", unpassed(error, "agent"))

    async def _run(self, run: _Run, opened: Opened) -> None:
        kind = run.dispatch.input.kind
        await self._listener.say(self._listener.narration.begin())
        await self._listener.say((InvokeStart("user_send" if kind == "user" else "notify"),))
        if renewed := await self._opener.renew_home(opened):
            await self._listener.say((renewed,))
        await opened.agent.begin_run()
        await self._terminals.begin_run()
        prompt = asyncio.create_task(self._prompt(run, opened))
        prompt.add_done_callback(lambda _: self._inbox.wake())
        try:
            excess = await self._follow(run, opened, prompt)
        finally:
            await finish(prompt)
            opened.agent.end_run()
            self._terminals.end_run()
        await self._listener.dismiss()
        if excess is not None:
            await self._lose(await opened.agent.end_for(excess))
        elif prompt.cancelled():
            await self._end_late(run, opened)
        else:
            await self._conclude(run, prompt)

    async def _prompt(self, run: _Run, opened: Opened) -> dict[str, Any]:
        context = None
        if not opened.memory.introduced:
            context = introduction(self._spawn.request.intent)
            self._opened = await self._opener.remember(opened, introduced=True)
        if run.interrupted:
            if context is not None:
                self._opened = await self._opener.remember(opened, introduced=False)
            return {"stopReason": CANCELLED}
        return await opened.agent.prompt(opened.memory.session_id, blocks(run.dispatch.input, context))

    async def _follow(self, run: _Run, opened: Opened, prompt: asyncio.Task[Any]) -> LossReason | None:
        """Hear the agent until it has answered the prompt, or hasn't for too long after an interrupt.

        Returns early, with the limit, where it used more time or wrote more than its profile allows.
        """
        loop, profile, told = asyncio.get_running_loop(), self._profile, False
        end = loop.time() + profile.max_run_s if profile.max_run_s else math.inf
        most = opened.agent.received + profile.max_output_bytes if profile.max_output_bytes else math.inf
        deadline = math.inf
        while not prompt.done():
            if run.interrupted and not told:
                told, deadline = True, loop.time() + run.grace_s
                await self._ask_to_end(run, opened)
            await self._changed(min(end, deadline))
            await self._listener.hear(asked=not run.interrupted)
            if opened.agent.received > most:
                return "output"
            if loop.time() >= min(end, deadline):
                return None if deadline <= end else "timeout"
        await self._listener.settle()
        return None

    async def _changed(self, deadline: float) -> None:
        """Wait until something came, at most until the deadline. A timer that is never due would cost each token."""
        if deadline == math.inf:
            await self._inbox.changed()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._inbox.changed()

    async def _ask_to_end(self, run: _Run, opened: Opened) -> None:
        await asyncio.sleep(0)  # what the prompt's task has to write comes first
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(run.grace_s):
                await opened.agent.cancel(opened.memory.session_id)
        await self._listener.dismiss()

    async def _conclude(self, run: _Run, prompt: asyncio.Task[dict[str, Any]]) -> None:
        error = prompt.exception()
        if isinstance(error, AgentFailed) and error.reason == "exit" and run.interrupted:
            await self._restart(run, "the run was interrupted and the agent ended")
        elif isinstance(error, AgentFailed):
            await self._lose(error)
        elif error is None:
            await self._finish(run, self._listener.narration.end(prompt.result(), interrupted=run.interrupted))
        elif not isinstance(error, _FAILURES):
            raise error
        elif run.interrupted:
            await self._finish(run, self._listener.narration.end({"stopReason": CANCELLED}, interrupted=True))
        else:
            await self._finish(run, self._listener.narration.fail(_reason(error)))

    async def _finish(self, run: _Run, payloads: Iterable[Payload]) -> None:
        said = (*self._listener.held(), *payloads)
        self._gate.finish()
        self._current = None
        try:
            await self._listener.say(said)
        finally:
            run.over.set()

    async def _end_late(self, run: _Run, opened: Opened) -> None:
        """End an agent that does not end its run."""
        try:
            await opened.agent.stop(0)
        except TimeoutError as error:
            await self._lose(AgentFailed("unresponsive", str(error)))
            return
        await self._restart(run, f"the agent did not end its run within {run.grace_s:g} seconds")

    async def _restart(self, run: _Run, why: str) -> None:
        """End the run of an agent that is gone; the next input waits until there is another. None follows `never`."""
        await self._terminals.close()
        await self._listener.hear(asked=False)
        closing = self._listener.narration.close(CANCELLED)
        spent = self._listener.narration.spent()
        if self._profile.restart == "never":
            await self._listener.say((*closing, *spent))
            await self._lose(AgentFailed("exit", why))
            return
        told = alert(f"{why}: it is started again")
        await self._finish(run, (*closing, *spent, told, RunEnd("rolled_back")))
        try:
            await ready_in_time(self._open(()), self._profile.start_timeout_s + START_MARGIN_S)
        except _FAILURES as error:
            gone = f"the agent could not be started again: {self._unopened(error)}"
            await self._lose(AgentFailed("unresponsive", gone))

    async def _lose(self, failed: AgentFailed) -> None:
        """Tell that the agent is gone; nothing of it is left."""
        self._opened, self.lost = None, True
        try:
            await self._listener.dismiss()
            await self._terminals.close()
            await self._say_last_words()
        finally:
            self._gate.finish()
            try:
                await self._sink.lose(failed.reason, str(failed))
            finally:
                if self._current is not None:
                    self._current.over.set()

    async def _say_last_words(self) -> None:
        """Pass on what is left of an agent that is gone, as far as that can be done."""
        try:
            await self._listener.hear(asked=False)
            narration = self._listener.narration
            await self._listener.say((*self._listener.held(), *narration.settle(), *narration.spent()))
        except Exception:  # noqa: BLE001 the loss must be told all the same
            _log.exception("what an agent said last could not be passed on")


def _reason(error: BaseException) -> str:
    """What went wrong, in words that are no secret; a host's path is none of them."""
    return str(error) if isinstance(error, AgentFailed | AgentRefused) else cause(error)
