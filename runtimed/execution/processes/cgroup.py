"""Control groups: the kernel itself limits a process tree. Everything here blocks."""

import contextlib
import itertools
import logging
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from runtimed.execution.processes import orphans
from runtimed.execution.processes.hierarchy import delegate, enable, inner_first, is_delegated, own_group, remove
from runtimed.execution.processes.limits import TreeLimits
from runtimed.model.execution import LossReason

PREFIX = "runtimed"
PROBE_DEADLINE_S = 10.0
KILLED = 128 + signal.SIGKILL

# Each argument up to `--` is a group that the shell joins before it becomes the program.
_JOIN = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit 126; shift; done; shift; exec "$@"'

_numbers = itertools.count(1)
log = logging.getLogger(__name__)


@attrs.frozen
class Version:
    """The files of one version of the cgroup interface, and their units."""

    controllers: tuple[str, ...]
    memory: str
    swap: str
    swap_is_total: bool
    oom: str
    cpu: str
    cpu_unit_s: float

    def swap_limit(self, memory_bytes: int) -> int:
        """Return the value of the swap limit with which memory and swap together stay within `memory_bytes`."""
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
    """The Accounting by control groups: one for each tree in each hierarchy, below a group of the owner.

    Attributes:
        version: The version of the interface.
        owned: The owner's group for each of `memory`, `pids` and `cpu`; in version 2 they are the same.
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
            for group in inner_first(owner / mark):
                group.rmdir()

    def shut(self) -> None:
        for owner in self._hierarchies:
            remove(owner)

    @property
    def _hierarchies(self) -> list[Path]:
        return list(dict.fromkeys(self.owned.values()))

    def _refused_forks(self, mark: str) -> int:
        return _count(self.owned["pids"] / mark / "pids.events", "max")


def available() -> Cgroups | None:
    """Return control groups for a new owner; None if this process can't make them with all controllers.

    Groups left by owners that are gone are removed, and the processes in them killed.
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
    """Remove the groups of owners that are gone, and kill the processes in them."""
    for group in base.glob(f"{PREFIX}-*-*-*-*"):
        text, _, _ = group.name.removeprefix(f"{PREFIX}-").rpartition("-")
        owner = orphans.Owner.parse(text)
        if owner is not None and owner.is_gone:
            log.warning(
                "removing a stale control group, left by a killed daemon", extra={"control_group": group.name}
            )
            remove(group)


def owner_name() -> str:
    """Return a name for a new owner's group, from which others can tell whether the owner still lives."""
    return f"{PREFIX}-{orphans.Owner.current()}-{next(_numbers)}"


def _version_1() -> Cgroups | None:
    bases = {name: own_group("cgroup", name) for name in V1.controllers}
    if None in bases.values():
        return None
    name = owner_name()
    made = {controller: base / name for controller, base in bases.items() if base}
    owned = {"memory": made["memory"], "pids": made["pids"], "cpu": made["cpuacct"]}
    return _made(Cgroups(V1, owned))


def _version_2() -> Cgroups | None:
    own = own_group("cgroup2", "")
    if own is None:
        return None
    for base in (own, *([own.parent] if is_delegated(own.parent) else [])):
        with contextlib.suppress(OSError):
            delegate(base, V2.controllers)
            owner = base / owner_name()
            owner.mkdir()
            enable(owner, V2.controllers)
            return Cgroups(V2, dict.fromkeys(("memory", "pids", "cpu"), owner))
    return None


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


def _count(file: Path, key: str) -> int:
    """Read a count from a file that holds one number, or a line for each key."""
    fields = file.read_text().split()
    return int(fields[0]) if len(fields) == 1 else int(fields[fields.index(key) + 1])
