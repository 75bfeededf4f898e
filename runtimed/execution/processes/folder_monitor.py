"""Check periodically how large the folders of Workers are."""

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

import attrs

from runtimed.execution.processes import project_quota
from runtimed.execution.processes.folder_size import folder_size
from runtimed.execution.processes.limits import FolderLimit
from runtimed.execution.tasks import begin, finish

RUN_INTERVAL_S = 1.0
IDLE_INTERVAL_S = 15.0
"""The shortest time between two counts of a folder: during a run, and between two runs."""

MAX_SHARE = 0.2
"""The most of its time that one folder may be counted: the pause grows with the duration of the last count."""

TICK_S = 0.5
BATCH_S = 0.25
"""How often due folders are looked for, and for how long they are counted before the results are used."""

REST_S = 0.01
"""The pause of a long count after each stretch of entries, so that it does not slow down the event loop."""

CUT_S = 1.0
"""How long a count that is cut is waited for: its file system may hang, and a tree must end all the same."""

CLEANUP_SHARE = 1 / 16
"""How much a folder that was too large already when its program started may grow, as a share of its limit: tools need
some room to clean up."""

MAX_OUTGROWN = 10_000
"""The most folders that are remembered because a program was ended for their size."""

log = logging.getLogger(__name__)


class Growing(Protocol):
    """A process tree whose Worker has a folder with a limit."""

    @property
    def is_in_run(self) -> bool:
        """Whether a run is going on."""

    def outgrow(self, size_bytes: int) -> None:
        """End the tree because the folder is too large; returns at once."""


@attrs.define(eq=False)
class _Watch:
    """One folder that is counted.

    Attributes:
        ceiling: The size at which the tree is ended, in bytes; None until the first count of a folder that was too
            large before the tree was started.
        counted_at: The time of the loop when it was last counted.
        cost_s: How long that took, in seconds.
        has_failed: That it cannot be counted was logged.
    """

    tree: Growing
    limit: FolderLimit
    ceiling: float | None
    counted_at: float
    cost_s: float = 0.0
    has_failed: bool = False

    def is_due(self, now: float) -> bool:
        interval_s = RUN_INTERVAL_S if self.tree.is_in_run else IDLE_INTERVAL_S
        return self.ceiling is None or now - self.counted_at >= max(interval_s, self.cost_s / MAX_SHARE)


@attrs.frozen
class _Counted:
    """A count: its result, or why there is none, and how long it took."""

    watch: _Watch
    result: int | Exception | None
    cost_s: float


class FolderMonitor:
    """Ends the trees of Workers whose folders have become too large.

    A folder for which a tree was ended is counted as soon as the next tree is added. That tree may go on, so that the
    Worker can clean up, but its folder may not grow much further.

    One thread counts all folders, one after another. A count that fails is logged once for each tree. The owner calls
    `close`.
    """

    def __init__(self) -> None:
        self._watches: dict[Growing, _Watch] = {}
        self._outgrown: dict[Path, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._is_closed = False
        self._is_pressing = asyncio.Event()

    def add(self, tree: Growing, limit: FolderLimit) -> None:
        """Check this folder from now on, for as long as the tree lives."""
        was_outgrown = limit.folder in self._outgrown
        ceiling = None if was_outgrown else float(limit.max_bytes)
        self._watches[tree] = _Watch(tree, limit, ceiling, asyncio.get_running_loop().time())
        if was_outgrown:
            self._is_pressing.set()
        if not self._is_closed:
            self._task = self._task or begin(self._run())

    async def discard(self, tree: Growing) -> None:
        """Stop checking the folder of this tree. May be called again."""
        self._watches.pop(tree, None)
        if not self._watches:
            await self._end()

    async def close(self) -> None:
        """Stop checking. A count that goes on is cut. May be called again."""
        self._is_closed = True
        self._watches.clear()
        await self._end()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.shutdown)

    async def _end(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            await finish(task)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._is_pressing.wait()
            self._is_pressing.clear()
            if due := self._due(loop.time()):
                for counted in await self._counted(due):
                    self._use(counted, loop.time())

    async def _counted(self, due: Sequence[_Watch]) -> Sequence[_Counted]:
        """Count folders in the thread. Cancelling this cuts the count, and waits for its end for at most CUT_S."""
        self._thread = self._thread or ThreadPoolExecutor(1, "folder-sizes")
        cut = threading.Event()
        counting = asyncio.get_running_loop().run_in_executor(self._thread, _count_some, due, cut)
        try:
            return await asyncio.shield(counting)
        except asyncio.CancelledError:
            cut.set()
            await asyncio.wait({counting}, timeout=CUT_S)
            raise

    def _due(self, now: float) -> Sequence[_Watch]:
        """Return the folders to count, the most urgent first."""
        due = [watch for watch in self._watches.values() if watch.is_due(now)]
        return sorted(due, key=lambda watch: (watch.ceiling is not None, watch.counted_at))

    def _use(self, counted: _Counted, now: float) -> None:
        watch, size = counted.watch, counted.result
        if self._watches.get(watch.tree) is not watch:
            return
        watch.counted_at, watch.cost_s = now, counted.cost_s
        if isinstance(size, Exception):
            self._report(watch, size)
        elif size is not None:
            self._judge(watch, size)

    def _judge(self, watch: _Watch, size: int) -> None:
        limit = watch.limit.max_bytes
        if size <= limit:
            self._outgrown.pop(watch.limit.folder, None)
            watch.ceiling = limit
            return
        if watch.ceiling is not None and size > watch.ceiling:
            self._remember(watch.limit.folder)
            watch.tree.outgrow(size)
            return
        room = size + limit * CLEANUP_SHARE
        watch.ceiling = room if watch.ceiling is None else min(watch.ceiling, room)

    def _remember(self, folder: Path) -> None:
        self._outgrown.pop(folder, None)
        self._outgrown[folder] = None
        if len(self._outgrown) > MAX_OUTGROWN:
            del self._outgrown[next(iter(self._outgrown))]

    def _report(self, watch: _Watch, error: Exception) -> None:
        watch.ceiling = watch.limit.max_bytes if watch.ceiling is None else watch.ceiling
        if not watch.has_failed:
            watch.has_failed = True
            log.error("cannot count the folder of a Worker", exc_info=error, extra={"path": watch.limit.folder})


def _count_some(due: Sequence[_Watch], cut: threading.Event) -> list[_Counted]:
    """Count the first folders, for about BATCH_S seconds. Blocks."""
    counted: list[_Counted] = []
    until = time.monotonic() + BATCH_S
    for watch in due:
        began = time.monotonic()
        if cut.is_set() or (counted and began > until):
            break
        result = _count(watch.limit, cut)
        counted.append(_Counted(watch, result, time.monotonic() - began))
    return counted


def _count(limit: FolderLimit, cut: threading.Event) -> int | Exception | None:
    try:
        if limit.project:
            return project_quota.quota_of(limit.project, limit.folder).used_bytes
        return folder_size(limit.folder, partial(_rest, cut, itertools.count()))
    except Exception as error:  # noqa: BLE001 whatever it is, the other folders are to be counted
        return error


def _rest(cut: threading.Event, stretches: Iterator[int]) -> bool:
    """Pause before each stretch of a count but the first. Returns whether the count is cut."""
    return cut.wait(REST_S if next(stretches) else 0)
