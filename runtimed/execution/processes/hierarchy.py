"""The hierarchy of control groups: find our own group, and make groups below it. Everything here blocks."""

import contextlib
import errno
import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

DAEMON = "runtimed-daemon"
"""The group below its own to which the daemon moves if its own must hold no process."""

REMOVE_ATTEMPTS = 50
REMOVE_PAUSE_S = 0.02
"""Attempts to remove a group whose processes were killed, and the pause between two: 1 s in all."""


log = logging.getLogger(__name__)


def own_group(kind: str, controller: str) -> Path | None:
    """Return the folder of this process's group in the hierarchy of a controller.

    Args:
        kind: `cgroup` or `cgroup2`.
        controller: The name of the controller; empty for version 2.

    Returns:
        The folder; None if there is no such hierarchy.
    """
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
    """Yield root, mount point and options of each mount of this type."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        found, _, options = rest.split(" ", 2)
        if found == kind:
            _, _, _, root, point, *_ = fields.split(" ")
            yield root, Path(point), options.split(",")


def remove(group: Path) -> None:
    """Kill the processes in a group and below it, and remove the groups; what cannot be removed stays."""
    for _ in range(REMOVE_ATTEMPTS):
        for inner in inner_first(group):
            _kill(inner)
            with contextlib.suppress(OSError):
                inner.rmdir()
        if not group.exists():
            return
        time.sleep(REMOVE_PAUSE_S)
    log.error("cannot remove a control group", extra={"control_group": group})


def inner_first(group: Path) -> Iterator[Path]:
    """Yield the groups below this one, innermost first, then itself; nothing if it is gone."""
    return (Path(folder) for folder, _, _ in os.walk(group, topdown=False))


def _kill(group: Path) -> None:
    for pid in _members(group):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _members(group: Path) -> list[int]:
    """Return the processes in a group that are visible from here; the kernel lists others as 0."""
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split() if pid != "0"]
    except OSError:
        return []


def is_delegated(group: Path) -> bool:
    """Whether systemd has delegated this group to its processes."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            return os.getxattr(group, name) == b"1"
    return False


def delegate(group: Path, controllers: Sequence[str]) -> None:
    """Enable controllers for the groups below this one.

    The kernel requires that such a group holds no process: a daemon that is alone in it moves to a group of its own.

    Raises:
        OSError: The kernel refuses.
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
    """Enable controllers for the children of a control group, unless they are. Raises OSError."""
    wanted = [name for name in controllers if name not in (group / "cgroup.subtree_control").read_text().split()]
    if wanted:
        (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))
