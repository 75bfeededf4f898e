"""A backend whose programs are none: inputs run as Python within the test, by the rules of a real driver."""

import asyncio
import signal
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

import attrs

from runtimed.core.ports import Dispatch, EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import Entry
from runtimed.execution.profile import Profile
from runtimed.execution.session.backend import SessionBackend
from runtimed.execution.session.driver import Exit, Progress, Run
from runtimed.execution.session.exit_reason import explain_exit
from runtimed.execution.session.text_output import TextOutput
from runtimed.execution.session.warnings import alert
from runtimed.execution.workspace import Workspaces
from runtimed.model.event import Payload, RunEnd
from runtimed.model.execution import LossReason

KILLED = 128 + signal.SIGKILL
MAX_UNREAD = 10_000
"""Texts that a program may be ahead of its reader; one that says more waits for ever."""


class _Waits(Exception):
    """The input does not come to its end by itself."""


class _Exits(Exception):
    """The input has ended its program."""


class FakeBackend(SessionBackend):
    """An ExecutionBackend for all Workers of one profile."""

    def __init__(self, profile: Profile, workspaces: Workspaces) -> None:
        super().__init__(lambda spawn, sink: FakeDriver(profile, workspaces, spawn, sink), profile)

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        return attrs.evolve(await super().spawn(spawn, sink), restart=self._profile.restart)


class FakeDriver:
    """Runs its inputs at once, and has what they said read piece by piece."""

    noun = "program"
    holds_output = True

    def __init__(self, profile: Profile, workspaces: Workspaces, spawn: Spawn, sink: EventSink) -> None:
        self._profile = profile
        self._make_folder: Callable[[], object] = lambda: workspaces.worker_folder(spawn.worker_id)
        self._text = TextOutput(sink, spawn.max_open_text)
        self._unread: deque[str] = deque()
        self._changed = asyncio.Event()
        self._status: int | None = None
        self._is_over = False
        self._obeys = False
        self.received = 0

    @property
    def has_open_text(self) -> bool:
        return self._text.is_open

    def refusal(self, dispatch: Dispatch) -> BackendAnswer | None:
        return None

    async def start(self, history: Sequence[Entry] | None) -> Sequence[Payload]:
        await asyncio.to_thread(self._make_folder)
        self._status = None
        return ()

    async def restart(self) -> Sequence[Payload]:
        return await self.start(None)

    async def begin_run(self) -> None:
        await self._text.close()

    async def write(self, run: Run) -> None:
        self._is_over = self._obeys = False
        os = SimpleNamespace(_exit=self._exit, kill=lambda _pid, number: self._exit(128 + number), getpid=lambda: 0)
        said = {"text": self._say, "end": self._end, "hang": _wait, "until_interrupt": self._obey}
        try:
            exec(run.dispatch.input.content, {**said, "os": os, "signal": signal})
        except (_Waits, _Exits):
            return
        self._end()

    async def read(self) -> Progress:
        if not (self._unread or self._is_over or self._status is not None):
            await self._changed.wait()
        self._changed.clear()
        if self._unread:
            text = self._unread.popleft()
            self.received += len(text)
            await self._text.write(text)
            return "running"
        if self._is_over:
            return "over"
        return "running" if self._status is None else "exited"

    async def flush(self) -> None:
        await self._text.close()

    async def close_text(self) -> None:
        await self._text.close()

    def wake(self) -> None:
        self._changed.set()

    async def interrupt(self) -> None:
        if self._obeys:
            self._end()

    async def kill(self) -> None:
        if self._status is None:
            self._status = KILLED
        self._changed.set()

    async def end_run(self, run: Run) -> Sequence[Payload]:
        await self._text.close()
        self._is_over = False
        return _interrupted() if run.is_interrupted else (RunEnd("finished"),)

    async def reap(self, reason: LossReason | None, run: Run | None) -> Exit:
        await self._text.close()
        self._unread.clear()
        status = KILLED if self._status is None else self._status
        found = reason or "exit"
        message = explain_exit(found, status, self._profile)
        is_replaced = found == "exit" and run is not None and run.is_interrupted and self._profile.restart != "never"
        return Exit(found, message, _interrupted() if is_replaced else None)

    async def close(self, grace_s: float) -> None:
        await self.kill()

    def _say(self, text: str) -> None:
        if len(self._unread) >= MAX_UNREAD:
            raise _Waits
        self._unread.append(text)

    def _end(self) -> None:
        self._is_over = True
        self._changed.set()

    def _obey(self) -> NoReturn:
        self._obeys = True
        raise _Waits

    def _exit(self, status: int) -> NoReturn:
        self._status = status
        raise _Exits


def _wait() -> NoReturn:
    raise _Waits


def _interrupted() -> tuple[Any, ...]:
    return alert("the run was interrupted"), RunEnd("rolled_back")
