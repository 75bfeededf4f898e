"""What a process tree may use, and how it is told that it used too much. Everything here blocks."""

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import attrs

from runtimed.execution.containment import Containment
from runtimed.model.execution import LossReason

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

_log = logging.getLogger(__name__)


@attrs.frozen
class TreeLimits:
    """Of all processes of a tree together, those that keep it together included; 0 means no limit.

    The CPU time is that of one run, in seconds.
    """

    memory_bytes: int = 0
    processes: int = 0
    cpu_s: float = 0

    def __bool__(self) -> bool:
        return self != TreeLimits()


class Accounting(Protocol):
    """A way to know what trees use, and to bound it. `mark` is unique to a tree, `root` the process we started."""

    def open(self, mark: str, limits: TreeLimits) -> None:
        """Begin with a tree that is to be started. Raises OSError."""

    def argv(self, mark: str, command: Sequence[str]) -> list[str]:
        """The command, wrapped so that it is counted from its first instruction on."""

    def cpu_s(self, root: int, mark: str) -> float:
        """The CPU time that the tree has used so far, in seconds."""

    def excess(self, root: int, mark: str, limits: TreeLimits) -> LossReason | None:
        """What of memory and processes the tree has more of than it may."""

    def cause(self, mark: str, status: int) -> LossReason | None:
        """Why the tree ended with this exit status, where it was one of its limits."""

    def close(self, mark: str) -> None:
        """Forget a tree that is gone. Raises OSError where that is not possible yet."""

    def shut(self) -> None:
        """Forget all; no tree is left."""


@attrs.frozen
class Sampling:
    """The accounting that is always possible: a look at each process, now and then.

    What a tree uses between two looks is not bounded. Memory is the sum of what each process has resident, so that
    shared pages count for each; the CPU time of processes that ended without being waited for is not in it.
    """

    containment: Containment

    def open(self, mark: str, limits: TreeLimits) -> None:
        """Nothing is kept of a tree."""

    def argv(self, mark: str, command: Sequence[str]) -> list[str]:
        return list(command)

    def cpu_s(self, root: int, mark: str) -> float:
        return sum(usage.cpu_s for usage in self._usages(root, mark))

    def excess(self, root: int, mark: str, limits: TreeLimits) -> LossReason | None:
        usages = self._usages(root, mark)
        if 0 < limits.processes < len(usages):
            return "processes"
        return "oom" if 0 < limits.memory_bytes < sum(usage.memory_bytes for usage in usages) else None

    def cause(self, mark: str, status: int) -> LossReason | None:
        return None

    def close(self, mark: str) -> None:
        """Nothing is kept of a tree."""

    def shut(self) -> None:
        """Nothing is kept at all."""

    def _usages(self, root: int, mark: str) -> list["_Usage"]:
        usages = []
        for pid in self.containment.members(root, mark):
            with contextlib.suppress(OSError):
                usages.append(_Usage.of(pid))
        return usages


@attrs.frozen
class _Usage:
    """What one process uses, and of CPU time also what those of its children used that it has waited for."""

    memory_bytes: int
    cpu_s: float

    @classmethod
    def of(cls, pid: int) -> "_Usage":
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return cls(int(fields[21]) * PAGE_BYTES, sum(map(int, fields[11:15])) / TICKS_PER_S)
