"""A program that reads and writes lines."""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from runtimed.execution.processes.limits import FolderLimit, TreeLimits
from runtimed.execution.processes.lines import MAX_LINE_BYTES, Chunk, LineBuffer
from runtimed.execution.processes.pipes import Inlet, readable
from runtimed.execution.processes.supervisor import NO_LIMITS, Program, Supervisor
from runtimed.execution.processes.tree import Tree
from runtimed.execution.tasks import begin
from runtimed.model.execution import LossReason
from runtimed.model.identity import WorkerId

TAIL_BYTES = 4096
"""How much of the end of standard error is kept."""

WRITE_DEADLINE_S = 60.0
"""How long a program may leave input unread before a write fails."""

STDOUT_CHECK_S = 5.0
"""How often a run checks whether its program has closed its output; after two such checks in a row it is ended."""

PARTIAL_S = 0.2
"""How long a line may stay incomplete before its beginning is returned, if `partial` is set."""

_NOTHING = Chunk(b"")


class Unresponsive(TimeoutError):
    """The program does not read its input."""


@attrs.frozen
class Command:
    """What to start.

    Attributes:
        argv: The program and its arguments.
        cwd: The directory to start in.
        env: Its whole environment.
        limits: What the whole process tree may use.
        worker_id: The Worker whose confinement holds for it.
    """

    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str]
    limits: TreeLimits = NO_LIMITS
    worker_id: WorkerId | None = None

    def program(self, stdin: int, stdout: int, stderr: int) -> Program:
        """Return it with the descriptors of its streams."""
        return Program(self.argv, self.cwd, self.env, stdin, stdout, stderr, self.limits, self.worker_id)


class LineProcess:
    """Owns one program with its process tree, and our ends of its three pipes.

    All memory is bounded: output is read only by `read`, `write` waits until the program has taken the input, and
    only the end of standard error is kept. The owner calls `stop`, even if the program has ended by itself. One task
    at a time may call `read`, and none after `stop`.
    """

    def __init__(self, stdin: int, stdout: int, stderr: int, max_line_bytes: int, *, partial: bool) -> None:
        os.set_blocking(stdin, False)
        self._stdin = stdin
        self._stdout = Inlet(stdout)
        self._stderr = Inlet(stderr)
        self._buffer = LineBuffer(max_line_bytes)
        self._chunks: deque[Chunk] = deque()
        self._partial = partial
        self._partial_due: float | None = None
        self._tail = b""
        self._tree: Tree | None = None
        self._writing = asyncio.Lock()
        self._writable: asyncio.Future[None] | None = None
        self._awake = asyncio.Event()
        self._woken = False
        self._watching: asyncio.Task[None] | None = None
        self._all_read = False
        self._closed = False

    @classmethod
    async def start(
        cls, supervisor: Supervisor, command: Command, *, max_line_bytes: int = MAX_LINE_BYTES, partial: bool = False
    ) -> "LineProcess":
        """Start a program.

        Args:
            supervisor: Starts the process tree.
            command: What to start.
            max_line_bytes: The longest line that is returned whole.
            partial: Return an incomplete line PARTIAL_S after it arrived, unless it begins a JSON object.

        Raises:
            OSError: It can't be started. A missing program may also show as exit status 127.
        """
        (stdin, write), (read, stdout), (errors, stderr) = supervisor.pipes(command.worker_id)
        made = cls(write, read, errors, max_line_bytes, partial=partial)
        try:
            program = command.program(stdin, stdout, stderr)
            made._watch(await supervisor.start(program))
        except BaseException:
            made._close()
            raise
        return made

    @property
    def root(self) -> int:
        """The root of its process tree; -1 before it is started."""
        return -1 if self._tree is None else self._tree.root

    @property
    def status(self) -> int | None:
        """The exit status, 128 + n for the signal n; None before the whole tree has ended."""
        exit_ = self._tree.exit if self._tree else None
        return exit_.result() if exit_ and exit_.done() else None

    @property
    def excess(self) -> LossReason | None:
        """The limit that ended it, if one did; `unresponsive` if it closed its standard output and kept running."""
        return self._tree.excess if self._tree else None

    @property
    def folder_bytes(self) -> int:
        """The size of the Worker's folder for which it was ended, if it was."""
        return self._tree.folder_bytes if self._tree else 0

    def limit_folder(self, limit: FolderLimit | None) -> None:
        """End the program if this folder becomes too large. None sets no limit."""
        if self._tree is not None:
            self._tree.limit_folder(limit)

    async def begin_run(self) -> None:
        """Begin to watch a run, until `end_run`: its CPU time is limited, and its output must stay open."""
        if self._tree is not None:
            await self._tree.begin_run()
            self._end_watch()
            if not self._closed:
                self._watching = begin(_end_without_stdout(self._tree, self._stdout.inode))

    def end_run(self) -> None:
        """Stop watching the run. May be called again."""
        self._end_watch()
        if self._tree is not None:
            self._tree.end_run()

    async def read(self) -> Chunk | None:
        """Wait for output.

        Returns:
            The next output; an empty chunk after a `wake`; None once the program has ended and all was returned.
        """
        await asyncio.sleep(0)  # a program that never stops talking must not keep others from their turn
        while not self._chunks:
            ended = self.status is not None
            if self._woken or self._all_read:
                return self._woken_or_end()
            if data := self._stdout.read():
                self._chunks += self._buffer.feed(data)
                self._partial_due = None if self._chunks else self._partial_due
            elif ended:
                self._all_read = True
                self._chunks += self._buffer.close()
            else:
                await self._wait_for_output()
        return self._chunks.popleft()

    def pending(self) -> list[Chunk]:
        """Return all output that has arrived, including an incomplete line. The size of a pipe limits it."""
        data = self._stdout.read(max(1, self._stdout.waiting()))
        found = [*self._chunks, *self._buffer.feed(data), *self._buffer.show()]
        self._chunks.clear()
        self._partial_due = None
        return found

    def wake(self) -> None:
        """Make the current or else the next `read` return."""
        self._woken = True
        self._awake.set()

    async def write(self, data: bytes, deadline_s: float = WRITE_DEADLINE_S) -> None:
        """Write input, in the order of the calls; returns once the pipe has taken all of it.

        A write that ends midway closes the input of the program.

        Args:
            data: The input.
            deadline_s: How long the program may read nothing, in seconds.

        Raises:
            Unresponsive: The program read nothing for that long.
            BrokenPipeError: The program has closed its input.
        """
        async with self._writing:
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[await self._write_some(rest, deadline_s) :]
            finally:
                if 0 < len(rest) < len(data):
                    self._close_stdin()

    async def ended(self) -> int:
        """Wait until the program has ended, and return its exit status."""
        if self._tree is None:
            raise BrokenPipeError
        return await asyncio.shield(self._tree.exit)

    async def kill(self) -> None:
        """Kill the program. Its output can still be read.

        Raises:
            TimeoutError: Processes resist being killed.
        """
        if self._tree is not None:
            await self._tree.end(0)

    async def stop(self, grace_s: float, farewell: bytes = b"") -> None:
        """End the program and everything that it started, and drop its output. May be called again.

        The program gets `farewell` and the end of its input at once, SIGTERM after half of the grace period and
        SIGKILL after all of it.

        Args:
            grace_s: How long it may take to end, in seconds.
            farewell: The last input.

        Raises:
            TimeoutError: Processes resist being killed.
        """
        self._end_watch()
        if not self._closed:
            self._stdout.discard()
        try:
            if grace_s > 0 and self.status is None:
                await self._ask_to_exit(grace_s, farewell)
            await self.kill()
        finally:
            self._close()

    def stderr_tail(self) -> str:
        """Return the end of its standard error, as text without control characters."""
        if not self._closed:
            self._read_stderr()
        text = self._tail.decode(errors="replace").strip()
        return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)

    def _watch(self, tree: Tree) -> None:
        self._tree = tree
        tree.exit.add_done_callback(lambda _: self._awake.set())
        asyncio.get_running_loop().add_reader(self._stderr.descriptor, self._read_stderr)

    def _end_watch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    def _woken_or_end(self) -> Chunk | None:
        woken, self._woken = self._woken, False
        return _NOTHING if woken else None

    async def _wait_for_output(self) -> None:
        """Wait for output, the end or a `wake`, or until an incomplete line is due."""
        loop, timer = asyncio.get_running_loop(), None
        if self._partial and self._buffer.can_show:
            self._partial_due = self._partial_due or loop.time() + PARTIAL_S
            if loop.time() >= self._partial_due:
                self._partial_due = None
                self._chunks += self._buffer.show()
                return
            timer = loop.call_at(self._partial_due, self._awake.set)
        try:
            await readable([] if self._stdout.ended else [self._stdout.descriptor], self._awake)
        finally:
            if timer is not None:
                timer.cancel()

    def _read_stderr(self) -> None:
        """Read standard error. The size of a pipe limits how much."""
        for _ in range(16):
            data = self._stderr.read()
            self._tail = (self._tail + data)[-TAIL_BYTES:]
            if not data:
                break
        if self._stderr.ended:
            asyncio.get_running_loop().remove_reader(self._stderr.descriptor)

    async def _write_some(self, data: memoryview, deadline_s: float) -> int:
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
            raise Unresponsive(f"the program read no input for {deadline_s:g} seconds")

    def _wake_writer(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    async def _ask_to_exit(self, grace_s: float, farewell: bytes) -> None:
        loop = asyncio.get_running_loop()
        began, half = loop.time(), grace_s / 2
        with contextlib.suppress(OSError):
            async with asyncio.timeout(half):
                await self.write(farewell, half)
        self._close_stdin()
        if self._tree is None:
            return
        await asyncio.wait({self._tree.exit}, timeout=max(0, began + half - loop.time()))
        if not self._tree.exit.done():
            with contextlib.suppress(OSError):
                await self._tree.ask()
        await asyncio.wait({self._tree.exit}, timeout=max(0, began + grace_s - loop.time()))

    def _close_stdin(self) -> None:
        """Close the program's input."""
        if self._stdin >= 0:
            asyncio.get_running_loop().remove_writer(self._stdin)
            os.close(self._stdin)
            self._stdin = -1
        self._wake_writer()

    def _close(self) -> None:
        self._close_stdin()
        if not self._closed:
            self._read_stderr()
            self._closed = True
            self._stdout.close()
            self._stderr.close()


async def _end_without_stdout(tree: Tree, pipe: int) -> None:
    """End a program that has closed its output, because it could never end its run."""
    closed = 0
    while closed < 2:
        await asyncio.sleep(STDOUT_CHECK_S)
        closed = closed + 1 if await tree.has_closed(pipe) else 0
    tree.exceed("unresponsive")
