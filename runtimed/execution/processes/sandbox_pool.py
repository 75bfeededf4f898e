"""Sandboxes that are prepared before their programs are known."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Sequence

import attrs

from runtimed.execution.processes.confinement import Enclosure
from runtimed.execution.processes.limits import TreeLimits
from runtimed.execution.processes.order import order
from runtimed.execution.processes.pipes import pipes
from runtimed.execution.processes.tree import Tree
from runtimed.execution.tasks import begin

MAX_PREPARED = 16
"""The most sandboxes that wait for a program, over all Workers. One more, and the oldest is given up."""

PREPARED_IDLE_S = 60.0
"""How long a sandbox waits for a program before it is given up."""

PAUSE_S = 0.02
"""How long after the end of a program the next sandbox of its Worker is begun: the Worker may be ending, too."""

log = logging.getLogger(__name__)

Pipes = list[tuple[int, int]]


@attrs.frozen(eq=False)
class PreparedSandbox:
    """A sandbox that waits for its order.

    Attributes:
        enclosure: What confines the Worker that it is for.
        made_of: What it is made of.
        limits: What its process tree may use.
        tree: Its process tree.
        streams: The pipes of its standard streams, for each the descriptors to read and to write.
    """

    enclosure: Enclosure
    made_of: tuple[object, ...] = attrs.field(repr=False)
    limits: TreeLimits
    tree: Tree
    streams: Pipes

    def give(self, argv: Sequence[str]) -> bool:
        """Have it run a program, once. Returns whether that is possible."""
        line = order(argv)
        if line is None or self.tree.exit.done():
            return False
        pipe = self.streams[0][1]
        is_blocking = os.get_blocking(pipe)
        os.set_blocking(pipe, False)  # the pipe is empty, and takes it at once
        try:
            return os.write(pipe, line) == len(line)
        finally:
            os.set_blocking(pipe, is_blocking)

    async def end(self) -> None:
        """End it, and wait until nothing of it is left."""
        with contextlib.suppress(TimeoutError):
            await self.tree.end(0)


Prepare = Callable[[Pipes], Awaitable[PreparedSandbox]]


class SandboxPool:
    """Keeps one sandbox ready for each Worker whose last program has ended lately.

    A sandbox runs one program, of the Worker that it was made for. Who starts that program takes its pipes first, and
    then the sandbox.
    """

    def __init__(self) -> None:
        self._ready: dict[Enclosure, PreparedSandbox] = {}
        self._claimed: dict[int, PreparedSandbox] = {}
        self._deadlines: dict[PreparedSandbox, asyncio.TimerHandle] = {}
        self._preparing: dict[Enclosure, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def ready(self) -> int:
        """How many sandboxes wait for a program."""
        return len(self._ready)

    def pipes(self, enclosure: Enclosure | None) -> Pipes:
        """Return three pipes for the standard streams of a program, those of the sandbox that is ready for it if any.

        Raises:
            OSError: Too many descriptors are open.
        """
        prepared = None if enclosure is None else self._ready.pop(enclosure, None)
        if prepared is None:
            return pipes(3)
        self._claimed[_inode(prepared.streams[0][0])] = prepared
        self._set_deadline(prepared)  # else its shell may end, and read input, while its program starts without it
        return prepared.streams

    def take(self, stdin: int) -> PreparedSandbox | None:
        """Return the sandbox whose standard input this is, or None. The caller ends it, or gives it a program."""
        prepared = self._claimed.pop(_inode(stdin), None) if self._claimed else None
        if prepared is not None:
            self._deadlines.pop(prepared).cancel()
        return prepared

    def schedule(self, enclosure: Enclosure, prepare: Prepare, is_wanted: Callable[[], bool]) -> None:
        """Prepare a sandbox in the background, unless the Worker has one.

        Args:
            enclosure: What confines the Worker.
            prepare: Prepares it, with these pipes. Raises OSError if that is not possible.
            is_wanted: Whether the Worker is still there.
        """
        if self._is_closed or enclosure in self._ready or enclosure in self._preparing:
            return
        if len(self._ready) + len(self._preparing) >= MAX_PREPARED:
            if not self._ready:
                return
            self._give_up(next(iter(self._ready.values())))
        task = begin(self._prepare(enclosure, prepare, lambda: not self._is_closed and is_wanted()))
        self._preparing[enclosure] = task
        task.add_done_callback(lambda _: self._preparing.pop(enclosure))

    async def forget(self, enclosure: Enclosure) -> None:
        """End the sandbox of a Worker that is gone."""
        if (preparing := self._preparing.get(enclosure)) is not None:
            await asyncio.wait({preparing})
        if (prepared := self._ready.get(enclosure)) is not None and self._remove(prepared):
            await prepared.end()

    async def close(self) -> None:
        """End all sandboxes that wait, and prepare no others. May be called again."""
        self._is_closed = True
        if self._preparing:
            await asyncio.wait(tuple(self._preparing.values()))
        left = [one for one in (*self._ready.values(), *self._claimed.values()) if self._remove(one)]
        await asyncio.gather(*(prepared.end() for prepared in left))
        if self._ending:
            await asyncio.wait(tuple(self._ending))

    async def _prepare(self, enclosure: Enclosure, prepare: Prepare, is_wanted: Callable[[], bool]) -> None:
        await asyncio.sleep(PAUSE_S)
        if not is_wanted():
            return
        made: Pipes = []
        prepared = None
        try:
            made = pipes(3)
            prepared = await prepare(made)
        except (OSError, ValueError) as error:  # the next program meets it again, and says so
            log.debug("cannot prepare a sandbox", extra={"reason": error})
        if prepared is None:
            _close(made)
            return
        if not is_wanted():
            _close(made)
            await prepared.end()
            return
        self._ready[enclosure] = prepared
        prepared.tree.exit.add_done_callback(lambda _: self._give_up(prepared))
        self._set_deadline(prepared)

    def _set_deadline(self, prepared: PreparedSandbox) -> None:
        """Give up a sandbox that nobody takes within PREPARED_IDLE_S from now on."""
        if (before := self._deadlines.get(prepared)) is not None:
            before.cancel()
        loop = asyncio.get_running_loop()
        self._deadlines[prepared] = loop.call_later(PREPARED_IDLE_S, self._give_up, prepared)

    def _give_up(self, prepared: PreparedSandbox) -> None:
        """End a sandbox in the background. Does nothing to one that was taken."""
        if self._remove(prepared):
            task = begin(prepared.end())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _remove(self, prepared: PreparedSandbox) -> bool:
        """Hand a sandbox out no more. Returns whether that is still possible; the caller ends it then."""
        if prepared not in self._deadlines:
            return False
        self._deadlines.pop(prepared).cancel()
        if self._ready.get(prepared.enclosure) is prepared:
            del self._ready[prepared.enclosure]
            _close(prepared.streams)
        else:  # who has its pipes closes them
            self._claimed = {inode: one for inode, one in self._claimed.items() if one is not prepared}
        return True


def _inode(pipe: int) -> int:
    return os.fstat(pipe).st_ino


def _close(streams: Pipes) -> None:
    for pair in streams:
        for descriptor in pair:
            os.close(descriptor)
