"""A shell that runs one script after another."""

import asyncio
import codecs
import contextlib
import os
import re
import shlex
import shutil
from collections import deque
from pathlib import Path

from runtimed.execution.loss import explained
from runtimed.execution.pipes import Inlet, pipes, readable
from runtimed.execution.profile import Profile
from runtimed.execution.supervise import Program, Supervisor, environment
from runtimed.execution.tree import Tree
from runtimed.execution.workspace import HOME
from runtimed.model.execution import LossReason

TAKE_DEADLINE_S = 60.0
"""How long a shell may take until it begins a script that it was given."""

MAX_LINE = 4096
MAX_LINES = 64
"""Of what comes by the status pipe, how much of a line and how many lines are kept."""

_READY = b"ready"
_BEGUN = b"begun"
_ASTRAY = b"astray"
_STATUS = re.compile(rb"[0-9]{1,3}")
_SCRIPT = "script"
_LEFT = "left"
_MAX_PATH = 4096

# Standard input carries a line for each run, standard error a line with each status. A run gets its standard streams
# anew, so what it does to them with `exec` ends with it, and it sees neither pipe. The inner loop is there for a
# `break` outside of any loop of the script; `command` passes over functions that a script may have named alike, and
# keeps a syntax error from ending a plain POSIX shell. What `set -x` says of the driver itself goes to /dev/null.
# An interrupt ends what the script waits for, and by the trap the script, but not the shell. The directory is written
# down behind each script and when the shell exits, unless a link stands in the way of the file. `-e` and `-u` are
# turned off behind each script, because with them on an ordinary failure of a later script would end the shell.
_NOTE = 'command [ -L {folder} ] || command [ -L {left} ] || command printf %s "${{PWD-}}" 2>/dev/null >|{left}'
_DRIVER = (
    "exec 3<&0 4>&2 5>&1 </dev/null 2>/dev/null; command trap 'command return 130 2>/dev/null' INT; "
    "command trap {trap} EXIT; command cd -- \"$1\" || command printf 'astray\\n' >&4; shift; "
    "command printf 'ready\\n' >&4; "
    "while IFS= command read -r _ <&3; do command printf 'begun\\n' >&4; "
    "for _ in _; do command . {script} </dev/null >&5 2>&1 3<&- 4>&- 5>&-; done; "
    "command printf '%s\\n' \"$?\" >&4; command set +eu; {note}; done"
)


class ShellFailed(OSError):
    """The shell could not be started; the text says how it ended."""


class Shell:
    """Owns one shell with its process tree, and our ends of its three pipes.

    It lives in `folder`/home and finds its scripts in `folder`/script; directory, variables and functions last from
    one script to the next. One script at a time; the output of background jobs may come at any moment. It writes its
    directory to `folder`/left. `astray`: it was to begin in the directory of the shell before it, and could not.
    """

    def __init__(self, folder: Path, control: int, output: int, status: int) -> None:
        self._folder = folder
        os.set_blocking(control, False)
        self._control = control
        self._output = Inlet(output)
        self._status = Inlet(status)
        self._rest = b""
        self._lines: deque[bytes] = deque(maxlen=MAX_LINES)
        self._tree: Tree | None = None
        self._closed = False
        self.astray = False

    @classmethod
    async def start(
        cls, supervisor: Supervisor, folder: Path, profile: Profile, wake: asyncio.Event, *, resume: bool = False
    ) -> "Shell":
        """Start a shell and wait until it is ready; `wake` is set when it ends. Raises OSError.

        With `resume` it begins in the last directory of the shell before it, where that is known.
        """
        argv = await asyncio.to_thread(_prepare, folder, resume=resume)
        (stdin, control), (output, stdout), (status, stderr) = pipes(3)
        shell = cls(folder, control, output, status)
        env = environment(profile.env, profile.env_pass)
        program = Program(argv, folder / HOME, env, stdin, stdout, stderr, profile.tree_limits)
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
        await asyncio.to_thread(_write, self._folder / _SCRIPT, script)
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
        if not self._lines:
            inlets = (self._output, self._status)
            await readable((inlet.descriptor for inlet in inlets if not inlet.ended), wake)

    def read(self) -> bytes:
        """All output that has come so far: what a script wrote is here once its status is. A pipe bounds it."""
        return self._output.read(max(1, self._output.waiting()))

    def status(self) -> int | None:
        """The exit status of the script, once; None while it runs."""
        self._listen()
        told = [int(line) for line in self._lines if _STATUS.fullmatch(line)]
        self._lines.clear()
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
            said = b" ".join((*self._lines, self._rest))[-MAX_LINE:].decode(errors="replace").strip()
            raise ShellFailed(explained(self.excess or "exit", self.ended or 0, profile, said, what="shell"))

    async def _says(self, word: bytes, wake: asyncio.Event) -> bool:
        """Wait for a line and drop those before it. False, and none is dropped, where the shell ended without it."""
        while True:
            ended = self.ended
            self._listen()
            if word in self._lines:
                break
            if ended is not None:
                return False
            await readable([] if self._status.ended else [self._status.descriptor], wake)
        while (line := self._lines.popleft()) != word:
            self.astray = self.astray or line == _ASTRAY
        return True

    def _listen(self) -> None:
        *lines, rest = (self._rest + self._status.read(MAX_LINE)).split(b"\n")
        self._lines += lines
        self._rest = rest[-MAX_LINE:]

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


def _prepare(folder: Path, *, resume: bool) -> list[str]:
    for made in (folder, folder / HOME):
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
    shell = shutil.which("bash") or shutil.which("sh")
    if shell is None:
        raise ShellFailed("neither bash nor sh is in PATH")
    directory = (resume and _last_directory(folder / _LEFT)) or os.fsencode(folder / HOME)
    if not resume:
        _make_private(folder / _LEFT)
    note = _NOTE.format(folder=shlex.quote(str(folder)), left=shlex.quote(str(folder / _LEFT)))
    driver = _DRIVER.format(script=shlex.quote(str(folder / _SCRIPT)), note=note, trap=shlex.quote(note))
    return [shell, "-c", driver, "shell", os.fsdecode(directory)]


def _make_private(path: Path) -> None:
    """Make an empty file that a shell writes to later, whose umask then does not matter."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def _last_directory(path: Path) -> bytes | None:
    """What a shell wrote there, if that can be a directory; scripts may put anything in its place."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = os.read(descriptor, _MAX_PATH)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return found if found.startswith(b"/") and b"\0" not in found else None


def _plain(script: bytes) -> bytes:
    """The script as a shell reads it: without a byte order mark, each line ended by a line feed alone."""
    return script.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").removesuffix(b"\r")


def _write(path: Path, script: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_plain(script))
