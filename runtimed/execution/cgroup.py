"""Control groups: where they can be made, the kernel itself bounds a process tree. Everything here blocks."""

import contextlib
import errno
import itertools
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from runtimed.execution.limits import TreeLimits
from runtimed.model.execution import LossReason

PREFIX = "runtimed"
DAEMON = "runtimed-daemon"
REMOVE_ATTEMPTS = 50
REMOVE_PAUSE_S = 0.02
"""How often the removal of a group whose processes were killed is tried, with how long a pause between: 1 s."""

PROBE_DEADLINE_S = 10.0
KILLED = 128 + signal.SIGKILL

# Each argument up to `--` is a group that the shell joins before it becomes the program.
_JOIN = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit 126; shift; done; shift; exec "$@"'

_numbers = itertools.count(1)
_log = logging.getLogger(__name__)


@attrs.frozen
class Version:
    """How the files of one version of the interface are called, and what they count in."""

    controllers: tuple[str, ...]
    memory: str
    swap: str
    swap_is_total: bool
    oom: str
    cpu: str
    cpu_unit_s: float

    def swap_limit(self, memory_bytes: int) -> int:
        """What to write so that no more than the memory may be used with swap."""
        return memory_bytes if self.swap_is_total else 0


V1 = Version(
    ("memory", "pids", "cpuacct"),
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    swap_is_total=True,
    oom="memory.oom_control",
    cpu="cpuacct.usage",
    cpu_unit_s=1e-9,
)
V2 = Version(
    ("memory", "pids"),
    "memory.max",
    "memory.swap.max",
    swap_is_total=False,
    oom="memory.events",
    cpu="cpu.stat",
    cpu_unit_s=1e-6,
)


@attrs.frozen
class Cgroups:
    """The Accounting by control groups: one for each tree in each hierarchy, below one group of the owner's.

    `owned` has the owner's group for each of `memory`, `pids` and `cpu`; in version 2 it is always the same.
    """

    version: Version
    owned: Mapping[str, Path]

    def open(self, mark: str, limits: TreeLimits) -> None:
        for owner in self._hierarchies:
            (owner / mark).mkdir()
        memory, pids = self.owned["memory"] / mark, self.owned["pids"] / mark
        if limits.memory_bytes:
            (memory / self.version.memory).write_text(str(limits.memory_bytes))
            with contextlib.suppress(FileNotFoundError, PermissionError):  # a kernel that doesn't count swap
                (memory / self.version.swap).write_text(str(self.version.swap_limit(limits.memory_bytes)))
        if limits.processes:
            (pids / "pids.max").write_text(str(limits.processes))

    def argv(self, mark: str, command: Sequence[str]) -> list[str]:
        groups = [str(owner / mark) for owner in self._hierarchies]
        return [shutil.which("sh") or "sh", "-c", _JOIN, "sh", *groups, "--", *command]

    def cpu_s(self, root: int, mark: str) -> float:
        return _count(self.owned["cpu"] / mark / self.version.cpu, "usage_usec") * self.version.cpu_unit_s

    def excess(self, root: int, mark: str, limits: TreeLimits) -> LossReason | None:
        return "processes" if limits.processes and self._refused_forks(mark) else None

    def cause(self, mark: str, status: int) -> LossReason | None:
        if status == KILLED and _count(self.owned["memory"] / mark / self.version.oom, "oom_kill"):
            return "oom"
        return "processes" if status and self._refused_forks(mark) else None

    def close(self, mark: str) -> None:
        for owner in self._hierarchies:
            for group in _inner_first(owner / mark):
                group.rmdir()

    def shut(self) -> None:
        for owner in self._hierarchies:
            _remove(owner)

    @property
    def _hierarchies(self) -> list[Path]:
        return list(dict.fromkeys(self.owned.values()))

    def _refused_forks(self, mark: str) -> int:
        return _count(self.owned["pids"] / mark / "pids.events", "max")


def available() -> Cgroups | None:
    """Control groups for a new owner, or None where this process may not make them, or not with all controllers.

    Groups that were left by an owner that is gone are removed, with all that is in them.
    """
    found = _version_1() or _version_2()
    if found is None:
        return None
    for base in {folder.parent for folder in found.owned.values()}:
        sweep(base)
    if _works(found):
        return found
    found.shut()
    return None


def sweep(base: Path) -> None:
    """Remove the groups of owners that are gone."""
    for group in base.glob(f"{PREFIX}-*-*-*-*"):
        namespace, pid, started, _ = group.name.removeprefix(f"{PREFIX}-").split("-", 3)
        if namespace == str(_namespace()) and _start_of(pid) != started:
            _log.warning("removing what a daemon that was killed left in the control group %s", group.name)
            _remove(group)


def owner_name() -> str:
    """The name of a new owner's group: it tells whether the owner still lives, to whoever sees the same processes."""
    return f"{PREFIX}-{_namespace()}-{os.getpid()}-{_start_of('self')}-{next(_numbers)}"


def _version_1() -> Cgroups | None:
    bases = {name: _own_group("cgroup", name) for name in V1.controllers}
    if None in bases.values():
        return None
    name = owner_name()
    made = {controller: base / name for controller, base in bases.items() if base}
    owned = {"memory": made["memory"], "pids": made["pids"], "cpu": made["cpuacct"]}
    return _made(Cgroups(V1, owned))


def _version_2() -> Cgroups | None:
    own = _own_group("cgroup2", "")
    if own is None:
        return None
    for base in (own, own.parent):
        with contextlib.suppress(OSError):
            delegate(base, V2.controllers)
            owner = base / owner_name()
            owner.mkdir()
            _enable(owner, V2.controllers)
            return Cgroups(V2, dict.fromkeys(("memory", "pids", "cpu"), owner))
    return None


def delegate(group: Path, controllers: Sequence[str]) -> None:
    """Give these controllers to the groups below this one. Raises OSError.

    The kernel wants no process in a group that does: where this one is alone in it, it moves to a group of its own.
    """
    try:
        _enable(group, controllers)
    except OSError as error:
        if error.errno != errno.EBUSY or _members(group) != [os.getpid()]:
            raise
        (group / DAEMON).mkdir(exist_ok=True)
        (group / DAEMON / "cgroup.procs").write_text(str(os.getpid()))
        _enable(group, controllers)


def _enable(group: Path, controllers: Sequence[str]) -> None:
    wanted = [name for name in controllers if name not in (group / "cgroup.subtree_control").read_text().split()]
    if wanted:
        (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))


def _made(found: Cgroups) -> Cgroups | None:
    try:
        for owner in set(found.owned.values()):
            owner.mkdir()
    except OSError:
        found.shut()
        return None
    return found


def _works(groups: Cgroups) -> bool:
    """Whether a program can be started in a group with limits."""
    try:
        groups.open("probe", TreeLimits(1 << 30, 100))
        ran = subprocess.run(
            groups.argv("probe", ["true"]), capture_output=True, timeout=PROBE_DEADLINE_S, check=False
        )
        groups.cpu_s(0, "probe")
        groups.cause("probe", KILLED)
        groups.close("probe")
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return False
    return ran.returncode == 0


def _own_group(kind: str, controller: str) -> Path | None:
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


def _remove(group: Path) -> None:
    """Kill what is in a group and in those below it, and remove them; what resists is left where it is."""
    for _ in range(REMOVE_ATTEMPTS):
        for inner in _inner_first(group):
            _kill(inner)
            with contextlib.suppress(OSError):
                inner.rmdir()
        if not group.exists():
            return
        time.sleep(REMOVE_PAUSE_S)
    _log.error("the control group %s could not be removed", group)


def _inner_first(group: Path) -> Iterator[Path]:
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


def _count(file: Path, key: str) -> int:
    """A count out of a file that has only that, or a line for each key."""
    fields = file.read_text().split()
    return int(fields[0]) if len(fields) == 1 else int(fields[fields.index(key) + 1])


def _namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _start_of(pid: str) -> str | None:
    """When a process started, in ticks since the machine did; None where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return None
