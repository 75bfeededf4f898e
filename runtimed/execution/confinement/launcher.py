"""Restrict this process as instructed, then execute a program in its place.

A program of its own, with the arguments DESCRIPTOR PROGRAM [ARGUMENT]...; instructions.py starts it. Every spawn
waits for it, so it imports little, and nothing of this package. It reads its instructions from the descriptor. The
program gets its arguments, the environment with the variables of the instructions, and the first three descriptors,
and no other. If a restriction fails, nothing is executed: standard error says what failed, and the status is 126, as
for a program that can't be executed; it is 127 if there is no such program.
"""

import ctypes
import errno
import os
import stat
import struct
import sys

NOT_EXECUTED, NOT_FOUND = 126, 127

_OPENAT2, _CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 437, 444, 445, 446  # the same on every machine
_AT_FDCWD, _RESOLVE_NO_SYMLINKS = -100, 0x04
_PATH_RULE, _PORT_RULE = 1, 2
_RIGHTS_ON_FILES = 0xC007  # execute, write, read, truncate, ioctl: the others are for folders
_SET_DEATH_SIGNAL, _GET_DEATH_SIGNAL, _SET_SECCOMP, _SECCOMP_FILTER = 1, 2, 22, 2
_DROP_FROM_BOUNDING_SET, _SET_NO_NEW_PRIVILEGES, _AMBIENT, _CLEAR_ALL = 24, 38, 47, 4
_CAPABILITIES_VERSION, _MAX_CAPABILITIES = 0x20080522, 64
_SIGPIPE, _SIGXFSZ = 13, 25  # the module signal takes as long to import as everything here
_SOCK_FILTER_BYTES = 8

_REQUIRED = {"files", "network", "scopes", "end"}
_OPTIONAL = {"max_descriptors", "user", "path", "port", "filter", "variable"}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)


class Failure(Exception):
    """What failed, in one line, and the exit status for it."""

    def __init__(self, text: str, status: int = NOT_EXECUTED) -> None:
        super().__init__(text)
        self.status = status


def main() -> None:
    """Execute the program, or exit."""
    try:
        descriptor, command = _arguments()
        environment = _environment()
        told = _instructions(descriptor)
        Restrictions(told).apply()
        _execute(command, environment | _variables(told))
    except Failure as failure:
        os.write(2, f"runtimed: {failure}\n".encode(errors="surrogateescape"))
        os._exit(failure.status)


def _arguments() -> tuple[int, list[str]]:
    try:
        return int(sys.argv[1]), [sys.argv[2], *sys.argv[3:]]
    except (IndexError, ValueError):
        raise Failure("launcher: expected the arguments DESCRIPTOR PROGRAM [ARGUMENT]...") from None


def _environment() -> dict[bytes, bytes]:
    """Return the environment as it was given: in some locales Python adds LC_CTYPE to its own."""
    try:
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123
            entries = file.read().split(b"\0")
    except OSError as error:
        raise Failure(f"launcher: /proc/self/environ: {error.strerror}") from error
    pairs = (entry.partition(b"=") for entry in entries)
    return {name: value for name, _, value in pairs if name}


def _instructions(descriptor: int) -> dict[str, list[str]]:
    """Return the values of each key."""
    try:
        with open(descriptor, "rb") as file:
            text = file.read().decode(errors="surrogateescape")
    except (OSError, ValueError) as error:
        raise Failure(f"launcher: instructions in descriptor {descriptor}: {_reason(error)}") from error
    told: dict[str, list[str]] = {}
    for entry in text.split("\0")[:-1]:
        key, _, value = entry.partition("=")
        told.setdefault(key, []).append(value)
    if not _REQUIRED <= told.keys() <= _REQUIRED | _OPTIONAL:
        raise Failure(f"launcher: instructions in descriptor {descriptor}: incomplete, or of another version")
    return told


def _variables(told: dict[str, list[str]]) -> dict[bytes, bytes]:
    pairs = (entry.partition("=") for entry in told.get("variable", ()))
    return {name.encode(errors="surrogateescape"): value.encode(errors="surrogateescape") for name, _, value in pairs}


class Restrictions:
    """What this process does to itself, each step while the privileges for it are there.

    Args:
        told: The instructions.
    """

    def __init__(self, told: dict[str, list[str]]) -> None:
        self._told = told
        self._ruleset: int | None = None
        self._parent = os.getppid()
        self._death_signal = ctypes.c_int()
        _prctl(_GET_DEATH_SIGNAL, ctypes.addressof(self._death_signal))

    def apply(self) -> None:
        """Take all steps. Raises Failure at the first that fails."""
        for name, step in (
            ("descriptors", self._close_descriptors),
            ("limit of descriptors", self._limit_descriptors),
            ("Landlock", self._create_ruleset),
            ("bounding set", self._empty_bounding_set),
            ("user", self._become_user),
            ("capabilities", self._drop_capabilities),
            ("death signal", self._keep_death_signal),
            ("no_new_privs", self._refuse_new_privileges),
            ("Landlock", self._enforce_ruleset),
            ("seccomp", self._install_filters),
        ):
            try:
                step()
            except (OSError, ValueError) as error:
                raise Failure(f"cannot confine the program: {name}: {_reason(error)}") from error

    def _close_descriptors(self) -> None:
        os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)  # noqa: PTH208

    def _limit_descriptors(self) -> None:
        for limit in self._told.get("max_descriptors", ()):
            import resource

            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), hard))

    def _create_ruleset(self) -> None:
        restricted = [int(self._told[key][0]) for key in ("files", "network", "scopes")]
        if not any(restricted):
            return
        attributes = struct.pack("=QQQ", *restricted)
        self._ruleset = _syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
        for rule in self._told.get("path", ()):
            rights, _, path = rule.partition(":")
            _allow_path(self._ruleset, int(rights), path)
        for rule in self._told.get("port", ()):
            rights, _, port = rule.partition(":")
            _syscall(_ADD_RULE, self._ruleset, _PORT_RULE, struct.pack("=QQ", int(rights), int(port)), 0)

    def _empty_bounding_set(self) -> None:
        for capability in range(_MAX_CAPABILITIES):
            try:
                _prctl(_DROP_FROM_BOUNDING_SET, capability)
            except OSError:
                return  # there are no more, or an ordinary user can't, who has none to lose

    def _become_user(self) -> None:
        for user in self._told.get("user", ()):
            uid, gid = map(int, user.split(":"))
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)

    def _drop_capabilities(self) -> None:
        _prctl(_AMBIENT, _CLEAR_ALL)
        header = struct.pack("=Ii", _CAPABILITIES_VERSION, 0)
        _check(_libc.capset(header, struct.pack("=6I", *[0] * 6)))

    def _keep_death_signal(self) -> None:
        """Die with the parent if that was so: the kernel forgets it with a change of the user."""
        if self._death_signal.value:
            _prctl(_SET_DEATH_SIGNAL, self._death_signal.value)
            if os.getppid() != self._parent:
                raise OSError(0, "the parent has ended")

    def _refuse_new_privileges(self) -> None:
        _prctl(_SET_NO_NEW_PRIVILEGES, 1)

    def _enforce_ruleset(self) -> None:
        if self._ruleset is not None:
            _syscall(_RESTRICT_SELF, self._ruleset, 0)
            os.close(self._ruleset)

    def _install_filters(self) -> None:
        for text in self._told.get("filter", ()):
            program = bytes.fromhex(text)
            steps = ctypes.create_string_buffer(program, len(program))
            header = struct.pack("@HP", len(program) // _SOCK_FILTER_BYTES, ctypes.addressof(steps))
            place = ctypes.create_string_buffer(header, len(header))
            _prctl(_SET_SECCOMP, _SECCOMP_FILTER, ctypes.addressof(place))


def _allow_path(ruleset: int, rights: int, path: str) -> None:
    """Allow access below a path. One that is missing allows nothing; one that leads through a link is an error."""
    try:
        place = _open_without_links(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    if not stat.S_ISDIR(os.fstat(place).st_mode):
        rights &= _RIGHTS_ON_FILES
    if rights:
        _syscall(_ADD_RULE, ruleset, _PATH_RULE, struct.pack("=Qi", rights, place), 0)
    os.close(place)


def _open_without_links(path: str) -> int:
    """Return a descriptor of a path that leads through no link. Raises OSError."""
    how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_NO_SYMLINKS)
    try:
        return _syscall(_OPENAT2, _AT_FDCWD, os.fsencode(path), how, ctypes.c_size_t(len(how)))
    except OSError as error:
        if error.errno not in {errno.ENOSYS, errno.EPERM}:
            raise
    here = os.open("/", os.O_PATH | os.O_CLOEXEC)  # a filter or an old kernel has no openat2
    for part in filter(None, path.split("/")):
        inner = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        os.close(here)
        here = inner
        if stat.S_ISLNK(os.fstat(here).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return here


def _execute(command: list[str], environment: dict[bytes, bytes]) -> None:
    """Execute a program, found as a shell finds it. Raises Failure if that is not possible."""
    _libc.signal(_SIGPIPE, None)  # Python ignores both, and the program would go on to
    _libc.signal(_SIGXFSZ, None)
    name, denied = command[0], ""
    for candidate in _candidates(name, os.fsdecode(environment.get(b"PATH", os.fsencode(os.defpath)))):
        try:
            os.execve(candidate, command, environment)  # noqa: S606
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            denied = f"cannot execute {candidate}: {error.strerror}"
        except OSError as error:
            raise Failure(f"cannot execute {candidate}: {error.strerror}") from error
    raise Failure(denied) if denied else Failure(f"cannot execute {name}: not found", NOT_FOUND)


def _candidates(name: str, path: str) -> list[str]:
    if "/" in name:
        return [name]
    return [f"{folder or '.'}/{name}" for folder in path.split(":")]


def _prctl(operation: int, first: int, second: int = 0) -> None:
    _check(_libc.prctl(operation, first, second, 0, 0))


def _syscall(number: int, *arguments: object) -> int:
    return _check(_libc.syscall(number, *arguments))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    return str(error)
