"""Run git on repositories that nobody trusts."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import attrs

from runtimed.execution.processes.confinement import View
from runtimed.execution.processes.environment import environment
from runtimed.execution.processes.limits import TreeLimits
from runtimed.execution.processes.pipes import Inlet, pipes, readable
from runtimed.execution.processes.supervisor import Program, Supervisor
from runtimed.execution.processes.tree import Tree
from runtimed.execution.tasks import completed

GIT_DEADLINE_S = 60.0
"""How long a command that only reads may take."""

MAX_GITS = 4
"""How many commands one Git runs at once. What must not wait for others has a Git of its own."""

MAX_OUTPUT_BYTES = 32 * 2**20
"""The most output of a command that is kept; a longer one fails."""

MAX_STDERR_BYTES = 4096
MAX_FILTERS = 256
LIMITS = TreeLimits(memory_bytes=2 << 30, processes=64)

SETTINGS: Mapping[str, str] = {
    "core.alternateRefsCommand": "true",
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.untrackedCache": "false",
    "diff.suppressBlankEmpty": "false",
    "fetch.recurseSubmodules": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "safe.directory": "*",
    "submodule.recurse": "false",
    "worktree.useRelativePaths": "false",
}
"""What overrides the configuration of a repository: it can name programs to run, and files that hide changes."""

VARIABLES: Mapping[str, str] = {
    "GIT_ALLOW_PROTOCOL": "file",
    "GIT_ASKPASS": "true",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
PROGRAMS_OF_FILTERS = ("clean", "smudge", "process")
_CONFIGURED_PROGRAMS = r"^(filter\..*\.(clean|smudge|process|required)|hook\..*)$"

log = logging.getLogger(__name__)


class GitFailed(Exception):
    """A git command failed or took too long; the text says which, in words for clients. The log has the details."""


@attrs.frozen
class Place:
    """Where a git command works.

    Attributes:
        cwd: Where it starts.
        git_dir: The repository; None to look for it from `cwd` upwards.
        work_tree: The top of the working tree, where `git_dir` is given.
        ceiling: The folder above which no repository is looked for.
        index: Another index than that of the working tree.
        settings: Settings that turn off what the repository configures.
        view: The files that git may reach; None for `cwd` alone.
    """

    cwd: Path
    git_dir: Path | None = None
    work_tree: Path | None = None
    ceiling: Path | None = None
    index: Path | None = None
    settings: Mapping[str, str] = attrs.field(factory=dict)
    view: View | None = None

    @property
    def reachable(self) -> View:
        """The files that git may reach."""
        return self.view or View(self.cwd, (self.cwd,))

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of a command: nothing of the daemon's own git variables."""
        paths = {
            "GIT_DIR": self.git_dir,
            "GIT_WORK_TREE": self.work_tree,
            "GIT_CEILING_DIRECTORIES": self.ceiling,
            "GIT_INDEX_FILE": self.index,
        }
        settings = {**SETTINGS, **self.settings}
        own = {f"GIT_CONFIG_KEY_{number}": name for number, name in enumerate(settings)}
        own |= {f"GIT_CONFIG_VALUE_{number}": text for number, text in enumerate(settings.values())}
        own |= {name: str(path) for name, path in paths.items() if path is not None}
        return environment({**VARIABLES, "GIT_CONFIG_COUNT": str(len(settings)), **own})


@attrs.frozen
class Finished:
    """What a command has led to: its exit status, and its output."""

    status: int
    output: bytes

    @property
    def text(self) -> str:
        """The output as one text, without the line feed at its end."""
        return os.fsdecode(self.output).removesuffix("\n")


class Git:
    """Runs git commands off the event loop, as the programs of Workers run: confined, limited, at most MAX_GITS.

    A command reaches the files of its place alone, and no network. Where the daemon is root, it runs as their owner.
    Hooks, file system monitors, external diffs and filters of the repository never run.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._slots = asyncio.Semaphore(MAX_GITS)

    async def hardened(self, place: Place) -> Place:
        """Return the place with every filter and hook turned off that its configuration names. Raises GitFailed."""
        args = ("config", "--null", "--name-only", "--get-regexp", _CONFIGURED_PROGRAMS)
        found = await self.run(place, *args, accepted=(0, 1))
        names = {name for name in os.fsdecode(found.output).split("\0") if name}
        drivers = {name.rpartition(".")[0] for name in names}
        if len(drivers) > MAX_FILTERS:
            raise GitFailed(f"the repository configures more than {MAX_FILTERS} filters")
        settings: dict[str, str] = {}
        for driver in sorted(drivers):
            if driver.startswith("hook."):
                settings[f"{driver}.enabled"] = "false"
                continue
            settings |= {f"{driver}.{program}": "" for program in PROGRAMS_OF_FILTERS}
            settings[f"{driver}.required"] = "false"
        return attrs.evolve(place, settings=settings)

    async def run(
        self,
        place: Place,
        *args: str,
        stdin: bytes = b"",
        deadline_s: float = GIT_DEADLINE_S,
        accepted: Sequence[int] = (0,),
        take: Callable[[bytes], bool] | None = None,
    ) -> Finished:
        """Run a command.

        Args:
            place: Where.
            args: The command with its arguments.
            stdin: What it reads.
            deadline_s: How long it may take, in seconds.
            accepted: The exit statuses that are no failure.
            take: Gets the output piece by piece instead of keeping it. Once it returns False, the command is ended
                and has succeeded.

        Raises:
            GitFailed: It failed, took too long or said too much.
        """
        argv = ("git", "--no-pager", "--literal-pathspecs", *args)
        async with self._slots:
            try:
                async with asyncio.timeout(deadline_s), _Command(self._supervisor, place, argv, stdin) as command:
                    done = await command.finish(take)
            except TimeoutError:
                raise GitFailed(f"git {args[0]} took longer than {deadline_s:g} s") from None
            except OSError as error:
                log.warning("cannot run git", extra={"command": args[0], "reason": error})
                raise GitFailed(f"git {args[0]} could not be run: {error.strerror}") from error
        if done.status not in accepted:
            fields = {"command": args[0], "status": done.status, "reason": command.errors}
            log.warning("a git command failed", extra=fields)
            raise GitFailed(f"git {args[0]} failed with status {done.status}; the log of the daemon says why")
        return done


class _Command:
    """One process tree, from its start until nothing of it is left."""

    def __init__(self, supervisor: Supervisor, place: Place, argv: Sequence[str], stdin: bytes) -> None:
        self._supervisor = supervisor
        self._place = place
        self._argv = argv
        self._stdin = stdin
        self._errors = bytearray()
        self._kept = bytearray()
        self._ended = asyncio.Event()

    @property
    def errors(self) -> str:
        return self._errors.decode(errors="replace").strip()

    async def __aenter__(self) -> Self:
        with ExitStack() as undo:
            (output, stdout), (complaints, stderr) = pipes(2)
            self._output, self._complaints = Inlet(output), Inlet(complaints)
            undo.callback(self._close)
            with ExitStack() as streams:  # until the supervisor owns them
                streams.callback(os.close, stdout)
                streams.callback(os.close, stderr)
                stdin = os.memfd_create("stdin")
                streams.callback(os.close, stdin)
                await completed(asyncio.to_thread(_fill, stdin, self._stdin))
                streams.pop_all()
            place = self._place
            program = Program(
                self._argv, place.cwd, place.environment, stdin, stdout, stderr, LIMITS, view=place.reachable
            )
            self._tree: Tree = await self._supervisor.start(program)
            undo.pop_all()
        self._tree.exit.add_done_callback(lambda _: self._ended.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._tree.end(0)
        finally:
            self._close()

    async def finish(self, take: Callable[[bytes], bool] | None) -> Finished:
        """Pass on the output until the command has ended. Raises GitFailed if it is too much to keep."""
        while not self._tree.exit.done():
            if not self._pass_on(take or self._keep):
                return Finished(0, b"")
            inlets = [inlet.descriptor for inlet in (self._output, self._complaints) if not inlet.ended]
            await readable(inlets, self._ended)
        while self._output.waiting() or self._complaints.waiting():
            if not self._pass_on(take or self._keep):
                return Finished(0, b"")
            await asyncio.sleep(0)
        return Finished(self._tree.exit.result(), bytes(self._kept))

    def _pass_on(self, take: Callable[[bytes], bool]) -> bool:
        self._errors += self._complaints.read()
        del self._errors[:-MAX_STDERR_BYTES]
        data = self._output.read()
        return take(data) if data else True

    def _keep(self, data: bytes) -> bool:
        self._kept += data
        if len(self._kept) > MAX_OUTPUT_BYTES:
            raise GitFailed(f"git {self._argv[3]} said more than {MAX_OUTPUT_BYTES} bytes")
        return True

    def _close(self) -> None:
        self._output.close()
        self._complaints.close()


def _fill(descriptor: int, content: bytes) -> None:
    """Write the content of a file in memory and go back to its start. Unlike a pipe, it never makes anybody wait."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
