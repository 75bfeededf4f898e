"""A process tree, from its start until nothing of it is left."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import attrs

from runtimed.execution.containment import Containment, has_without
from runtimed.execution.limits import Accounting, TreeLimits
from runtimed.execution.pipes import readable
from runtimed.execution.survey import Survey
from runtimed.execution.tasks import begin
from runtimed.model.execution import LossReason

KILL_ATTEMPTS = 500
KILL_PAUSE_S = 0.02
"""How often a tree is killed, with how long a pause between, before it is given up as not to be ended: 10 s."""

CLOSE_ATTEMPTS = 10
"""How often it is tried to remove the control group of a tree that is gone, with the same pause; what remains then is
removed with the others when the supervisor closes."""


@attrs.frozen
class Started:
    """A process, a descriptor that can be read once it has ended, and what keeps its descendants together.

    `accounting` is there where the tree has limits.
    """

    root: subprocess.Popen[bytes]
    descriptor: int
    mark: str
    containment: Containment
    limits: TreeLimits
    accounting: Accounting | None


class Tree:
    """One program that was started, and everything that it started.

    `exit` is done when the program has ended and nothing is left: its exit status, 128 + n for the signal n. In
    `left` are the processes that resisted being killed. `excess` tells which of its limits ended it, if one did.
    """

    def __init__(self, started: Started, call: Callable[..., Awaitable[Any]], survey: Survey) -> None:
        self._call = call
        self._survey = survey
        self._root = started.root
        self._containment = started.containment
        self._mark = started.mark
        self._limits = started.limits
        self._accounting = started.accounting
        self._runs = 0
        self._cpu_before: float | None = None
        self._killing: asyncio.Task[None] | None = None
        self.left: list[int] = []
        self.excess: LossReason | None = None
        self.exit = asyncio.create_task(self._watch(started.descriptor))
        if started.accounting:
            survey.add(self)

    async def begin_run(self) -> None:
        """A run begins: the limit of the CPU time holds from here to `end_run`, also where that comes meanwhile."""
        self._runs = run = self._runs + 1
        if self._limits.cpu_s and self._accounting and not self.exit.done():
            with contextlib.suppress(OSError):
                before = await asyncio.to_thread(self._accounting.cpu_s, self._root.pid, self._mark)
                self._cpu_before = before if self._runs == run else self._cpu_before

    def end_run(self) -> None:
        """The run is over. Harmless when repeated."""
        self._runs += 1
        self._cpu_before = None

    def looked_at(self) -> LossReason | None:
        """Which limit is exceeded now. Blocks; for the thread that looks at all trees."""
        if self._accounting is None:
            return None
        with contextlib.suppress(OSError):
            before, limits = self._cpu_before, self._limits
            if reason := self._accounting.excess(self._root.pid, self._mark, limits):
                return reason
            if before is not None and self._accounting.cpu_s(self._root.pid, self._mark) - before > limits.cpu_s:
                return "cpu"
        return None

    def exceed(self, reason: LossReason) -> None:
        """End the tree for this reason, unless it has one already."""
        if not self.excess and not self.exit.done():
            self.excess = reason
            self._killing = begin(self._put_down())

    async def lets_go(self, pipe: int) -> bool:
        """Whether it lives, and nothing that was started has the pipe with this inode open any more."""
        holders = await asyncio.to_thread(self._containment.holders, self._root.pid, self._mark, pipe)
        return not holders and not self.exit.done()

    async def has_without(self, pipe: int) -> bool:
        """Whether it lives, and something in it does not have the pipe with this inode open."""
        if self.exit.done():
            return False
        return await asyncio.to_thread(has_without, self._containment, self._root.pid, self._mark, pipe)

    async def interrupt(self) -> None:
        """Send SIGINT to the program and to what shares its process group."""
        if not self.exit.done():
            await self._call(self._containment.interrupt, self._root.pid, self._mark)

    async def ask(self) -> None:
        """Ask everything in the tree to end, with SIGTERM. Raises OSError when it can't be looked for."""
        await self._call(self._containment.terminate, self._root.pid, self._mark)

    async def end(self, grace: float) -> None:
        """Wait for at most `grace` seconds, then kill the tree; returns when it is gone. Harmless when repeated.

        Raises TimeoutError when processes resist that.
        """
        if grace > 0:
            await asyncio.wait({self.exit}, timeout=grace)
        for _ in range(KILL_ATTEMPTS):
            if self.exit.done():
                break
            await self._kill()
            await asyncio.wait({self.exit}, timeout=KILL_PAUSE_S)
        if left := self.left if self.exit.done() else [self._root.pid]:
            raise TimeoutError(f"these processes can't be ended: {left}")

    async def _watch(self, descriptor: int) -> int:
        try:
            await readable([descriptor])
        finally:
            os.close(descriptor)
        await self._sweep()
        status = self._root.wait(timeout=0)  # not before: its number, and its group's, might become another's
        status = status if status >= 0 else 128 - status
        await self._settle(status)
        return status

    async def _put_down(self) -> None:
        with contextlib.suppress(TimeoutError):
            await self.end(0)

    async def _settle(self, status: int) -> None:
        """Tell why it ended, and forget what was counted of it."""
        await self._survey.discard(self)
        if self._accounting is None:
            return
        with contextlib.suppress(OSError):
            self.excess = self.excess or await asyncio.to_thread(self._accounting.cause, self._mark, status)
        for _ in range(CLOSE_ATTEMPTS):
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._accounting.close, self._mark)
                break
            await asyncio.sleep(KILL_PAUSE_S)

    async def _sweep(self) -> None:
        for _ in range(KILL_ATTEMPTS):
            self.left = await self._kill()
            if not self.left:
                break
            await asyncio.sleep(KILL_PAUSE_S)

    async def _kill(self) -> list[int]:
        try:
            found: list[int] = await self._call(self._containment.kill, self._root.pid, self._mark)
        except OSError:  # no descriptor is left to look into /proc: there may be one the next time
            return [self._root.pid]
        return found
