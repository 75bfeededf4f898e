"""A process tree, from its start until none of its processes is left."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import attrs

from runtimed.execution.processes.containment import Containment, has_member_without
from runtimed.execution.processes.folder_monitor import FolderMonitor
from runtimed.execution.processes.limits import Accounting, FolderLimit, TreeLimits
from runtimed.execution.processes.pipes import readable
from runtimed.execution.processes.resource_monitor import ResourceMonitor
from runtimed.execution.tasks import begin
from runtimed.model.execution import LossReason

KILL_ATTEMPTS = 500
KILL_PAUSE_S = 0.02
"""Attempts to kill a tree, and the pause between two. After 10 s in all, killing fails."""

CLOSE_ATTEMPTS = 10
"""Attempts to remove the control group of a tree that is gone; a group that remains is removed when the supervisor
closes."""


@attrs.frozen
class Started:
    """A process that was started.

    Attributes:
        root: The process.
        descriptor: Its pidfd, which is readable once it has ended.
        mark: A text that is unique to the tree.
        containment: What keeps its descendants together.
        limits: What the tree may use.
        accounting: What counts and limits that; None without limits.
    """

    root: subprocess.Popen[bytes]
    descriptor: int
    mark: str
    containment: Containment
    limits: TreeLimits
    accounting: Accounting | None


class Tree:
    """One program and everything that it started.

    Attributes:
        exit: Done when no process is left; its result is the exit status of the program, 128 + n for the signal n.
        left: The processes that resisted being killed.
        excess: The limit that ended it, if one did.
        folder_bytes: The size of the Worker's folder for which it was ended.
        is_in_run: Whether a run is going on.
    """

    def __init__(
        self,
        started: Started,
        call: Callable[..., Awaitable[Any]],
        monitor: ResourceMonitor,
        folder_monitor: FolderMonitor,
    ) -> None:
        self._call = call
        self._monitor = monitor
        self._folder_monitor = folder_monitor
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
        self.folder_bytes = 0
        self.is_in_run = False
        self.exit = asyncio.create_task(self._watch(started.descriptor))
        if started.accounting:
            monitor.add(self)

    @property
    def root(self) -> int:
        """The process that was started."""
        return self._root.pid

    async def begin_run(self) -> None:
        """Begin to limit the CPU time of a run, until `end_run`, which may come before this returns."""
        self._runs = run = self._runs + 1
        self.is_in_run = True
        if self._limits.cpu_s and self._accounting and not self.exit.done():
            with contextlib.suppress(OSError):
                before = await asyncio.to_thread(self._accounting.cpu_s, self._root.pid, self._mark)
                self._cpu_before = before if self._runs == run else self._cpu_before

    def end_run(self) -> None:
        """Stop limiting the CPU time. May be called again."""
        self._runs += 1
        self.is_in_run = False
        self._cpu_before = None

    def limit_folder(self, limit: FolderLimit | None) -> None:
        """End the tree if this folder becomes too large. None sets no limit."""
        if limit is not None and not self.exit.done():
            self._folder_monitor.add(self, limit)

    def outgrow(self, size_bytes: int) -> None:
        """End the tree because the Worker's folder is too large."""
        self.folder_bytes = size_bytes
        self.exceed("disk")

    def find_excess(self) -> LossReason | None:
        """Return the limit that is exceeded now, if any. Blocks; for the thread of the resource monitor."""
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
        """End the tree for this reason, unless it is already being ended for another."""
        if not self.excess and not self.exit.done():
            self.excess = reason
            self._killing = begin(self._kill_for_excess())

    async def has_closed(self, pipe: int) -> bool:
        """Return whether it is alive and none of its processes has the pipe with this inode open."""
        holders = await asyncio.to_thread(self._containment.holders, self._root.pid, self._mark, pipe)
        return not holders and not self.exit.done()

    async def has_member_without(self, pipe: int) -> bool:
        """Return whether it is alive and one of its processes does not have the pipe with this inode open."""
        if self.exit.done():
            return False
        return await asyncio.to_thread(has_member_without, self._containment, self._root.pid, self._mark, pipe)

    async def interrupt(self) -> None:
        """Send SIGINT to the process group of the program."""
        if not self.exit.done():
            await self._call(self._containment.interrupt, self._root.pid, self._mark)

    async def ask(self) -> None:
        """Send SIGTERM to all processes of the tree.

        Raises:
            OSError: The processes can't be found.
        """
        await self._call(self._containment.terminate, self._root.pid, self._mark)

    async def end(self, grace: float) -> None:
        """Wait for its end, then kill what is left of it; returns when it is gone. May be called again.

        Args:
            grace: How long to wait before it is killed, in seconds.

        Raises:
            TimeoutError: Processes resist being killed.
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

    async def _kill_for_excess(self) -> None:
        with contextlib.suppress(TimeoutError):
            await self.end(0)

    async def _settle(self, status: int) -> None:
        """Find out why it ended, and remove its control group."""
        await self._folder_monitor.discard(self)
        await self._monitor.discard(self)
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
