"""Starting and ending process trees."""

import asyncio
import contextlib
import os
import secrets
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import attrs

from runtimed.execution import containment
from runtimed.execution.containment import Containment
from runtimed.execution.pipes import readable
from runtimed.execution.tasks import finish

INHERITED = frozenset({"PATH", "HOME", "LANG", "TERM", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR"})
"""The variables that a Worker's programs get from the daemon, besides those that begin with LC_."""

KILL_ATTEMPTS = 500
KILL_PAUSE_S = 0.02
"""How often a tree is killed, with how long a pause between, before it is given up as not to be ended: 10 s."""

SHELL = "/bin/sh"
LIMITED = 'ulimit -Sn "$0" && exec "$@"'
"""Becomes a program that may open so many descriptors. To set that between fork and exec is not safe with threads."""

T = TypeVar("T")


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """All that a Worker's program gets to see: the few inherited variables, and those of its profile."""
    own = {name: value for name, value in os.environ.items() if name in INHERITED or name.startswith("LC_")}
    return own | dict(extra)


@attrs.frozen
class Program:
    """What to start: an argv, where, with which environment, and the descriptors that are its standard streams."""

    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str]
    stdin: int
    stdout: int
    stderr: int


@attrs.frozen
class _Started:
    """A process, a descriptor that can be read once it has ended, and what keeps its descendants together."""

    root: subprocess.Popen[bytes]
    descriptor: int
    containment: Containment


class Supervisor:
    """Starts process trees, and owns each until nothing of it is left.

    Starting and killing happen in one thread, which lives as long as the trees do: the kernel tells a child of its
    parent's death when the thread that started it ends.

    `max_descriptors` is how many a program may open before it asks for more; None leaves that as it is.
    """

    def __init__(
        self, choose: Callable[[], Containment] = containment.best, max_descriptors: int | None = None
    ) -> None:
        self._choose = choose
        self._max_descriptors = max_descriptors
        self._containment: Containment | None = None
        self._thread = ThreadPoolExecutor(1, "supervisor")
        self._starting: set[asyncio.Task[Tree]] = set()
        self._trees: set[Tree] = set()
        self._closed = False

    async def start(self, program: Program) -> "Tree":
        """Start the program in a session of its own, with no descriptor but its three streams, which are taken over.

        Raises OSError when it can't be started; a program that is not there may also show by the exit status 127.
        """
        task = asyncio.create_task(self._start(program))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            if task.exception() is None:
                await task.result().end(0)
            raise

    async def close(self) -> None:
        """Kill what is left, and start nothing any more. Harmless when repeated."""
        self._closed = True
        if self._starting:
            await asyncio.wait(self._starting)
        trees = tuple(self._trees)
        await asyncio.gather(*(tree.end(0) for tree in trees), return_exceptions=True)
        await finish(*(tree.exit for tree in trees))
        await asyncio.to_thread(self._thread.shutdown)

    async def call(self, work: Callable[..., T], *arguments: object) -> T:
        """Do something that blocks in the supervisor's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def _start(self, program: Program) -> "Tree":
        mark = secrets.token_hex(16)
        try:
            if self._closed:
                raise OSError("the Runtime is closing")
            started = await self.call(self._spawn, program, mark)
        finally:
            for descriptor in {program.stdin, program.stdout, program.stderr}:
                os.close(descriptor)
        tree = Tree(self, started, mark)
        self._trees.add(tree)
        tree.exit.add_done_callback(lambda _: self._trees.discard(tree))
        return tree

    def _spawn(self, program: Program, mark: str) -> _Started:
        kept = self._containment = self._containment or self._choose()
        root = subprocess.Popen(
            kept.argv(self._limited(program.argv)),
            cwd=program.cwd,
            env={**program.env, **kept.environment(mark)},
            stdin=program.stdin,
            stdout=program.stdout,
            stderr=program.stderr,
            start_new_session=True,
        )
        try:
            return _Started(root, os.pidfd_open(root.pid), kept)
        except OSError:
            _abandon(root, mark, kept)
            raise

    def _limited(self, command: Sequence[str]) -> Sequence[str]:
        limit = self._max_descriptors
        return command if limit is None else [SHELL, "-c", LIMITED, str(limit), *command]


def _abandon(root: subprocess.Popen[bytes], mark: str, kept: Containment) -> None:
    """End what was started and can't be watched.

    The program itself is killed only where nothing else helps: what it starts just then would be left.
    """
    for _ in range(KILL_ATTEMPTS):
        with contextlib.suppress(OSError):
            kept.kill(root.pid, mark)
        with contextlib.suppress(subprocess.TimeoutExpired):
            root.wait(KILL_PAUSE_S)
            return
    root.kill()
    root.wait()


class Tree:
    """One program that was started, and everything that it started.

    `exit` is done when the program has ended and nothing is left: its exit status, 128 + n for the signal n. In
    `left` are the processes that resisted being killed.
    """

    def __init__(self, supervisor: Supervisor, started: _Started, mark: str) -> None:
        self._supervisor = supervisor
        self._root = started.root
        self._containment = started.containment
        self._mark = mark
        self.left: list[int] = []
        self.exit = asyncio.create_task(self._watch(started.descriptor))

    async def interrupt(self) -> None:
        """Send SIGINT to the program and to what shares its process group."""
        if not self.exit.done():
            await self._supervisor.call(self._containment.interrupt, self._root.pid, self._mark)

    async def ask(self) -> None:
        """Ask everything in the tree to end, with SIGTERM. Raises OSError when it can't be looked for."""
        await self._supervisor.call(self._containment.terminate, self._root.pid, self._mark)

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
        return status if status >= 0 else 128 - status

    async def _sweep(self) -> None:
        for _ in range(KILL_ATTEMPTS):
            self.left = await self._kill()
            if not self.left:
                break
            await asyncio.sleep(KILL_PAUSE_S)

    async def _kill(self) -> list[int]:
        try:
            return await self._supervisor.call(self._containment.kill, self._root.pid, self._mark)
        except OSError:  # no descriptor is left to look into /proc: there may be one the next time
            return [self._root.pid]
