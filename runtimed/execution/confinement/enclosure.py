"""What confines the programs of one Worker."""

import contextlib
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from runtimed.execution.beneath import open_without_links
from runtimed.execution.confinement.bind_source import check_source
from runtimed.execution.confinement.reach import Confinement, Reach
from runtimed.execution.confinement.users import acting_as, give
from runtimed.execution.confinement.ways_out import WaysOut
from runtimed.execution.processes.confinement import Launch
from runtimed.model.profile import Sandbox

FOLDER_MODE = 0o700
READABLE_MODE = 0o755
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@attrs.frozen
class Owned:
    """The folders within a Worker's own folder that its programs see.

    Attributes:
        writable: They belong to its user.
        readable: They belong to the daemon's.
        uid: Its user; None for that of the daemon.
    """

    writable: tuple[Path, ...]
    readable: tuple[Path, ...]
    uid: int | None

    def prepare(self) -> None:
        """Make the folders that are missing, and give them to the user. Blocks. Raises OSError."""
        for folder in self.readable:
            os.close(_made(folder, READABLE_MODE))
        for folder in self.writable:
            descriptor = _made(folder, FOLDER_MODE)
            try:
                uid = os.geteuid() if self.uid is None else self.uid
                if os.geteuid() == 0 and os.fstat(descriptor).st_uid != uid:
                    give(descriptor, uid)
            finally:
                os.close(descriptor)


@attrs.frozen(eq=False)
class WorkerEnclosure:
    """What confines the programs of one Worker.

    Attributes:
        sandbox: How clients see it.
        confinement: The mechanism.
        folder: The Worker's own folder.
        reach: What programs may reach.
        owned: The folders that have to be there.
        variables: Variables that every program gets.
        replaced: Values of secret variables, by variable, each behind the text that stands for it in the profile.
        ways_out: What listens for its programs; None without any.
        problem: Why nothing confines them, although the profile asks for it.
    """

    sandbox: Sandbox
    confinement: Confinement
    folder: Path
    reach: Reach
    owned: Owned
    variables: Mapping[str, str] = attrs.field(repr=False)
    replaced: Mapping[str, tuple[str, str]] = attrs.field(factory=dict, repr=False)
    ways_out: WaysOut | None = None
    problem: str | None = None

    def _environment(self, env: Mapping[str, str]) -> dict[str, str]:
        found = {**env, **self.variables}
        for name, (declared, value) in self.replaced.items():
            if found.get(name) == declared:
                found[name] = value
        return found

    def prepare(self) -> None:
        self.owned.prepare()

    def launch(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str], max_descriptors: int | None = None
    ) -> Launch:
        self._check()
        return self.confinement.launch(self.reach, command, cwd, self._environment(env), max_descriptors)

    def launch_ahead(self, cwd: Path, env: Mapping[str, str], max_descriptors: int | None = None) -> Launch | None:
        self._check()
        return self.confinement.launch_ahead(self.reach, cwd, self._environment(env), max_descriptors)

    def _check(self) -> None:
        for path in self.reach.fixed:
            check_source(path)
        self.prepare()

    def prepare_made(self, made: tuple[Path, ...]) -> None:
        """Give workspaces within the Worker's own folder to the user. Blocks. Raises OSError."""
        attrs.evolve(self.owned, writable=made, readable=()).prepare()

    @property
    def confines(self) -> bool:
        return self.sandbox.mechanism != "none"

    def allows(self, path: Path, *, writing: bool) -> bool:
        return self.reach.allows(path, writing=writing)

    def acting(self, path: Path) -> contextlib.AbstractContextManager[None]:
        is_mapped = any(path.is_relative_to(folder) for folder in self.reach.mapped)
        return acting_as(os.geteuid() if self.owned.uid is None or is_mapped else self.owned.uid)

    async def open_ways_out(self, pid: int, namespace: int | None) -> Callable[[], Coroutine[Any, Any, None]]:
        if self.ways_out is None:
            return _nothing_to_close
        return partial(self.ways_out.forget, await self.ways_out.open(pid, namespace))


async def _nothing_to_close() -> None:
    """Do nothing."""


def _made(folder: Path, mode: int) -> int:
    """Return a descriptor of a folder, which is made if it is missing. No link leads to it."""
    parent = open_without_links(folder.parent)
    try:
        try:
            os.mkdir(folder.name, mode, dir_fd=parent)
        except FileExistsError:
            return os.open(folder.name, os.O_PATH | _FOLDER, dir_fd=parent)
        descriptor = os.open(folder.name, os.O_RDONLY | _FOLDER, dir_fd=parent)
        os.fchmod(descriptor, mode)
        return descriptor
    finally:
        os.close(parent)
