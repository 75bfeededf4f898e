"""The limits of a process tree, and how its use is measured. All functions block."""

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import attrs

from runtimed.execution.processes.containment import Containment
from runtimed.model.execution import LossReason

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

log = logging.getLogger(__name__)


@attrs.frozen
class TreeLimits:
    """What all processes of a tree may use together; 0 means no limit.

    Attributes:
        memory_bytes: Resident memory.
        processes: How many there may be, including those that keep the tree together.
        cpu_s: CPU time of one run, in seconds.
    """

    memory_bytes: int = 0
    processes: int = 0
    cpu_s: float = 0

    def __bool__(self) -> bool:
        return self != TreeLimits()


@attrs.frozen
class FolderLimit:
    """How large the folder of a Worker may become.

    Attributes:
        folder: The folder.
        max_bytes: The room that it may take on its disk.
        project: The project by which the kernel limits it too; 0 if it only is counted.
    """

    folder: Path
    max_bytes: int
    project: int = 0


class Accounting(Protocol):
    """A way to measure and limit what trees use. `mark` is unique to a tree, `root` is the process we started."""

    def open(self, mark: str, limits: TreeLimits) -> None:
        """Prepare for a tree that is about to be started. Raises OSError."""

    def argv(self, mark: str, command: Sequence[str]) -> list[str]:
        """Return the command, wrapped so that it is counted from its first instruction on."""

    def cpu_s(self, root: int, mark: str) -> float:
        """Return the CPU time that the tree has used so far, in seconds."""

    def excess(self, root: int, mark: str, limits: TreeLimits) -> LossReason | None:
        """Return the limit of memory or processes that the tree exceeds, if any."""

    def cause(self, mark: str, status: int) -> LossReason | None:
        """Return the limit that ended the tree with this exit status, if one did."""

    def close(self, mark: str) -> None:
        """Release what was kept for a tree that is gone. Raises OSError if that is not possible yet."""

    def shut(self) -> None:
        """Release everything; no tree is left."""


@attrs.frozen
class Sampling:
    """The accounting that works everywhere: it samples /proc.

    What a tree uses between two samples is not limited. Memory is the sum of the resident sets, so shared pages count
    for each process. The CPU time of ended processes that nobody waited for is missing.
    """

    containment: Containment

    def open(self, mark: str, limits: TreeLimits) -> None:
        """Do nothing."""

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
        """Do nothing."""

    def shut(self) -> None:
        """Do nothing."""

    def _usages(self, root: int, mark: str) -> list["_Usage"]:
        usages = []
        for pid in self.containment.members(root, mark):
            with contextlib.suppress(OSError):
                usages.append(_Usage.of(pid))
        return usages


@attrs.frozen
class _Usage:
    """What one process uses; its CPU time includes the children it has waited for."""

    memory_bytes: int
    cpu_s: float

    @classmethod
    def of(cls, pid: int) -> "_Usage":
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return cls(int(fields[21]) * PAGE_BYTES, sum(map(int, fields[11:15])) / TICKS_PER_S)
