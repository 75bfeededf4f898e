"""The terminals of an agent: commands that it has us run, each with its output and its end."""

import asyncio
import codecs
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtimed.execution.pipes import Inlet, pipes
from runtimed.execution.profile import Profile
from runtimed.execution.program import Command
from runtimed.execution.supervise import Program, Supervisor, environment
from runtimed.execution.tree import Tree

MAX_TERMINALS = 32
"""Terminals of one session that are not released, those that are being started included."""

MAX_TERMINAL_OUTPUT = 1 << 20
"""Bytes of output that are kept of a terminal, the newest; an agent may ask for less."""


READS = 16
"""How often a pipe is read before others have their turn; it holds no more than that."""


class TerminalRefused(Exception):
    """There is no such terminal, or there are too many."""


class Terminal:
    """Owns one command with its process tree, and the end of what it said on both of its output streams."""

    def __init__(self, output: int, limit: int) -> None:
        self._inlet = Inlet(output)
        self._limit = limit
        self._output = bytearray()
        self._truncated = False
        self._tree: Tree | None = None
        self._killed = False
        self._closed = False

    @classmethod
    async def start(cls, supervisor: Supervisor, command: Command, limit: int) -> "Terminal":
        """Start the command. Raises OSError."""
        (stdin, nothing), (read, write) = pipes(2)
        os.close(nothing)
        terminal = cls(read, limit)
        try:
            streams = (stdin, write, write)
            program = Program(command.argv, command.cwd, command.env, *streams, command.limits)
            terminal._tree = await supervisor.start(program)
        except BaseException:
            terminal._close()
            raise
        asyncio.get_running_loop().add_reader(read, terminal._listen)
        return terminal

    @property
    def status(self) -> dict[str, Any] | None:
        """How the command ended, in the terms of the protocol, once nothing of it is left."""
        if self._tree is None or not self._tree.exit.done():
            return None
        if self._killed or self._tree.excess:
            return {"signal": "SIGKILL"}
        return {"exitCode": self._tree.exit.result()}

    def output(self) -> tuple[str, bool]:
        """What it has said, and whether the beginning of that is lost. No character is cut in two."""
        if not (self._closed or self._killed):
            self._listen()
        data = bytes(self._output)
        if self._truncated:
            data = data.lstrip(bytes(range(0x80, 0xC0)))
        return codecs.decode(data, "utf-8", "replace"), self._truncated

    async def ended(self) -> dict[str, Any]:
        """Wait for the end of the command; how that was, as `status`."""
        if self._tree is not None:
            await asyncio.shield(self._tree.exit)
        return self.status or {}

    async def begin_run(self) -> None:
        """A run begins, to which the limit of the CPU time applies until `end_run`."""
        if self._tree is not None:
            await self._tree.begin_run()

    def end_run(self) -> None:
        """The run is over."""
        if self._tree is not None:
            self._tree.end_run()

    async def kill(self) -> None:
        """End the command and all that it started; what it said stays. Raises TimeoutError as Tree.end."""
        if self._tree is not None:
            if not self._tree.exit.done():
                self.output()
                self._killed = True
            await self._tree.end(0)

    async def release(self) -> None:
        """End the command and let go of its output."""
        try:
            await self.kill()
        finally:
            self._close()

    def _listen(self) -> None:
        """Read what is there; a pipe holds a bounded number of bytes. What comes of being killed is left out."""
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
        if not self._closed:
            self._closed = True
            self._inlet.close()


class Terminals:
    """The terminals of one session, by their ids."""

    def __init__(self, profile: Profile, supervisor: Supervisor) -> None:
        self._profile = profile
        self._supervisor = supervisor
        self._open: dict[str, Terminal] = {}
        self._starting = 0
        self._made = 0
        self._running = False

    async def begin_run(self) -> None:
        """A run of the agent begins; the limit of the CPU time holds for each command in it."""
        self._running = True
        for terminal in tuple(self._open.values()):
            await terminal.begin_run()

    def end_run(self) -> None:
        """The run is over."""
        self._running = False
        for terminal in self._open.values():
            terminal.end_run()

    async def create(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], limit: int | None) -> str:
        """Start a command; the id of its terminal. Raises TerminalRefused, or OSError."""
        if len(self._open) + self._starting >= MAX_TERMINALS:
            raise TerminalRefused(f"there are {MAX_TERMINALS} terminals already: release some")
        kept = MAX_TERMINAL_OUTPUT if limit is None else min(limit, MAX_TERMINAL_OUTPUT)
        own = environment(self._profile.env) | dict(env)
        command = Command(argv, cwd, own, self._profile.tree_limits)
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
        """The terminal with this id. Raises TerminalRefused."""
        if terminal_id not in self._open:
            raise TerminalRefused(f"there is no terminal {terminal_id!r}")
        return self._open[terminal_id]

    async def release(self, terminal_id: str) -> None:
        """End a terminal and forget it. Raises TerminalRefused."""
        await self.get(terminal_id).release()
        self._open.pop(terminal_id, None)

    async def close(self) -> None:
        """Release all; when that was given up amid, what is left is released the next time."""
        await asyncio.gather(*map(self.release, self._open), return_exceptions=True)
