"""Confinement by bubblewrap: namespaces, a file system of its own, no capabilities, a filter of system calls."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from runtimed.execution.confinement.inherited import Descriptors
from runtimed.execution.confinement.instructions import FOLDER, Instructions, argv
from runtimed.execution.confinement.judgment import SECRETS_FOLDER
from runtimed.execution.confinement.landlock import Access, abi, ruleset
from runtimed.execution.confinement.loader_variables import hold
from runtimed.execution.confinement.reach import Bind, Reach
from runtimed.execution.confinement.repository_view import live_place, repository_view
from runtimed.execution.confinement.seccomp import seccomp_filter
from runtimed.execution.confinement.system_view import ACCOUNTS, ETC, NAMES, SYSTEM, executables_of
from runtimed.execution.processes.confinement import Launch
from runtimed.execution.processes.descriptor_limit import SHELL, limited
from runtimed.execution.processes.order import waiting
from runtimed.model.profile import Mechanism

SHM_BYTES = 256 << 20
"""The size of /dev/shm. What is in it counts as memory of the Worker."""

RUN_BYTES = 1 << 20
EMPTY_BYTES = 1 << 12

KERNEL = tuple(Path("/proc") / name for name in ("sys", "fs", "acpi", "scsi", "dynamic_debug", "mtrr", "irq", "bus"))
"""What sets up the kernel. Root's user may write to some of it even without a capability."""

OWNER_PROGRAM = Path(__file__).with_name("owner_program.py")
PROBE_DEADLINE_S = 10.0

NAMESPACES = ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
FIXED = (*NAMESPACES, "--new-session", "--die-with-parent", "--cap-drop", "ALL")
USER_NAMESPACE = ("--unshare-user", "--disable-userns")
USER = "worker"
"""What a user of a Worker's own is called inside."""

NOBODY = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin"
EXECUTE = 'exec "$@"'
"""Ends with status 127 if there is no such program, as all else that executes one. Bubblewrap ends with 1."""

READABLE = ("--perms", "0644", "--file")
GRANTED = Path("/run/.granted")
COPY_SECRETS = (
    f'for file in {GRANTED}/*; do (umask 0377 && cat "$file" >"{SECRETS_FOLDER}/${{file##*/}}") || exit; done; '
)
"""Makes secret files of the user of the Worker, with mode 0400, of those that bubblewrap made as root."""

FROM_DESCRIPTOR = {"--file", "--ro-bind-data", "--seccomp", "--bind-fd", "--ro-bind-fd"}
FROM_PATH = {"--ro-bind", "--ro-bind-try"}

CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_DAC_OVERRIDE")
CHANGE_USER = tuple(word for capability in CAPABILITIES for word in ("--cap-add", capability))
"""What enters the directory of the program, which may be closed to root, and changes to the user of the Worker."""


class Bubblewrap:
    """The Confinement by bubblewrap.

    A daemon that is root starts it without a user namespace, and the program changes to the user of the Worker last.
    With any other daemon the program gets a user namespace, without capabilities.

    Args:
        program: The path of `bwrap`.
        setpriv: The path of `setpriv`, as it is inside.
    """

    mechanism: Mechanism = "bubblewrap"
    has_own_files = True
    limits_network = True

    def __init__(self, program: str, setpriv: str) -> None:
        self._program = program
        self._setpriv = setpriv
        self._filter = seccomp_filter("bubblewrap")
        self._executables_filter = seccomp_filter("executables")

    def problem(self, reach: Reach) -> str | None:
        if not reach.mapped or reach.uid is None:
            return None
        tried = subprocess.run(
            as_owner(reach.uid, reach.mapped, (shutil.which("true") or "true",)),
            capture_output=True,
            timeout=PROBE_DEADLINE_S,
            check=False,
        )
        if tried.returncode == 0:
            return None
        reason = tried.stderr.decode(errors="replace").strip().removeprefix("runtimed: ")
        return f"a folder belongs to root, as which no Worker runs ({reason}): give it to another user"

    def launch(
        self,
        reach: Reach,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        max_descriptors: int | None = None,
    ) -> Launch:
        opened = Descriptors()
        try:
            if reach.executables is not None:
                command = self._limited(reach.executables, command, env, max_descriptors, opened)
                env, max_descriptors = {}, None
            return self._launch(reach, limited(command, max_descriptors), cwd, env, opened)
        except BaseException:
            opened.close()
            raise

    def launch_ahead(
        self, reach: Reach, cwd: Path, env: Mapping[str, str], max_descriptors: int | None = None
    ) -> Launch | None:
        if reach.executables is not None:
            return None
        opened = Descriptors()
        try:
            return self._launch(reach, waiting(max_descriptors), cwd, env, opened, is_ahead=True)
        except BaseException:
            opened.close()
            raise

    def _launch(
        self,
        reach: Reach,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        opened: Descriptors,
        *,
        is_ahead: bool = False,
    ) -> Launch:
        held = hold(env)
        command = [*self._as_user(reach, held.script), *command]
        variables = [*FIXED, *_variables(held.env), *(USER_NAMESPACE if reach.uid is None else CHANGE_USER)]
        view = [*_view(reach, opened), "--chdir", str(cwd), "--seccomp", str(opened.file(self._filter))]
        if reach.network != "host":
            view.append("--unshare-net")
        made_of: tuple[object, ...] = ()
        if is_ahead:  # what is put in the place of a hidden file, a sandbox of before would show
            made_of = (*command, *variables, *_made_of(view, opened), *map(_identity, reach.hidden))
        options = [*variables, *view]
        pid_pipe, block = None, None
        if reach.has_listeners:
            (pid_pipe, told), (holding, block) = opened.pipe(), opened.pipe()
            os.set_blocking(pid_pipe, False)
            os.set_blocking(block, False)
            options += ["--info-fd", str(told), "--block-fd", str(holding)]
        told_options = opened.file(_encoded(options))
        inherited = tuple(fd for fd in opened.descriptors if fd not in {pid_pipe, block})
        sandboxed = [self._program, "--args", str(told_options), "--", *command]
        if reach.uid is not None and reach.mapped:
            sandboxed = as_owner(reach.uid, reach.mapped, sandboxed)
        return Launch(sandboxed, descriptors=inherited, pid_pipe=pid_pipe, hold=block, made_of=made_of)

    def _limited(
        self,
        executables: Sequence[Path],
        command: Sequence[str],
        env: Mapping[str, str],
        max_descriptors: int | None,
        opened: Descriptors,
    ) -> Sequence[str]:
        """Return the command, kept from executing programs but itself and these."""
        rules = ruleset(Access(executable=(*executables, *executables_of(command, env))), abi())
        filters = (self._executables_filter,)
        instructions = Instructions(rules, filters, max_descriptors=max_descriptors, environment=env)
        return argv(command, opened.file(instructions.encode()))

    def _as_user(self, reach: Reach, script: str) -> Sequence[str]:
        """Return what becomes the user of the Worker, and then runs the commands of a shell."""
        if reach.uid is None:
            return (SHELL, "-c", f"{script}{EXECUTE}", SHELL)
        user = (f"--reuid={reach.uid}", f"--regid={reach.uid}", "--clear-groups")
        script = f"{COPY_SECRETS if reach.secrets else ''}{script}"
        shell = (SHELL, "-c", f"{script}{EXECUTE}", SHELL) if script else ()
        return (self._setpriv, *user, "--inh-caps=-all", "--bounding-set=-all", "--", *shell)


def as_owner(uid: int, folders: Sequence[Path], command: Sequence[str]) -> list[str]:
    """Return a command that runs another one with folders of root shown as those of a user."""
    python = [os.path.realpath(sys.executable), "-I", "-S", "-B"]
    return [*python, str(OWNER_PROGRAM), str(uid), *map(str, folders), "--", *command]


def _made_of(view: Sequence[str], opened: Descriptors) -> Iterator[object]:
    """Yield the arguments of a view, with the files that are behind its paths and descriptors now."""
    for before, word in itertools.pairwise(("", *view)):
        if before in FROM_DESCRIPTOR:
            yield opened.identities[int(word)]
        elif before in FROM_PATH:
            yield word, _identity(word)
        else:
            yield word


def _identity(path: str | Path) -> object:
    try:
        found = os.stat(path)  # noqa: PTH116 a Path for each takes as long as the call
    except OSError as error:
        return error.errno
    return found.st_dev, found.st_ino


def _variables(env: Mapping[str, str]) -> Iterator[str]:
    """Yield the arguments that set variables of the program. Bubblewrap itself runs without them, outside."""
    yield "--clearenv"
    for name, value in env.items():
        if not name or "=" in name:
            raise ValueError(f"expected names of environment variables without '=', got {name!r}")
        yield from ("--setenv", name, value)


def _encoded(options: Sequence[str]) -> bytes:
    text = "\0".join((*options, ""))
    if text.count("\0") != len(options):
        raise ValueError("expected variables and paths without zero bytes")
    return os.fsencode(text)


def _view(reach: Reach, opened: Descriptors) -> Iterator[str]:
    """Yield the arguments that lay out the file system. Later ones cover earlier ones.

    What is not of the system is bound by descriptor. Bubblewrap looks where a descriptor leads, mounts that, and ends
    if another file or folder was mounted.
    """
    yield from _system()
    for path in {path.parent: path for path in (*ETC, *ACCOUNTS)}.values():
        if path.parent.exists():
            yield from _parents(path)
    yield from _shown(ETC, opened)
    if reach.network == "host":
        for path in NAMES:
            yield from ("--ro-bind-try", str(path), str(path))
    yield from _accounts(reach, opened)
    yield from ("--proc", "/proc", "--dev", "/dev")
    if reach.uid is None and os.geteuid() == 0:
        for path in filter(Path.exists, KERNEL):
            yield from ("--ro-bind", str(path), str(path))
    yield from ("--perms", "1777", "--size", str(SHM_BYTES), "--tmpfs", "/dev/shm")  # noqa: S108
    yield from ("--remount-ro", "/dev")  # bubblewrap gives it no size, and it is in memory
    yield from ("--perms", "0755", "--size", str(RUN_BYTES), "--tmpfs", "/run")
    yield from _secret_files(reach, opened)
    yield from _laid_over(reach, opened)
    if reach.executables is not None:
        for path in (Path(sys.base_prefix), FOLDER):
            yield from (*_parents(path), "--ro-bind", str(path), str(path))
    yield from ("--remount-ro", "/")


def _system() -> Iterator[str]:
    for path in SYSTEM:
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.exists():
            yield from ("--ro-bind", str(path), str(path))


def _shown(paths: Iterable[Path], opened: Descriptors) -> Iterator[str]:
    """Yield the arguments that show files and folders of the host.

    Files that everybody can read are copied: bubblewrap reads the whole list of mounts for each new one.
    """
    for path in paths:
        descriptor = opened.public(path)
        if descriptor is not None:
            yield from (*READABLE, str(descriptor), str(path))
        elif path.exists():
            yield from ("--ro-bind-try", str(path), str(path))


def _laid_over(reach: Reach, opened: Descriptors) -> Iterator[str]:
    """Yield binds, and what hides a path right behind the bind that would show it.

    The folders on the way to a hidden path become mounts where programs could rename them: a path that is gone is
    hidden from no further program.
    """
    parent = reach.parent
    for bind in reach.binds:
        if parent is not None and bind.target.is_relative_to(parent):
            yield from (*_parents(parent), *_emptied(parent))
            parent = None
        yield from _parents(bind.target)
        if bind.is_repository:
            yield from (*_parents(live_place(bind.source)), *repository_view(bind.source, opened.source))
            continue
        kind = "--bind-fd" if bind.writable else "--ro-bind-fd"
        yield from (kind, str(opened.source(bind.source)), str(bind.target))
        hidden = [path for path in reach.hidden if path.is_relative_to(bind.source)]
        if bind.writable:
            yield from _pinned(bind, hidden, opened)
        for path in hidden:
            yield from _covered(bind.target / path.relative_to(bind.source), path)


def _parents(path: Path) -> Iterator[str]:
    """Yield the arguments that make the folders above a path, which other users may pass through."""
    for folder in reversed(path.parents[:-1]):
        yield from ("--perms", "0755", "--dir", str(folder))


def _pinned(bind: Bind, paths: Iterable[Path], opened: Descriptors) -> Iterator[str]:
    """Yield the arguments that keep the folders of a writable bind in place that lead to these paths."""
    for folder in dict.fromkeys(folder for path in paths for folder in reversed(path.parents)):
        if folder != bind.source and folder.is_relative_to(bind.source) and folder.is_dir():
            place = bind.target / folder.relative_to(bind.source)
            yield from ("--bind-fd", str(opened.source(folder)), str(place))


def _covered(place: Path, path: Path) -> Sequence[str]:
    if path.is_dir():
        return _emptied(place)
    return ("--ro-bind", os.devnull, str(place)) if path.exists() else ()


def _emptied(place: Path) -> Sequence[str]:
    return ("--perms", "0755", "--size", str(EMPTY_BYTES), "--tmpfs", str(place))


def _accounts(reach: Reach, opened: Descriptors) -> Iterator[str]:
    """Yield the arguments for the lists of users and groups: those of the host, or one with the Worker's own user."""
    uid = reach.uid
    if uid is None:
        yield from _shown(ACCOUNTS, opened)
        return
    users = f"{USER}:x:{uid}:{uid}:Worker:{reach.home}:{SHELL}\nroot:x:0:0:root:/root:{SHELL}\n{NOBODY}\n"
    groups = f"{USER}:x:{uid}:\nroot:x:0:\nnogroup:x:65534:\n"
    # setpriv first takes the number for a name: it looks through all name services of the host unless it is here
    users, groups = f"{users}{uid}:x:{uid}:{uid}:::\n", f"{groups}{uid}:x:{uid}:\n"
    for path, text in zip(ACCOUNTS, (users, groups), strict=True):
        yield from (*READABLE, str(opened.file(text.encode())), str(path))


def _secret_files(reach: Reach, opened: Descriptors) -> Iterator[str]:
    """Yield the arguments for files that only the user of the Worker can read.

    Bubblewrap makes files of root where the daemon is root. They are copied then: see COPY_SECRETS.
    """
    if not reach.secrets:
        return
    is_copied = reach.uid is not None
    for path, value in reach.secrets.items():
        place = GRANTED / path.name if is_copied else path
        yield from ("--perms", "0444" if is_copied else "0400", "--ro-bind-data")
        yield from (str(opened.file(value.encode())), str(place))
    if is_copied:
        yield from ("--perms", "0777", "--size", str(RUN_BYTES), "--tmpfs", SECRETS_FOLDER)
