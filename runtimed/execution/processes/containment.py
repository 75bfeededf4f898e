"""Keep the processes of a tree together, so that all of them can be ended. Everything here blocks."""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import attrs

from runtimed.execution.processes.orphans import MARK

PROBE_DEADLINE_S = 10.0
SETTLE_S = 0.02
"""The pause before a second search if the first found nothing: during an exec a process has no environment."""

_INIT = '"$@"; exit $?'
log = logging.getLogger(__name__)


class Containment(Protocol):
    """A way to start a program so that it and all its descendants can be found.

    `root` is the process we started, `mark` a text that is unique to the tree.
    """

    def argv(self, command: Sequence[str]) -> list[str]:
        """Return the command, wrapped."""

    def environment(self, mark: str, owner: str) -> dict[str, str]:
        """Return environment variables to add; `owner` names the daemon and its Runtime."""

    def members(self, root: int, mark: str) -> list[int]:
        """Return the processes of the tree, `root` included."""

    def holders(self, root: int, mark: str, pipe: int) -> list[int]:
        """Return the processes that have the pipe with this inode open, or can't be inspected."""

    def interrupt(self, root: int, mark: str) -> None:
        """Send SIGINT to the process group of the program, as a terminal does."""

    def terminate(self, root: int, mark: str) -> None:
        """Send SIGTERM to all processes of the tree."""

    def kill(self, root: int, mark: str) -> list[int]:
        """Kill all processes of the tree and return those found. `root` must not have been reaped."""


@attrs.frozen
class Namespace:
    """A PID namespace for each tree: when its init is killed, the kernel kills every process in it.

    The init is a small shell that waits for the program and reaps orphans, so that the program is not process 1,
    which ignores most signals. It has a session of its own, so `kill 0` within does not reach `unshare`, whose end
    is the proof that the namespace is empty. When the daemon dies, so does `unshare`, and the init with it.
    """

    prefix: tuple[str, ...]

    def argv(self, command: Sequence[str]) -> list[str]:
        return [*self.prefix, *command]

    def environment(self, mark: str, owner: str) -> dict[str, str]:
        return {}

    def members(self, root: int, mark: str) -> list[int]:
        found = [root]
        for pid in found:
            found += _children_of_all_threads(pid)
        return found

    def holders(self, root: int, mark: str, pipe: int) -> list[int]:
        wrappers = {root, *self._inits(root)}  # they have it as long as they live
        return [pid for pid in self.members(root, mark) if pid not in wrappers and _holds(pid, pipe)]

    def interrupt(self, root: int, mark: str) -> None:
        for init in self._inits(root):
            _send(os.killpg, init, signal.SIGINT)

    def terminate(self, root: int, mark: str) -> None:
        for init in self._inits(root):
            _send(os.killpg, init, signal.SIGTERM)

    def kill(self, root: int, mark: str) -> list[int]:
        return [pid for pid in self._inits(root) if _send(os.kill, pid, signal.SIGKILL)]

    def _inits(self, root: int) -> list[int]:
        try:
            return [int(pid) for pid in _children(root).read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            return []


@attrs.frozen
class _Sandbox(Namespace):
    """A PID namespace that a sandbox makes itself.

    What makes it dies with the daemon only once it has asked the kernel for that. It gets the mark, so that the next
    daemon finds it if this one is killed before. The program does not get it.
    """

    def environment(self, mark: str, owner: str) -> dict[str, str]:
        return {MARK: f"{mark}/{owner}"}


CONFINED = _Sandbox(())
"""For a program in a sandbox with a PID namespace of its own, which ends all of its processes."""


@attrs.frozen
class Group:
    """A process group, and a search of /proc for processes that left it.

    The search finds descendants, and processes with the tree's mark in their initial environment. It misses a process
    that has left the group, lost its parent and was started with a cleared environment. When the daemon is killed,
    only the program itself dies with it; the next daemon of the Runtime sweeps the rest.
    """

    prefix: tuple[str, ...]

    def argv(self, command: Sequence[str]) -> list[str]:
        return [*self.prefix, *command]

    def environment(self, mark: str, owner: str) -> dict[str, str]:
        return {MARK: f"{mark}/{owner}"}

    def members(self, root: int, mark: str) -> list[int]:
        return _members(root, mark)

    def holders(self, root: int, mark: str, pipe: int) -> list[int]:
        return [pid for pid in _members(root, mark) if _holds(pid, pipe)]

    def interrupt(self, root: int, mark: str) -> None:
        _send(os.killpg, root, signal.SIGINT)

    def terminate(self, root: int, mark: str) -> None:
        for pid in _members(root, mark):
            _send(os.kill, pid, signal.SIGTERM)

    def kill(self, root: int, mark: str) -> list[int]:
        found = _members(root, mark)  # before the parents die: after that a descendant may look like anybody's
        if not found:
            time.sleep(SETTLE_S)
            found = _members(root, mark)
        _send(os.killpg, root, signal.SIGKILL)
        for pid in found:
            _send(os.kill, pid, signal.SIGKILL)
        return found


def has_member_without(containment: Containment, root: int, mark: str, pipe: int) -> bool:
    """Whether a process of the tree does not have the pipe with this inode open."""
    return any(not _holds(pid, pipe) for pid in containment.members(root, mark))


def best() -> Containment:
    """Return the strongest containment that this machine allows."""
    found = namespace()
    if found is None:
        log.warning("no PID namespaces available: Workers are contained by process group and environment")
    return found or group()


def namespace() -> Namespace | None:
    """Return PID namespaces, made as root or as an ordinary user; None if neither works."""
    unshare, setsid, shell = (shutil.which(tool) for tool in ("unshare", "setsid", "sh"))
    if not (unshare and setsid and shell and _children(os.getpid()).exists()):
        return None
    init = (setsid, shell, "-c", _INIT, "sh")
    for user in ((), ("--user", "--map-current-user")):
        made = (*_deathsig(), unshare, *user, "--pid", "--fork", "--kill-child", "--mount-proc", *init)
        if _works(made):
            return Namespace(made)
    return None


def group() -> Group:
    """Return process groups, which always work."""
    return Group(_deathsig())


def _deathsig() -> tuple[str, ...]:
    setpriv = shutil.which("setpriv")
    prefix = (setpriv, "--pdeathsig", "KILL") if setpriv else ()
    return prefix if _works(prefix) else ()


def _works(prefix: tuple[str, ...]) -> bool:
    try:
        tried = subprocess.run(
            [*prefix, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0


def _children(pid: int) -> Path:
    return Path(f"/proc/{pid}/task/{pid}/children")


def _children_of_all_threads(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def _send(send: Callable[[int, int], None], target: int, number: int) -> bool:
    try:
        send(target, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@attrs.frozen
class _Process:
    """One line of /proc."""

    pid: int
    state: str
    parent: int
    group: int
    session: int


def _processes() -> dict[int, _Process]:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                state, *ids = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:4]
                found[int(folder.name)] = _Process(int(folder.name), state, *map(int, ids))
    return found


def _members(root: int, mark: str) -> list[int]:
    table = _processes()
    found = {pid for pid, process in table.items() if root in {pid, process.group, process.session}}
    found |= {pid for pid in table if _carries(pid, mark)}
    while grown := {pid for pid, process in table.items() if process.parent in found} - found:
        found |= grown
    return [pid for pid in found if table[pid].state not in "ZX"]


def _carries(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _holds(pid: int, pipe: int) -> bool:
    try:
        return any(_link(path) == f"pipe:[{pipe}]" for path in Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:
        return True
    except OSError:
        return False


def _link(path: Path) -> str:
    """Return the target of a link in /proc, or nothing once it is closed."""
    with contextlib.suppress(FileNotFoundError):
        return str(path.readlink())
    return ""
