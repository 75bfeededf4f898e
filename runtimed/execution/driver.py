"""A shell that runs one script after another."""

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

from runtimed.execution.loss import explained
from runtimed.execution.pipes import Inlet, pipes, readable
from runtimed.execution.profile import Profile
from runtimed.execution.supervise import Program, Supervisor, environment
from runtimed.execution.tree import Tree
from runtimed.execution.workspace import HOME, Home
from runtimed.model.execution import LossReason

TAKE_DEADLINE_S = 60.0
"""How long a shell may take until it begins a script that it was given."""

MAX_RECORD = 4096
MAX_RECORDS = 64
"""Of what comes by the status pipe, how long a record may be and how many records are kept."""

_READY = b"ready"
_BEGUN = b"begun"
_ASTRAY = b"astray"
_STATUS = re.compile(rb"[0-9]{1,3}")
_DIRECTORY = b"@/"
_SCRIPT = "script"

# Standard input carries a line for each run; standard error carries records that end with NUL: `ready`, `astray`,
# `begun`, the status of a script, and the directory behind an `@`. The first record begins with NUL as well, to part
# it from what the shell itself complains of. A run gets its standard streams anew, so what it does to them with
# `exec` ends with it, and it sees neither pipe. The end of a run is told in the condition of the loop, because a
# `continue 2` of a script, outside of any loop of its own, jumps there, and under `set -n` the condition ends the
# loop. The inner loop is there for a `break` and `continue` of that kind. `command` passes over functions that a
# script may have named alike, and keeps a syntax error from ending a plain POSIX shell. What `set -x` says of the
# driver itself goes to /dev/null. An interrupt ends what the script waits for, and by the trap the script, but not
# the shell. `-e` and `-u` are turned off behind each script, because with them on an ordinary failure of a later
# script would end the shell.
_TELL_DIRECTORY = """unset -f command; { command printf '@%s\\0' "${PWD-}" >&4; } 2>/dev/null"""
_DRIVER = (
    "exec 3<&0 4>&2 5>&1 </dev/null 2>/dev/null; command trap 'command return 130 2>/dev/null' INT; "
    "command trap {trap} EXIT; command cd -- \"$1\" || command printf '\\0astray\\0' >&4; shift; "
    "command printf '\\0ready\\0' >&4; "
    "until ! {{ __runtimed=$?; unset -f command; "
    'command printf \'%s\\0@%s\\0\' "$__runtimed" "${{PWD-}}" >&4; command set +eu; '
    "IFS= command read -r __runtimed <&3; }}; do command printf 'begun\\0' >&4; "
    "for __runtimed in _; do command . {script} </dev/null >&5 2>&1 3<&- 4>&- 5>&-; done; done"
)


class ShellFailed(OSError):
    """The shell could not be started; the text says how it ended."""


class Shell:
    """Owns one shell with its process tree, and our ends of its three pipes.

    It starts in the home and finds its scripts in `script` beside that; directory, variables and functions last from
    one script to the next. One script at a time; the output of background jobs may come at any moment.

    `directory` is the last that it told: behind its last script, or where that ended it. `astray`: it was to begin in
    the directory of the shell before it, and could not.
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
        self.astray = False

    @classmethod
    async def start(
        cls, supervisor: Supervisor, home: Home, profile: Profile, wake: asyncio.Event, directory: bytes | None = None
    ) -> "Shell":
        """Start a shell in `directory`, or else at home, and wait until it is ready; `wake` is set when it ends.

        Raises OSError.
        """
        argv = await asyncio.to_thread(_prepare, home.folder, directory)
        (stdin, control), (output, stdout), (status, stderr) = pipes(3)
        shell = cls(home, control, output, status)
        env = environment(profile.env, profile.env_pass)
        program = Program(argv, home.folder / HOME, env, stdin, stdout, stderr, profile.tree_limits)
        try:
            shell._tree = await supervisor.start(program)
            shell._tree.exit.add_done_callback(lambda _: wake.set())
            await shell._ready(profile, wake)
        except BaseException:
            await shell.end(0)
            raise
        return shell

    @property
    def ended(self) -> int | None:
        """The exit status of the shell, once all of its tree is gone."""
        return self._tree.exit.result() if self._tree is not None and self._tree.exit.done() else None

    @property
    def excess(self) -> LossReason | None:
        """Which limit ended it, if one did."""
        return self._tree.excess if self._tree is not None else None

    def exceed(self, reason: LossReason) -> None:
        """End it for this reason."""
        if self._tree is not None:
            self._tree.exceed(reason)

    async def run(self, script: bytes, wake: asyncio.Event) -> bool:
        """Let the shell run a script, without waiting for its end. False where the shell ended before it began.

        One that does not begin it for TAKE_DEADLINE_S is ended. Raises OSError when the script can't be written.
        """
        await self._home.use(partial(_write, self._home.folder / _SCRIPT, script))
        if self._tree is not None:
            await self._tree.begin_run()
        with contextlib.suppress(BrokenPipeError):
            os.write(self._control, b"\n")
        deadline = asyncio.get_running_loop().call_later(TAKE_DEADLINE_S, self.exceed, "unresponsive")
        try:
            return await self._says(_BEGUN, wake)
        finally:
            deadline.cancel()

    async def activity(self, wake: asyncio.Event) -> None:
        """Wait until there is output or a status, the shell has ended, or `wake` is set."""
        if not self._records:
            inlets = (self._output, self._status)
            await readable((inlet.descriptor for inlet in inlets if not inlet.ended), wake)

    def read(self) -> bytes:
        """All output that has come so far: what a script wrote is here once its status is. A pipe bounds it."""
        return self._output.read(max(1, self._output.waiting()))

    def status(self) -> int | None:
        """The exit status of the script, once; None while it runs."""
        self.listen()
        told = [int(record) for record in self._records if _STATUS.fullmatch(record)]
        self._records.clear()
        if told and self._tree is not None:
            self._tree.end_run()
        return told[-1] if told else None

    async def interrupt(self) -> None:
        """Have the script end, and what it waits for; one that sees to SIGINT itself may go on."""
        if self._tree is not None:
            await self._tree.interrupt()

    async def kill(self) -> None:
        """Kill the shell and all that it started; what it wrote can still be read. As Tree.end."""
        if self._tree is not None:
            await self._tree.end(0)

    async def end(self, grace: float) -> None:
        """End the shell and all that it started, asking first where there is a grace; as Tree.end.

        What is still written is forgotten.
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
            self._hang_up()  # not before, lest the shell be gone and its children nobody's
        await tree.end(grace)

    async def _ready(self, profile: Profile, wake: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(profile.start_timeout_s):
                ready = await self._says(_READY, wake)
        except TimeoutError:
            late = f"within {profile.start_timeout_s:g} seconds (start_timeout_s)"
            raise ShellFailed(f"the shell was not ready {late}") from None
        if not ready:
            said = b" ".join(b" ".join((*self._records, self._rest)).split())[-MAX_RECORD:].decode(errors="replace")
            raise ShellFailed(explained(self.excess or "exit", self.ended or 0, profile, said, what="shell"))

    async def _says(self, word: bytes, wake: asyncio.Event) -> bool:
        """Wait for a record and drop those before it. False, with none dropped, where the shell ended without it."""
        while True:
            ended = self.ended
            self.listen()
            if word in self._records:
                break
            if ended is not None:
                return False
            await readable([] if self._status.ended else [self._status.descriptor], wake)
        while (record := self._records.popleft()) != word:
            self.astray = self.astray or record == _ASTRAY
        return True

    def listen(self) -> None:
        """Take what the shell has told so far. A record that is too long is left out as a whole."""
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

    def _hang_up(self) -> None:
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def _close(self) -> None:
        self._hang_up()
        if not self._closed:
            self._closed = True
            self._output.close()
            self._status.close()


def _prepare(folder: Path, directory: bytes | None) -> list[str]:
    for made in (folder, folder / HOME):
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
    shell = shutil.which("bash") or shutil.which("sh")
    if shell is None:
        raise ShellFailed("neither bash nor sh is in PATH")
    driver = _DRIVER.format(script=shlex.quote(str(folder / _SCRIPT)), trap=shlex.quote(_TELL_DIRECTORY))
    return [shell, "-c", driver, "shell", os.fsdecode(directory or os.fsencode(folder / HOME))]


def plain(script: bytes) -> bytes:
    """The script as a shell reads it: without a byte order mark, each line ended by a line feed alone."""
    return script.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").removesuffix(b"\r")


def _write(path: Path, script: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(script)
