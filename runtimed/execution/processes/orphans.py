"""Find processes without an owner: orphans of process 1, and those of a killed daemon. All functions block.

Programs that run without a PID namespace inherit the environment variable MARK, as do their descendants. Its value is
`TREE/OWNER/RUNTIME`: a text unique to the tree, the daemon that started it, and the Runtime's id.
"""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import attrs

MARK = "RUNTIMED_TREE"

SWEEP_ATTEMPTS = 100
SWEEP_PAUSE_S = 0.02
"""Attempts of a start to kill such processes, and the pause between two: 2 s in all."""

log = logging.getLogger(__name__)


@attrs.frozen
class Owner:
    """A daemon, identified on this machine by its PID namespace, its PID and its start time."""

    namespace: str
    pid: str
    start: str

    @classmethod
    def current(cls) -> "Owner":
        """Return this process."""
        return cls(namespace(), str(os.getpid()), start_of("self") or "")

    @classmethod
    def parse(cls, text: str) -> "Owner | None":
        """Read what `str` of an Owner returns; None for any other text."""
        parts = text.split("-")
        return cls(*parts) if len(parts) == 3 and all(part.isdecimal() for part in parts) else None

    def __str__(self) -> str:
        return f"{self.namespace}-{self.pid}-{self.start}"

    @property
    def is_gone(self) -> bool:
        """Return whether it has certainly ended. For an owner in another PID namespace that cannot be known."""
        if self.namespace != namespace():
            return False
        try:
            os.kill(int(self.pid), 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        found = _stat(self.pid)
        return found is not None and (found[0] in "ZX" or found[19] != self.start)


def namespace() -> str:
    """Return the PID namespace of this process."""
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def start_of(pid: str) -> str | None:
    """Return the start time of a process, in ticks since boot; None if it can't be seen."""
    found = _stat(pid)
    return found[19] if found else None


def has_ended(pid: int) -> bool:
    """Return whether there is no such process, or only what is left of it for its parent to reap.

    Raises:
        OSError: That cannot be told.
    """
    try:
        found = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return found.rpartition(")")[2].split()[0] in "ZX"


def _stat(pid: str) -> list[str] | None:
    """Return the fields of /proc/PID/stat after the name of the program, beginning with the state."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def reap(own: Collection[int]) -> None:
    """Reap the ended children of this process.

    Args:
        own: Children to leave alone, because something else waits for their exit status.
    """
    for pid in _children():
        if pid not in own:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


def sweep(runtime_id: str) -> None:
    """Kill the processes of this user that have the mark of an ended daemon of this Runtime."""
    seen: set[int] = set()
    left: set[int] = set()
    for _ in range(SWEEP_ATTEMPTS):
        left = {pid for pid in _processes() if _kill_left(pid, runtime_id)}
        if left - seen:
            log.warning(
                "killing processes left by a killed daemon of this Runtime", extra={"count": len(left - seen)}
            )
        if not left:
            return
        seen |= left
        time.sleep(SWEEP_PAUSE_S)
    log.error("cannot kill processes left by a killed daemon of this Runtime", extra={"pids": sorted(left)})


def _kill_left(pid: int, runtime_id: str) -> bool:
    """Kill a process if an ended daemon left it, and return whether it did. A PID may be reused at any moment."""
    if not _is_left(pid, runtime_id):
        return False
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not _is_left(pid, runtime_id):
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _is_left(pid: int, runtime_id: str) -> bool:
    process = Path(f"/proc/{pid}")
    try:
        if pid == os.getpid() or process.stat().st_uid != os.geteuid():
            return False
        variables = (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
    name = f"{MARK}=".encode()
    mark = next((os.fsdecode(each.removeprefix(name)) for each in variables if each.startswith(name)), "")
    _, _, rest = mark.partition("/")
    text, _, marked_id = rest.partition("/")
    owner = Owner.parse(text)
    return marked_id == runtime_id != "" and owner is not None and owner.is_gone


def _processes() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())


def _children() -> list[int]:
    found: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (thread / "children").read_text().split())
    return found
