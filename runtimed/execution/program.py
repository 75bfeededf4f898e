"""A program that is spoken to in lines."""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from runtimed.execution.limits import TreeLimits
from runtimed.execution.lines import MAX_LINE_BYTES, Chunk, LineBuffer
from runtimed.execution.pipes import Inlet, pipes, readable
from runtimed.execution.supervise import NO_LIMITS, Program, Supervisor
from runtimed.execution.tasks import begin
from runtimed.execution.tree import Tree
from runtimed.model.execution import LossReason

TAIL_BYTES = 4096
"""Of what a program writes to standard error, how much is kept: the end of it."""

WRITE_DEADLINE_S = 60.0
"""How long a program may take no input at all while some is there for it."""

MUTE_S = 5.0
"""How often it is looked, in a run, whether a program has closed its output; twice in a row, and it is ended."""

PARTIAL_S = 0.2
"""How long a line may take to its end until what there is of it is given, where that was asked for."""

_NOTHING = Chunk(b"")


class Unresponsive(TimeoutError):
    """The program does not read its input."""


@attrs.frozen
class Command:
    """What to start: an argv, in which directory, with which environment, and what the whole tree may use."""

    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str]
    limits: TreeLimits = NO_LIMITS


class LineProgram:
    """Owns one program with its process tree, and our ends of its three pipes.

    Nothing of it is unbounded: what is not taken by `read` is not read, `write` waits until the program has taken
    all, and of standard error, which is always read, only the end is kept. Whoever starts one calls `stop`, also when
    it has ended by itself. `read` may be called by one task at a time, and no more once `stop` was called.
    """

    def __init__(self, stdin: int, stdout: int, stderr: int, max_line_bytes: int, *, partial: bool) -> None:
        os.set_blocking(stdin, False)
        self._stdin = stdin
        self._stdout = Inlet(stdout)
        self._stderr = Inlet(stderr)
        self._lines = LineBuffer(max_line_bytes)
        self._chunks: deque[Chunk] = deque()
        self._partial = partial
        self._due: float | None = None
        self._tail = b""
        self._tree: Tree | None = None
        self._writing = asyncio.Lock()
        self._writable: asyncio.Future[None] | None = None
        self._awake = asyncio.Event()
        self._woken = False
        self._watching: asyncio.Task[None] | None = None
        self._over = False
        self._closed = False

    @classmethod
    async def start(
        cls, supervisor: Supervisor, command: Command, *, max_line_bytes: int = MAX_LINE_BYTES, partial: bool = False
    ) -> "LineProgram":
        """Start it. Raises OSError; a program that is not there may also show by its exit status 127.

        With `partial` a line that is no JSON object is given before its end, PARTIAL_S after it began.
        """
        (stdin, write), (read, stdout), (errors, stderr) = pipes(3)
        made = cls(write, read, errors, max_line_bytes, partial=partial)
        try:
            program = Program(command.argv, command.cwd, command.env, stdin, stdout, stderr, command.limits)
            made._watch(await supervisor.start(program))
        except BaseException:
            made._close()
            raise
        return made

    @property
    def status(self) -> int | None:
        """The exit status once it has ended and nothing of its tree is left; 128 + n for the signal n."""
        exit_ = self._tree.exit if self._tree else None
        return exit_.result() if exit_ and exit_.done() else None

    @property
    def excess(self) -> LossReason | None:
        """Which of its limits ended it, if one did; `unresponsive` where it went on without its standard output."""
        return self._tree.excess if self._tree else None

    async def begin_run(self) -> None:
        """A run begins, to which the limit of the CPU time applies until `end_run`, and in which it must be heard."""
        if self._tree is not None:
            await self._tree.begin_run()
            self._end_watch()
            if not self._closed:
                self._watching = begin(_end_mute(self._tree, self._stdout.inode))

    def end_run(self) -> None:
        """The run is over. Harmless when repeated."""
        self._end_watch()
        if self._tree is not None:
            self._tree.end_run()

    async def read(self) -> Chunk | None:
        """The next output, empty after a `wake`; None once the program has ended and all of it was given."""
        await asyncio.sleep(0)  # a program that never stops talking must not keep others from their turn
        while not self._chunks:
            ended = self.status is not None
            if self._woken or self._over:
                return self._neither()
            if data := self._stdout.read():
                self._chunks += self._lines.feed(data)
                self._due = None if self._chunks else self._due
            elif ended:
                self._over = True
                self._chunks += self._lines.close()
            else:
                await self._more()
        return self._chunks.popleft()

    def pending(self) -> list[Chunk]:
        """All output that has come and was not given, also of a line that has not ended; a pipe bounds it."""
        data = self._stdout.read(max(1, self._stdout.waiting()))
        found = [*self._chunks, *self._lines.feed(data), *self._lines.show()]
        self._chunks.clear()
        self._due = None
        return found

    def wake(self) -> None:
        """Have the `read` that waits, or else the next one, return."""
        self._woken = True
        self._awake.set()

    async def write(self, data: bytes, deadline_s: float = WRITE_DEADLINE_S) -> None:
        """Give it input; calls are served in their order, and return when the pipe has taken all.

        Raises Unresponsive where it takes nothing for `deadline_s`, and BrokenPipeError where it reads no more. When
        input was given in part, nothing can be said to the program any more.
        """
        async with self._writing:
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[await self._push(rest, deadline_s) :]
            finally:
                if 0 < len(rest) < len(data):
                    self._hang_up()

    async def ended(self) -> int:
        """Wait until the program has ended; its exit status."""
        if self._tree is None:
            raise BrokenPipeError
        return await asyncio.shield(self._tree.exit)

    async def kill(self) -> None:
        """End it at once; what it has written can still be read. Raises TimeoutError as Tree.end."""
        if self._tree is not None:
            await self._tree.end(0)

    async def stop(self, grace_s: float, farewell: bytes = b"") -> None:
        """End it and all that it started; what it still writes is forgotten. Harmless when repeated.

        Told `farewell`, its input ends; it gets SIGTERM when half of the grace is over, SIGKILL when all is. Raises
        TimeoutError as Tree.end.
        """
        self._end_watch()
        if not self._closed:
            self._stdout.discard()
        try:
            if grace_s > 0 and self.status is None:
                await self._part(grace_s, farewell)
            await self.kill()
        finally:
            self._close()

    def last_words(self) -> str:
        """The end of what it wrote to standard error, as text without control characters."""
        if not self._closed:
            self._listen()
        text = self._tail.decode(errors="replace").strip()
        return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)

    def _watch(self, tree: Tree) -> None:
        self._tree = tree
        tree.exit.add_done_callback(lambda _: self._awake.set())
        asyncio.get_running_loop().add_reader(self._stderr.descriptor, self._listen)

    def _end_watch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    def _neither(self) -> Chunk | None:
        woken, self._woken = self._woken, False
        return _NOTHING if woken else None

    async def _more(self) -> None:
        """Wait for output, the end or a `wake`, or until a line that has begun is to be given."""
        loop, timer = asyncio.get_running_loop(), None
        if self._partial and self._lines.can_show:
            self._due = self._due or loop.time() + PARTIAL_S
            if loop.time() >= self._due:
                self._due = None
                self._chunks += self._lines.show()
                return
            timer = loop.call_at(self._due, self._awake.set)
        try:
            await readable([] if self._stdout.ended else [self._stdout.descriptor], self._awake)
        finally:
            if timer is not None:
                timer.cancel()

    def _listen(self) -> None:
        """Read what is there of standard error; a pipe holds a bounded number of bytes."""
        for _ in range(16):
            data = self._stderr.read()
            self._tail = (self._tail + data)[-TAIL_BYTES:]
            if not data:
                break
        if self._stderr.ended:
            asyncio.get_running_loop().remove_reader(self._stderr.descriptor)

    async def _push(self, data: memoryview, deadline_s: float) -> int:
        while True:
            if self._stdin < 0:
                raise BrokenPipeError("the input of the program is closed")
            try:
                return os.write(self._stdin, data)
            except BlockingIOError:
                await self._until_writable(deadline_s)

    async def _until_writable(self, deadline_s: float) -> None:
        loop = asyncio.get_running_loop()
        waiter = self._writable = loop.create_future()
        loop.add_writer(self._stdin, self._wake_writer)
        try:
            done, _ = await asyncio.wait({waiter}, timeout=deadline_s)
        finally:
            self._writable = None
            if self._stdin >= 0:
                loop.remove_writer(self._stdin)
        if not done:
            raise Unresponsive(f"the program took no input for {deadline_s:g} seconds")

    def _wake_writer(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    async def _part(self, grace_s: float, farewell: bytes) -> None:
        loop = asyncio.get_running_loop()
        began, half = loop.time(), grace_s / 2
        with contextlib.suppress(OSError):
            async with asyncio.timeout(half):
                await self.write(farewell, half)
        self._hang_up()
        if self._tree is None:
            return
        await asyncio.wait({self._tree.exit}, timeout=max(0, began + half - loop.time()))
        if not self._tree.exit.done():
            with contextlib.suppress(OSError):
                await self._tree.ask()
        await asyncio.wait({self._tree.exit}, timeout=max(0, began + grace_s - loop.time()))

    def _hang_up(self) -> None:
        """End the program's input."""
        if self._stdin >= 0:
            asyncio.get_running_loop().remove_writer(self._stdin)
            os.close(self._stdin)
            self._stdin = -1
        self._wake_writer()

    def _close(self) -> None:
        self._hang_up()
        if not self._closed:
            self._listen()
            self._closed = True
            self._stdout.close()
            self._stderr.close()


async def _end_mute(tree: Tree, pipe: int) -> None:
    """End a program that has closed its output, nothing of which would ever end its run."""
    looks = 0
    while looks < 2:
        await asyncio.sleep(MUTE_S)
        looks = looks + 1 if await tree.lets_go(pipe) else 0
    tree.exceed("unresponsive")
