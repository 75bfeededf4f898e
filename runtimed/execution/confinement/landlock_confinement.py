"""Confinement by Landlock and a filter of system calls, where namespaces cannot be had."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from runtimed.execution.confinement import landlock
from runtimed.execution.confinement.instructions import Instructions, argv
from runtimed.execution.confinement.landlock import Access, Files, Ports
from runtimed.execution.confinement.reach import Reach
from runtimed.execution.confinement.seccomp import seccomp_filter
from runtimed.execution.confinement.system_view import ACCOUNTS, ETC, NAMES, SYSTEM, executables_of, is_system
from runtimed.execution.processes.confinement import Launch
from runtimed.model.profile import Mechanism

NETWORK_SINCE = 4
"""The first version of Landlock that restricts TCP."""

PROC = Path("/proc")
READABLE_DEVICES = ("urandom", "random", "zero", "full")
DEVICES = ("null", "tty")
"""The terminals in /dev/pts are not among them: those of the daemon's user are there as well."""


class LandlockConfinement:
    """The Confinement by Landlock.

    Programs keep the user of the daemon, without its capabilities: a user of their own could not reach its folder
    within the store. They see names and sizes of all files, and no content but that of what they may reach.

    Args:
        abi: The version of Landlock.
    """

    mechanism: Mechanism = "landlock"
    has_own_files = False

    def __init__(self, abi: int) -> None:
        self._abi = abi
        self.limits_network = abi >= NETWORK_SINCE
        self._filter = seccomp_filter("landlock")
        self._host_filter = seccomp_filter("landlock_host_network")
        self._executables_filter = seccomp_filter("executables")

    def problem(self, reach: Reach) -> str | None:
        if reach.network != "host" and not self.limits_network:
            return f"Landlock of this kernel cannot keep Workers from the network (sandbox.network {reach.network})"
        if reach.secrets:
            return "Landlock cannot give a Worker files of its own"
        moved = [bind.target for bind in reach.binds if not bind.is_tmp and bind.target.resolve() != bind.source]
        if moved:
            return f"Landlock cannot show a folder under another name: {moved[0]}"
        for bind in reach.binds:
            if any(hidden.is_relative_to(bind.source) for hidden in reach.hidden):
                return f"Landlock cannot hide what belongs to the daemon within {bind.target}"
        return None

    def launch(
        self,
        reach: Reach,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        max_descriptors: int | None = None,
    ) -> Launch:
        system = _existing((*SYSTEM, *ETC, *ACCOUNTS, PROC))
        readable = (*system, *(bind.source for bind in reach.binds if not bind.writable))
        writable = tuple(bind.source for bind in reach.binds if bind.writable)
        devices = tuple(_existing(Path("/dev") / name for name in DEVICES))
        random = tuple(_existing(Path("/dev") / name for name in READABLE_DEVICES))
        names = tuple(_existing(NAMES)) if reach.network == "host" else ()
        files = Files((*readable, *random, *names), writable, devices)
        listed, own = reach.executables, executables_of(command, env)
        executable = (
            (*readable, *writable) if listed is None else (*listed, *filter(partial(_is_readable, reach), own))
        )
        is_host = reach.network == "host"
        access = Access(files, executable, None if is_host else Ports(connect=reach.ports), scoped=True)
        filtered = self._host_filter if is_host else self._filter
        filters = (filtered,) if reach.executables is None else (filtered, self._executables_filter)
        ruleset = landlock.ruleset(access, self._abi)
        instructions = Instructions(ruleset, filters, max_descriptors=max_descriptors, environment=env)
        descriptor = instructions.descriptor()
        return Launch(argv(command, descriptor), descriptors=(descriptor,), keeps_together=False)

    def launch_ahead(
        self, reach: Reach, cwd: Path, env: Mapping[str, str], max_descriptors: int | None = None
    ) -> None:
        return None


def _is_readable(reach: Reach, path: Path) -> bool:
    return is_system(path) or reach.allows(path, writing=False)


def _existing(paths: Iterator[Path] | Sequence[Path]) -> Iterator[Path]:
    """Yield the paths that exist, without links."""
    return (path.resolve() for path in paths if path.exists())
