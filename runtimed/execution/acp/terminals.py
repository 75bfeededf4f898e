"""The terminals of an agent: commands that we run for it."""

import asyncio
import codecs
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from runtimed.execution.processes.descriptor_limit import SHELL
from runtimed.execution.processes.environment import environment
from runtimed.execution.processes.line_process import Command
from runtimed.execution.processes.pipes import Inlet
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.processes.tree import Tree
from runtimed.execution.profile import Profile
from runtimed.execution.tasks import begin, finish
from runtimed.model.identity import WorkerId

MAX_TERMINALS = 32
"""The most terminals of one session that are not released, including those that are being started."""

MAX_LEFT = 32
"""The most released terminals with background processes; one more, and the oldest is ended."""

MAX_TERMINAL_OUTPUT = 1 << 20
"""The most bytes of a terminal's output that are kept, the newest; an agent may ask for less."""

MAX_REPORT_BYTES = 16
"""The most bytes of a report of an exit status."""

READS = 16
"""How often a pipe is read before other tasks have their turn."""

KEEPER = 'exec 3>&2 2>/dev/null; (exec "$@") </dev/null 2>&1 3>&-; echo "$?" >&3; exec >&- 3>&-; read -r end'
"""Runs a command, reports its exit status on standard error, and stays until its standard input ends.

It is the root of the process tree: what the command left in the background lives as long as that.
"""

log = logging.getLogger(__name__)


class TerminalRefused(Exception):
    """There is no such terminal, or there are too many."""


class Terminal:
    """Owns one command with its process tree, and the end of its output and error.

    The command has ended once its status is known; its background processes run until `close`.
    """

    def __init__(self, hold: int, output: int, status: int, limit: int) -> None:
        self._hold = hold
        self._keeping = os.fstat(hold).st_ino
        self._inlet = Inlet(output)
        self._report = Inlet(status)
        self._limit = limit
        self._output = bytearray()
        self._truncated = False
        self._tree: Tree | None = None
        self._over = asyncio.Event()
        self._report_bytes = b""
        self._code: int | None = None
        self._settling: asyncio.Task[None] | None = None
        self._killed = False
        self._closed = False

    @classmethod
    async def start(cls, supervisor: Supervisor, command: Command, limit: int) -> "Terminal":
        """Start the command. Raises OSError."""
        (stdin, hold), (output, stdout), (status, report) = supervisor.pipes(command.worker_id)
        terminal = cls(hold, output, status, limit)
        try:
            kept = attrs.evolve(command, argv=[SHELL, "-c", KEEPER, SHELL, *command.argv])
            terminal._watch(await supervisor.start(kept.program(stdin, stdout, report)))
        except BaseException:
            terminal._close()
            raise
        return terminal

    @property
    def status(self) -> dict[str, Any] | None:
        """The exit status as ACP has it; None while the command runs."""
        if self._tree is None:
            return None
        if self._code is not None:
            return {"exitCode": self._code}
        if not self._tree.exit.done():
            return None
        if self._killed or self._tree.excess:
            return {"signal": "SIGKILL"}
        return {"exitCode": self._tree.exit.result()}

    @property
    def is_gone(self) -> bool:
        """Whether nothing of the command is left."""
        return self._tree is None or self._tree.exit.done()

    def output(self) -> tuple[str, bool]:
        """Return the output, and whether its beginning was dropped. No character is cut in two."""
        if not (self._closed or self._killed):
            self._read_output()
        data = bytes(self._output)
        if self._truncated:
            data = data.lstrip(bytes(range(0x80, 0xC0)))
        return codecs.decode(data, "utf-8", "replace"), self._truncated

    async def ended(self) -> dict[str, Any]:
        """Wait for the end of the command, and return its status."""
        await self._over.wait()
        return self.status or {}

    async def begin_run(self) -> None:
        """Begin to limit the CPU time of a run, until `end_run`."""
        if self._tree is not None:
            await self._tree.begin_run()

    def end_run(self) -> None:
        """Stop limiting the CPU time."""
        if self._tree is not None:
            self._tree.end_run()

    async def kill(self) -> None:
        """Kill the command and all that it started; its output stays.

        Raises:
            TimeoutError: Processes resist being killed.
        """
        if self._tree is not None:
            if self.status is None:
                self.output()
                self._killed = True
            await self._tree.end(0)

    async def release(self) -> None:
        """Drop the output, and kill the command if it runs; background processes go on."""
        if self.status is None:
            await self.close()
            return
        self._limit = 0
        self._output.clear()
        await self.settle()

    async def close(self) -> None:
        """Kill the command and all that it started."""
        try:
            await self.kill()
            if self._settling is not None:
                await finish(self._settling)
        finally:
            self._close()

    async def settle(self) -> None:
        """End the root of the tree once no other process is left in it."""
        if (
            self._tree is not None
            and self.status is not None
            and not await self._tree.has_member_without(self._keeping)
        ):
            self._end_root()
            await asyncio.shield(self._tree.exit)

    def _watch(self, tree: Tree) -> None:
        self._tree = tree
        tree.exit.add_done_callback(lambda _: self._over.set())
        loop = asyncio.get_running_loop()
        loop.add_reader(self._inlet.descriptor, self._read_output)
        loop.add_reader(self._report.descriptor, self._read_status)

    def _read_status(self) -> None:
        """Read the exit status."""
        self._report_bytes = (self._report_bytes + self._report.read())[:MAX_REPORT_BYTES]
        if self._report.ended:
            asyncio.get_running_loop().remove_reader(self._report.descriptor)
        line, end, _ = self._report_bytes.partition(b"\n")
        if end and line.isdigit() and not self._over.is_set():
            self._code = int(line)
            self._over.set()
            self._settling = begin(self.settle())

    def _read_output(self) -> None:
        """Read the output; the size of a pipe bounds it. Output after a kill is dropped."""
        for _ in range(READS):
            data = self._inlet.read()
            if not data:
                break
            if not self._killed:
                self._output += data
        if len(self._output) > self._limit:
            self._truncated = True
            del self._output[: len(self._output) - self._limit]
        if self._inlet.ended:
            asyncio.get_running_loop().remove_reader(self._inlet.descriptor)

    def _close(self) -> None:
        self._end_root()
        if not self._closed:
            self._closed = True
            self._inlet.close()
            self._report.close()

    def _end_root(self) -> None:
        """Close the input of the root of the tree, which then ends."""
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1


class Terminals:
    """The terminals of one session, by their ids."""

    def __init__(self, profile: Profile, supervisor: Supervisor, worker_id: WorkerId) -> None:
        self._profile = profile
        self._supervisor = supervisor
        self._worker_id = worker_id
        self._open: dict[str, Terminal] = {}
        self._left: list[Terminal] = []
        self._starting = 0
        self._made = 0
        self._running = False

    async def begin_run(self) -> None:
        """Begin to limit the CPU time of each command for a run of the agent."""
        self._running = True
        for terminal in (*self._open.values(), *self._left):
            await terminal.begin_run()

    def end_run(self) -> None:
        """Stop limiting the CPU time."""
        self._running = False
        for terminal in (*self._open.values(), *self._left):
            terminal.end_run()

    async def create(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], limit: int | None) -> str:
        """Start a command in a new terminal.

        Args:
            argv: The command.
            cwd: Where it starts.
            env: Variables besides those of the profile.
            limit: The most bytes of output to keep.

        Returns:
            The id of the terminal.

        Raises:
            TerminalRefused: There are too many terminals.
            OSError: The command can't be started.
        """
        if len(self._open) + self._starting >= MAX_TERMINALS:
            raise TerminalRefused(f"there are {MAX_TERMINALS} terminals already: release some")
        kept = MAX_TERMINAL_OUTPUT if limit is None else min(limit, MAX_TERMINAL_OUTPUT)
        own = environment(self._profile.env, self._profile.env_pass) | dict(env)
        command = Command(argv, cwd, own, self._profile.tree_limits, self._worker_id)
        self._starting += 1
        try:
            terminal = await Terminal.start(self._supervisor, command, kept)
        finally:
            self._starting -= 1
        self._made += 1
        name = f"terminal-{self._made}"
        self._open[name] = terminal
        if self._running:
            await terminal.begin_run()
        return name

    def get(self, terminal_id: str) -> Terminal:
        """Return the terminal with this id. Raises TerminalRefused."""
        if terminal_id not in self._open:
            raise TerminalRefused(f"there is no terminal {terminal_id!r}")
        return self._open[terminal_id]

    async def release(self, terminal_id: str) -> None:
        """Release a terminal; background processes of its command go on. Raises TerminalRefused."""
        terminal = self.get(terminal_id)
        await terminal.release()
        if self._open.pop(terminal_id, None) is not None:
            self._left.append(terminal)
        await self._tidy()

    async def close(self) -> None:
        """End all terminals and background processes. A failure is logged.

        A call that is cancelled can be repeated for the rest.
        """
        _report(await asyncio.gather(*map(self._end, self._open), return_exceptions=True))
        await self._drop(self._left)

    async def _end(self, terminal_id: str) -> None:
        if terminal := self._open.get(terminal_id):
            await terminal.close()
            self._open.pop(terminal_id, None)

    async def _tidy(self) -> None:
        """Forget released terminals without processes, and end those beyond MAX_LEFT."""
        for terminal in tuple(self._left):
            await terminal.settle()
        await self._drop([terminal for terminal in self._left if terminal.is_gone])
        await self._drop(self._left[:-MAX_LEFT])

    async def _drop(self, terminals: Sequence[Terminal]) -> None:
        dropped = tuple(terminals)
        _report(await asyncio.gather(*(terminal.close() for terminal in dropped), return_exceptions=True))
        self._left = [terminal for terminal in self._left if terminal not in dropped or not terminal.is_gone]


def _report(outcomes: Iterable[BaseException | None]) -> None:
    for error in outcomes:
        if isinstance(error, Exception):
            log.error("not all of a terminal has ended", extra={"reason": error})
