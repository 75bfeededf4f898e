"""A shell process that runs one script after another."""

import asyncio
import codecs
import contextlib
import os
import re
import shlex
import shutil
from collections import deque
from functools import partial
from pathlib import Path

from runtimed.execution.processes.environment import environment
from runtimed.execution.processes.pipes import Inlet, readable
from runtimed.execution.processes.supervisor import Program, Supervisor
from runtimed.execution.processes.tree import Tree
from runtimed.execution.profile import Profile
from runtimed.execution.session.exit_reason import explain_exit
from runtimed.execution.workspace import HOME, SCRIPTS, Home
from runtimed.model.execution import LossReason

BEGIN_DEADLINE_S = 60.0
"""How long a shell may take to begin a script."""

MAX_RECORD = 4096
MAX_RECORDS = 64
"""The longest record on the status pipe, and how many records are kept."""

_READY = b"ready"
_BEGUN = b"begun"
_NO_DIRECTORY = b"no-directory"
_STATUS = re.compile(rb"[0-9]{1,3}")
_DIRECTORY = b"@/"
_SCRIPT = f"{SCRIPTS}/script"

# Standard input carries a line for each run; standard error carries records that end with NUL: `ready`,
# `no-directory`, `begun`, the status of a script, and the directory after an `@`. The first record begins with NUL,
# to separate it from error messages of the shell itself. A run gets new standard streams, so what it does to them
# with `exec` ends with it, and it sees neither pipe. The condition of the loop reports the end of a run, because a
# `continue 2` of a script, outside of any loop of its own, jumps there, and under `set -n` the condition ends the
# loop. The inner loop is there for a `break` and `continue` of that kind. `command` passes over functions that a
# script may have named alike, and keeps a syntax error from ending a plain POSIX shell. What `set -x` says of the
# driver itself goes to /dev/null. An interrupt ends what the script waits for, and by the trap the script, but not
# the shell. `-e` and `-u` are turned off behind each script, because with them on an ordinary failure of a later
# script would end the shell.
_TELL_DIRECTORY = """unset -f command; { command printf '@%s\\0' "${PWD-}" >&4; } 2>/dev/null"""
_DRIVER = (
    "exec 3<&0 4>&2 5>&1 </dev/null 2>/dev/null; command trap 'command return 130 2>/dev/null' INT; "
    "command trap {trap} EXIT; command cd -- \"$1\" || command printf '\\0no-directory\\0' >&4; shift; "
    "command printf '\\0ready\\0' >&4; "
    "until ! {{ __runtimed=$?; unset -f command; "
    'command printf \'%s\\0@%s\\0\' "$__runtimed" "${{PWD-}}" >&4; command set +eu; '
    "IFS= command read -r __runtimed <&3; }}; do command printf 'begun\\0' >&4; "
    "for __runtimed in _; do command . {script} </dev/null >&5 2>&1 3<&- 4>&- 5>&-; done; done"
)


class ShellFailed(OSError):
    """The shell could not be started or began no script. The text says why."""


class Shell:
    """Owns one shell with its process tree, and our ends of its three pipes.

    It starts in the home and reads its scripts from a file in a folder beside the home. Directory, variables and
    functions last from one script to the next. It runs one script at a time. Background jobs may print at any moment.

    `directory` is the last that it reported. `lost_directory` says that it could not start in the directory
    of the shell before it.
    """

    def __init__(self, home: Home, control: int, output: int, status: int) -> None:
        self._home = home
        os.set_blocking(control, False)
        self._control = control
        self._output = Inlet(output)
        self._status = Inlet(status)
        self._rest = b""
        self._rest_is_cut = False
        self._records: deque[bytes] = deque(maxlen=MAX_RECORDS)
        self._tree: Tree | None = None
        self._closed = False
        self.directory: bytes | None = None
        self.lost_directory = False

    @classmethod
    async def start(
        cls, supervisor: Supervisor, home: Home, profile: Profile, wake: asyncio.Event, directory: bytes | None = None
    ) -> "Shell":
        """Start a shell and wait until it is ready.

        Args:
            supervisor: Starts the process tree.
            home: The directory of the Worker; scripts are written beside it.
            profile: The environment, limits and times.
            wake: Set when the shell ends.
            directory: Where to start; the home if not given.

        Raises:
            OSError: It can't be started, or is not ready in time.
        """
        argv = await asyncio.to_thread(_prepare, home, directory)
        (stdin, control), (output, stdout), (status, stderr) = supervisor.pipes(home.worker_id)
        shell = cls(home, control, output, status)
        env = environment(profile.env, profile.env_pass)
        limits = profile.tree_limits
        program = Program(argv, home.path, env, stdin, stdout, stderr, limits, home.worker_id)
        try:
            shell._tree = await supervisor.start(program)
            shell._tree.limit_folder(home.folder_limit)
            shell._tree.exit.add_done_callback(lambda _: wake.set())
            await shell._ready(profile, wake)
        except BaseException:
            await shell.end(0)
            raise
        return shell

    @property
    def ended(self) -> int | None:
        """The exit status of the shell; None before its whole tree has ended."""
        return self._tree.exit.result() if self._tree is not None and self._tree.exit.done() else None

    @property
    def excess(self) -> LossReason | None:
        """The limit that ended it, if one did."""
        return self._tree.excess if self._tree is not None else None

    @property
    def folder_bytes(self) -> int:
        """The size of the Worker's folder for which it was ended, if it was."""
        return self._tree.folder_bytes if self._tree is not None else 0

    def exceed(self, reason: LossReason) -> None:
        """Kill it for this reason."""
        if self._tree is not None:
            self._tree.exceed(reason)

    async def run(self, script: bytes, wake: asyncio.Event) -> bool:
        """Make the shell begin a script, without waiting for its end.

        A shell that does not begin it within BEGIN_DEADLINE_S is killed.

        Args:
            script: The script, as `plain` returns it.
            wake: Set when the shell ends.

        Returns:
            False if the shell ended before it began the script.

        Raises:
            OSError: The script can't be written.
        """
        await self._home.use(partial(_write, self._home.folder / _SCRIPT, script))
        if self._tree is not None:
            await self._tree.begin_run()
        with contextlib.suppress(BrokenPipeError):
            os.write(self._control, b"\n")
        deadline = asyncio.get_running_loop().call_later(BEGIN_DEADLINE_S, self.exceed, "unresponsive")
        try:
            return await self._wait_for(_BEGUN, wake)
        finally:
            deadline.cancel()

    async def activity(self, wake: asyncio.Event) -> None:
        """Wait for output, a status, the end of the shell or `wake`."""
        if not self._records:
            inlets = (self._output, self._status)
            await readable((inlet.descriptor for inlet in inlets if not inlet.ended), wake)

    def read(self) -> bytes:
        """Return all output so far. Once the status of a script has arrived, so has its output."""
        return self._output.read(max(1, self._output.waiting()))

    def status(self) -> int | None:
        """Return the exit status of the script, once; None while it runs."""
        self.read_records()
        statuses = [int(record) for record in self._records if _STATUS.fullmatch(record)]
        self._records.clear()
        if statuses and self._tree is not None:
            self._tree.end_run()
        return statuses[-1] if statuses else None

    async def interrupt(self) -> None:
        """Send SIGINT to the script and what it waits for. A script that handles the signal may continue."""
        if self._tree is not None:
            await self._tree.interrupt()

    async def kill(self) -> None:
        """Kill the shell and everything that it started. Its output can still be read.

        Raises:
            TimeoutError: Processes resist being killed.
        """
        if self._tree is not None:
            await self._tree.end(0)

    async def end(self, grace: float) -> None:
        """End the shell and all that it started, and drop its output.

        Args:
            grace: How long they may take to end after SIGTERM, in seconds; with 0 they are killed.

        Raises:
            TimeoutError: Processes resist being killed.
        """
        if not self._closed:
            self._output.discard()
            self._status.discard()
        try:
            if self._tree is not None:
                await self._end(self._tree, grace)
        finally:
            self._close()

    async def _end(self, tree: Tree, grace: float) -> None:
        if grace > 0 and not tree.exit.done():
            with contextlib.suppress(OSError):
                await tree.ask()
            self._close_control()  # not earlier: the shell would end and orphan its children
        await tree.end(grace)

    async def _ready(self, profile: Profile, wake: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(profile.start_timeout_s):
                ready = await self._wait_for(_READY, wake)
        except TimeoutError:
            late = f"within {profile.start_timeout_s:g} seconds (start_timeout_s)"
            raise ShellFailed(f"the shell was not ready {late}") from None
        if not ready:
            output = b" ".join(b" ".join((*self._records, self._rest)).split())[-MAX_RECORD:].decode(errors="replace")
            reason, status = self.excess or "exit", self.ended or 0
            raise ShellFailed(
                explain_exit(reason, status, profile, output, what="shell", folder_bytes=self.folder_bytes)
            )

    async def _wait_for(self, word: bytes, wake: asyncio.Event) -> bool:
        """Wait for a record and drop those before it; False, with none dropped, if the shell ended without it."""
        while True:
            ended = self.ended
            self.read_records()
            if word in self._records:
                break
            if ended is not None:
                return False
            await readable([] if self._status.ended else [self._status.descriptor], wake)
        while (record := self._records.popleft()) != word:
            self.lost_directory = self.lost_directory or record == _NO_DIRECTORY
        return True

    def read_records(self) -> None:
        """Read the records that have arrived. A record that is too long is left out."""
        *records, rest = (self._rest + self._status.read(max(1, self._status.waiting()))).split(b"\0")
        for record in records:
            if self._rest_is_cut or len(record) > MAX_RECORD:
                self._rest_is_cut = False
            elif record.startswith(_DIRECTORY):
                self.directory = record.removeprefix(b"@")
            elif record:
                self._records.append(record)
        self._rest_is_cut = self._rest_is_cut or len(rest) > MAX_RECORD
        self._rest = rest[-MAX_RECORD:]

    def _close_control(self) -> None:
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def _close(self) -> None:
        self._close_control()
        if not self._closed:
            self._closed = True
            self._output.close()
            self._status.close()


def _prepare(home: Home, directory: bytes | None) -> list[str]:
    folder = home.folder
    for made in (folder, folder / HOME):
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_readable(folder / SCRIPTS)
    shell = shutil.which("bash") or shutil.which("sh")
    if shell is None:
        raise ShellFailed("neither bash nor sh is in PATH")
    driver = _DRIVER.format(script=shlex.quote(str(folder / _SCRIPT)), trap=shlex.quote(_TELL_DIRECTORY))
    return [shell, "-c", driver, "shell", os.fsdecode(directory or os.fsencode(home.path))]


def plain(script: bytes) -> bytes:
    """Return a script as a shell reads it: without a byte order mark, and with line feeds only."""
    return script.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").removesuffix(b"\r")


def _write(path: Path, script: bytes) -> None:
    _make_readable(path.parent)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o644)  # its reader may be another user; nobody else can enter the Worker's folder
        file.write(script)


def _make_readable(folder: Path) -> None:
    """Make a folder that every user can read who can enter the folder around it."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o755)
