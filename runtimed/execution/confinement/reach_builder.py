"""Works out what the programs of a Worker may reach."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from runtimed.errors import printable
from runtimed.execution.confinement.bind_source import status_of
from runtimed.execution.confinement.bubblewrap import USER
from runtimed.execution.confinement.enclosure import Owned
from runtimed.execution.confinement.host_paths import HostPaths
from runtimed.execution.confinement.judgment import MOUNTS_FOLDER
from runtimed.execution.confinement.nested_paths import is_within, outermost
from runtimed.execution.confinement.placement import Placement
from runtimed.execution.confinement.reach import Bind, Confinement, Reach
from runtimed.execution.confinement.repository_view import repository_binds
from runtimed.execution.confinement.system_view import SYSTEM, folders_of_path, parts_of_program
from runtimed.execution.confinement.users import Users
from runtimed.execution.policy import SandboxPolicy
from runtimed.execution.processes.confinement import ConfinementRefused, View
from runtimed.execution.processes.executable import at_home
from runtimed.execution.workspace import HOME, SCRIPTS

MOUNTS = Path(MOUNTS_FOLDER)
TMP = "tmp"
"""The folder in a Worker's own folder that its programs see as /tmp."""

Sources = Mapping[Path, Path]
"""Paths that programs see, each with where that is on the host without links."""

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
        if has_user:
            _check_present(place.request.policy)
        own = place.folder
        uid, mapped = self._user(place) if has_user else (None, ())
        binds = (
            Bind(own / TMP, Path("/tmp"), writable=True, is_tmp=True),  # noqa: S108 the Worker's own
            *_outermost_binds(self._readable(place, can_hide=has_user)),
            *_outermost_binds(self._writable(place), writable=True),
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

    def _readable(self, place: Placement, *, can_hide: bool) -> Sources:
        command = [at_home(word) for word in place.request.command]
        parts = self._parts(command, place.request.env, (*self._writable(place), place.folder))
        shown = {path: to for path, to in parts.items() if can_hide or not self._paths.holds_hidden(to)}
        return {
            **shown,
            **self._checked(_resolved(place.request.policy.readonly), "sandbox.readonly"),
            **_unresolved(place.borrowed),
        }

    def _parts(self, command: Sequence[str], env: Mapping[str, str], untrusted: Sequence[Path]) -> Sources:
        """Return what a program needs besides the system. What is in untrusted folders has no say in it."""
        folders = tuple(dict.fromkeys(place for path in untrusted for place in (path, path.resolve())))
        home = self._paths.home
        found = [*folders_of_path(env, home, folders), *parts_of_program(command, env, home, folders)]
        return {path: to for path, to in _resolved(found).items() if not self._paths.is_hidden(to)}

    def _writable(self, place: Placement) -> Sources:
        policy = place.request.policy
        return {
            **self._checked(_resolved(policy.writable), "sandbox.writable"),
            **_resolved([self._paths.home] if policy.home == "user" else []),
            **self._checked(_unresolved(place.shared), "workspace_refs"),
        }

    def _repositories(self, place: Placement) -> Iterator[Bind]:
        """Yield the binds of repositories of worktrees. One within a folder that is writable as a whole has none."""
        writable = self._writable(place)
        for repository in place.folders.repositories:
            self._checked(_unresolved([Path(repository.common_dir)]), "workspace_refs")
            if not is_within(Path(repository.common_dir), writable):
                yield from repository_binds(repository)

    def _checked(self, sources: Sources, field: str) -> Sources:
        for path, to in sources.items():
            if self._paths.is_hidden(to):
                raise ConfinementRefused(
                    f"{field}: {printable(str(path))} belongs to the daemon: no Worker may see it"
                )
        return sources

    def _user(self, place: Placement) -> tuple[int | None, tuple[Path, ...]]:
        """Return the user that programs run as, and the folders of root that it gets as its own."""
        if self._users is None:
            return None, ()
        common = (Path(repository.common_dir) for repository in place.folders.repositories)
        deciding = (*place.shared, *common, *(path for path in place.borrowed if not _is_public(path)))
        owners = {status_of(path).st_uid for path in deciding}
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
        return owner, tuple(path for path in read if status_of(path).st_uid == 0)


def _executables(place: Placement) -> tuple[Path, ...] | None:
    """Return the files of the programs that a Worker may execute, and of what loads them; None for all."""
    names, path = place.grants.executables, place.request.env.get("PATH")
    if names is None:
        return None
    found = [shutil.which(name, path=path) for name in names]
    loaders = [loader for folder in SYSTEM for loader in folder.glob("**/ld-linux*.so.*")]
    return tuple(dict.fromkeys(path.resolve() for path in (*map(Path, filter(None, found)), *loaders)))


def _check_present(policy: SandboxPolicy) -> None:
    for field, paths in (("readonly", policy.readonly), ("writable", policy.writable)):
        for path in paths:
            if not path.exists():
                raise ConfinementRefused(f"sandbox.{field}: {printable(str(path))}: No such file or directory")


def _resolved(paths: Iterable[Path]) -> Sources:
    """Return paths that the host names, with what they lead to now. They may lead through links.

    It stays at that for as long as the decision stands: nothing is shown once another link is on the way.
    """
    return {path: Path(os.path.realpath(path)) for path in paths}


def _unresolved(paths: Iterable[Path]) -> Sources:
    """Return paths that had no links when they were recorded, as they are: one that was put there must be found."""
    return {path: path for path in paths}


def _outermost_binds(sources: Sources, *, writable: bool = False) -> Iterator[Bind]:
    yield from (Bind(sources[path], path, writable) for path in outermost(sources))


def _binds_of(parts: Sources, view: View) -> Iterator[Bind]:
    """Yield what a program of the daemon sees. A path within one that is shown in the same way is left out.

    So a link that a Worker has put into a folder is never what a bind begins with.
    """
    readable = _outermost_binds({**parts, **_unresolved(view.readable)})
    yield from (bind for bind in readable if not is_within(bind.target, view.writable))
    yield from _outermost_binds(_unresolved(view.writable), writable=True)


def _is_public(folder: Path) -> bool:
    """Return whether every user can read a folder of objects: git makes all of it alike."""
    return status_of(folder).st_mode & 0o005 == 0o005
