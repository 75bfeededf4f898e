"""Works out what the programs of a Worker may reach."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from runtimed.errors import printable
from runtimed.execution.confinement.bubblewrap import USER
from runtimed.execution.confinement.enclosure import Owned
from runtimed.execution.confinement.host_paths import HostPaths
from runtimed.execution.confinement.judgment import MOUNTS_FOLDER
from runtimed.execution.confinement.nested_paths import is_within, outermost
from runtimed.execution.confinement.placement import Placement
from runtimed.execution.confinement.reach import Bind, Confinement, Reach
from runtimed.execution.confinement.repository_view import repository_binds
from runtimed.execution.confinement.system_view import NAMES, SYSTEM, folders_of_path, parts_of_program
from runtimed.execution.confinement.users import Users
from runtimed.execution.processes.confinement import ConfinementRefused, View
from runtimed.execution.processes.executable import at_home
from runtimed.execution.workspace import HOME, SCRIPTS

MOUNTS = Path(MOUNTS_FOLDER)
TMP = "tmp"
"""The folder in a Worker's own folder that its programs see as /tmp."""

GIT_WITHOUT_SYSTEM = {"GIT_CONFIG_NOSYSTEM": "1"}
"""Git fails over a configuration of the system that is there and cannot be read, as under Landlock."""


class ReachBuilder:
    """Works out what the programs of each Worker may reach. All methods block.

    Args:
        paths: Paths of this host.
        users: Gives each Worker a user; None where the daemon is not root.
    """

    def __init__(self, paths: HostPaths, users: Users | None) -> None:
        self._paths = paths
        self._users = users

    def of_worker(self, place: Placement, *, has_user: bool) -> tuple[Reach, Owned]:
        """Return what the programs of a Worker may reach, and which folders that takes.

        Args:
            place: The Worker.
            has_user: Whether they have a user and a file system of their own.

        Raises:
            ConfinementRefused: It must not have what it asks for.
            OSError: A folder cannot be looked at.
        """
        own = place.folder
        uid, mapped = self._user(place) if has_user else (None, ())
        binds = (
            Bind(own / TMP, Path("/tmp"), writable=True, is_tmp=True),  # noqa: S108 the Worker's own
            *(Bind(path, path) for path in self._readable(place, can_hide=has_user)),
            *(Bind(path, path, writable=True) for path in self._writable(place)),
            *self._repositories(place),
            *(Bind(mount.path, MOUNTS / name, mount.writable) for name, mount in place.grants.mounts.items()),
            Bind(own / SCRIPTS, own / SCRIPTS),
            Bind(own / HOME, own / HOME, writable=True),
            *(Bind(path, path, writable=True) for path in place.made),
        )
        reach = Reach(
            binds,
            hidden=self._paths.hidden,
            parent=own.parent,
            fixed=tuple(place.fixed),
            uid=uid,
            mapped=mapped,
            home=own / HOME,
            network=place.grants.network_reach,
            executables=_executables(place),
            secrets=place.secret_files,
        )
        return reach, Owned((own / HOME, own / TMP, *place.made), (own / SCRIPTS,), uid)

    def of_view(
        self, view: View, command: Sequence[str], env: Mapping[str, str], *, has_user: bool
    ) -> tuple[Reach, Owned]:
        """Return the same for a program of the daemon, which works on these files and has no network."""
        uid, mapped = self._owner(view) if has_user else (None, ())
        binds = tuple(_binds_of(self._parts(command, env, (*view.readable, *view.writable)), view))
        reach = Reach(binds, hidden=self._paths.hidden, uid=uid, mapped=mapped, network="none")
        return reach, Owned(view.writable, (), uid)

    def variables(self, place: Placement, mechanism: Confinement) -> dict[str, str]:
        """Return the variables that every program of a Worker gets."""
        found = {"TMPDIR": "/tmp" if mechanism.has_own_files else str(place.folder / TMP)}  # noqa: S108 its own
        found |= {} if mechanism.has_own_files else GIT_WITHOUT_SYSTEM
        if place.request.policy.home == "worker":
            found["HOME"] = str(place.folder / HOME)
        if mechanism.has_own_files and self._users is not None:
            found |= {"USER": USER, "LOGNAME": USER}
        return {name: value for name, value in found.items() if name not in place.request.declared}

    def _readable(self, place: Placement, *, can_hide: bool) -> Sequence[Path]:
        policy = place.request.policy
        command = [at_home(word) for word in place.request.command]
        found = self._parts(command, place.request.env, (*self._writable(place), place.folder))
        found = [path for path in found if can_hide or not self._paths.holds_hidden(path.resolve())]
        found += [self._checked(path, "sandbox.readonly") for path in policy.readonly]
        found += place.borrowed
        return outermost([*found, *(NAMES if place.grants.network is None else ())])

    def _parts(self, command: Sequence[str], env: Mapping[str, str], untrusted: Sequence[Path]) -> list[Path]:
        """Return what a program needs besides the system. What is in untrusted folders has no say in it."""
        folders = tuple(dict.fromkeys(place for path in untrusted for place in (path, path.resolve())))
        home = self._paths.home
        found = [*folders_of_path(env, home, folders), *parts_of_program(command, env, home, folders)]
        return [path for path in found if not self._paths.is_hidden(path.resolve())]

    def _writable(self, place: Placement) -> Sequence[Path]:
        policy = place.request.policy
        found = [self._checked(path, "sandbox.writable") for path in policy.writable]
        found += [self._paths.home] if policy.home == "user" else []
        found += [self._checked(path, "workspace_refs") for path in place.shared]
        return outermost(found)

    def _repositories(self, place: Placement) -> Iterator[Bind]:
        """Yield the binds of repositories of worktrees. One within a folder that is writable as a whole has none."""
        writable = self._writable(place)
        for repository in place.folders.repositories:
            self._checked(Path(repository.common_dir), "workspace_refs")
            if not is_within(Path(repository.common_dir), writable):
                yield from repository_binds(repository)

    def _checked(self, path: Path, field: str) -> Path:
        if self._paths.is_hidden(path.resolve()):
            raise ConfinementRefused(f"{field}: {printable(str(path))} belongs to the daemon: no Worker may see it")
        return path

    def _user(self, place: Placement) -> tuple[int | None, tuple[Path, ...]]:
        """Return the user that programs run as, and the folders of root that it gets as its own."""
        if self._users is None:
            return None, ()
        common = (Path(repository.common_dir) for repository in place.folders.repositories)
        deciding = (*place.shared, *common, *(path for path in place.borrowed if not _is_public(path)))
        owners = {path.stat().st_uid for path in deciding}
        if not owners:
            return self._users.of(place.folder), ()
        if len(owners) > 1:
            raise ConfinementRefused("workspace_refs: the folders belong to several users, and a Worker runs as one")
        owner = owners.pop()
        return (self._users.of(place.folder), tuple(outermost(deciding))) if owner == 0 else (owner, ())

    def _owner(self, view: View) -> tuple[int | None, tuple[Path, ...]]:
        """Return the user that a view belongs to, and what of root it reads."""
        if self._users is None:
            return None, ()
        owner = view.owner.lstat().st_uid
        if owner == 0:
            return None, ()
        read = [path for path in outermost(view.readable) if path.exists() and not is_within(path, view.writable)]
        return owner, tuple(path for path in read if path.stat().st_uid == 0)


def _executables(place: Placement) -> tuple[Path, ...] | None:
    """Return the files of the programs that a Worker may execute, and of what loads them; None for all."""
    names, path = place.grants.executables, place.request.env.get("PATH")
    if names is None:
        return None
    found = [shutil.which(name, path=path) for name in names]
    loaders = [loader for folder in SYSTEM for loader in folder.glob("**/ld-linux*.so.*")]
    return tuple(dict.fromkeys(path.resolve() for path in (*map(Path, filter(None, found)), *loaders)))


def _binds_of(parts: Iterable[Path], view: View) -> Iterator[Bind]:
    """Yield what a program of the daemon sees. A path within one that is shown in the same way is left out.

    So a link that a Worker has put into a folder is never what a bind begins with.
    """
    readable = outermost([*parts, *view.readable])
    writable = outermost(view.writable)
    yield from (Bind(path, path) for path in readable if not is_within(path, writable))
    yield from (Bind(path, path, writable=True) for path in writable)


def _is_public(folder: Path) -> bool:
    """Return whether every user can read a folder of objects: git makes all of it alike."""
    return folder.stat().st_mode & 0o005 == 0o005
