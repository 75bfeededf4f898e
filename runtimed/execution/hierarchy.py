"""The tree of control groups: where this process is in it, and what may be done below. Everything here blocks."""

import contextlib
import errno
import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

DAEMON = "runtimed-daemon"
"""The group that the daemon moves to, below its own, where that must have no process."""

REMOVE_ATTEMPTS = 50
REMOVE_PAUSE_S = 0.02
"""How often the removal of a group whose processes were killed is tried, with how long a pause between: 1 s."""


_log = logging.getLogger(__name__)


def own_group(kind: str, controller: str) -> Path | None:
    """The folder of the group that this process is in, in the hierarchy of a controller."""
    path = next((path for names, path in _memberships() if controller in names), None)
    mounted = next((place for place in _mounts(kind) if not controller or controller in place[2]), None)
    if path is None or mounted is None:
        return None
    root, point, _ = mounted
    inner = os.path.relpath(path, root)
    return point if inner.startswith("..") else point / inner


def _memberships() -> Iterator[tuple[list[str], str]]:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        yield names.split(","), path


def _mounts(kind: str) -> Iterator[tuple[str, Path, list[str]]]:
    """Root, mount point and options of each mount of this type."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        found, _, options = rest.split(" ", 2)
        if found == kind:
            _, _, _, root, point, *_ = fields.split(" ")
            yield root, Path(point), options.split(",")


def remove(group: Path) -> None:
    """Kill what is in a group and in those below it, and remove them; what resists is left where it is."""
    for _ in range(REMOVE_ATTEMPTS):
        for inner in inner_first(group):
            _kill(inner)
            with contextlib.suppress(OSError):
                inner.rmdir()
        if not group.exists():
            return
        time.sleep(REMOVE_PAUSE_S)
    _log.error("the control group %s could not be removed", group)


def inner_first(group: Path) -> Iterator[Path]:
    """The groups below this one, which its processes may have made, and at last itself; nothing where it is gone."""
    return (Path(folder) for folder, _, _ in os.walk(group, topdown=False))


def _kill(group: Path) -> None:
    for pid in _members(group):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _members(group: Path) -> list[int]:
    """The processes in a group; one that can't be seen from here is told as 0, and left out."""
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split() if pid != "0"]
    except OSError:
        return []


def is_delegated(group: Path) -> bool:
    """Whether systemd has left this group, and all below it, to its processes."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            return os.getxattr(group, name) == b"1"
    return False


def delegate(group: Path, controllers: Sequence[str]) -> None:
    """Give these controllers to the groups below this one. Raises OSError.

    The kernel wants no process in a group that does: where this one is alone in it, it moves to a group of its own.
    """
    try:
        enable(group, controllers)
    except OSError as error:
        if error.errno != errno.EBUSY or _members(group) != [os.getpid()]:
            raise
        (group / DAEMON).mkdir(exist_ok=True)
        (group / DAEMON / "cgroup.procs").write_text(str(os.getpid()))
        enable(group, controllers)


def enable(group: Path, controllers: Sequence[str]) -> None:
    wanted = [name for name in controllers if name not in (group / "cgroup.subtree_control").read_text().split()]
    if wanted:
        (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))
