"""A user for each Worker, where the daemon is root. Everything here blocks."""

import contextlib
import ctypes
import os
import platform
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from runtimed.execution.confinement.syscalls import NUMBERS
from runtimed.execution.processes.confinement import ConfinementRefused
from runtimed.execution.workspace import HOME

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_CAPABILITY_VERSION = 0x20080522
_OVER_FILES = 0b11111 | 1 << 24
"""The capabilities that override the rights of files and their limits: CAP_CHOWN to CAP_FSETID, CAP_SYS_RESOURCE."""

_libc = ctypes.CDLL(None, use_errno=True)


class Users:
    """Gives the folder of each Worker a user of its own from a range of numbers that nobody else has.

    The owner of the home in it says which one it has: so it keeps it over a restart of the daemon. Numbers follow the
    names of folders, which are the ids of Workers: so one is given again only after as many Workers as the range has
    numbers. Folders of programs that are started ahead have random names. All methods can be called in any thread.

    Args:
        numbers: The range.
        workers: The folder with the folders of all Workers; it may not exist yet.
    """

    def __init__(self, numbers: range, workers: Path) -> None:
        self._numbers = numbers
        self._workers = workers
        self._taken: dict[str, int] | None = None
        self._lock = threading.Lock()

    def of(self, folder: Path) -> int:
        """Return the user of a folder. A new one gets a number that no folder and no process belongs to.

        Raises:
            ConfinementRefused: All numbers of the range are taken.
        """
        with self._lock:
            taken = self._taken = self._found() if self._taken is None else self._taken
            if folder.name not in taken:
                taken[folder.name] = self._free(folder.name, set(taken.values()))
            return taken[folder.name]

    def forget(self, folder: Path) -> None:
        """Note that a folder is gone."""
        with self._lock:
            if self._taken is not None:
                self._taken.pop(folder.name, None)

    def _found(self) -> dict[str, int]:
        found: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._workers):
                if entry.is_symlink():  # it leads to an adopted folder, which has an entry too
                    continue
                with contextlib.suppress(OSError):
                    owner = os.lstat(f"{entry.path}/{HOME}").st_uid
                    found |= {entry.name: owner} if owner in self._numbers else {}
        return found

    def _free(self, name: str, taken: set[int]) -> int:
        first = int(name.rpartition("-")[2], 16)
        for offset in range(len(self._numbers)):
            number = self._numbers[(first + offset) % len(self._numbers)]
            if number not in taken and not _has_processes(number):
                return number
        raise ConfinementRefused(f"sandbox.uids: all {len(self._numbers)} numbers are taken by Workers")


def _has_processes(uid: int) -> bool:
    """Return whether a process belongs to a user: one system call, where /proc would take one for each process."""
    try:
        os.getpriority(os.PRIO_USER, ctypes.c_int(uid).value)
    except ProcessLookupError:
        return False
    return True


def give(folder: int, uid: int) -> None:
    """Make a user the owner of a folder and of all that is in it, without following links.

    Files with several names and those of others than root and the owner so far stay as they are: another folder may
    have them too.

    Args:
        folder: A descriptor of the folder.
        uid: The user.

    Raises:
        OSError: It is not a folder, or the file system refuses.
    """
    top = os.open(".", _FOLDER, dir_fd=folder)
    try:
        found = os.fstat(top)
        device, owners = found.st_dev, {0, found.st_uid}
        for _, folders, files, here in os.fwalk(".", dir_fd=top, follow_symlinks=False):
            if os.fstat(here).st_dev != device:
                folders.clear()
                continue
            os.fchown(here, uid, uid)
            for name in (*files, *folders):
                found = os.lstat(name, dir_fd=here)
                if not stat.S_ISDIR(found.st_mode) and found.st_uid in owners and found.st_nlink == 1:
                    os.chown(name, uid, uid, dir_fd=here, follow_symlinks=False)
    finally:
        os.close(top)


@contextlib.contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Access files with the rights of this user, its own group and no capability, in the calling thread.

    Does nothing where this process is not root.

    Raises:
        PermissionError: This process may not change its user.
    """
    if os.geteuid() != 0:
        yield
        return
    groups, capabilities = os.getgroups(), _capabilities()
    _set_groups([])
    try:
        _set_file_user(uid, uid)
        _set_effective(capabilities, ~_OVER_FILES)
        yield
    finally:
        _set_effective(capabilities, -1)
        _set_file_user(0, os.getegid())
        _set_groups(groups)


_Header = ctypes.c_uint32 * 2
_Capabilities = ctypes.c_uint32 * 6
"""Made once: types are costly, and those of ctypes are in cycles."""


def _capabilities() -> ctypes.Array[ctypes.c_uint32]:
    """Return the capabilities of the calling thread, as the kernel has them."""
    found = _Capabilities()
    if _libc.capget(_Header(_CAPABILITY_VERSION, 0), found):
        raise PermissionError("cannot read the capabilities of this process")
    return found


def _set_effective(capabilities: ctypes.Array[ctypes.c_uint32], mask: int) -> None:
    """Let only some of these capabilities take effect in the calling thread."""
    wanted = _Capabilities(*capabilities)
    wanted[0] = capabilities[0] & mask & 0xFFFFFFFF
    if _libc.capset(_Header(_CAPABILITY_VERSION, 0), wanted):
        raise PermissionError("cannot drop the capabilities of this process")


def _set_file_user(uid: int, gid: int) -> None:
    # These calls of the C library change the calling thread alone, and return what was before instead of an error.
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    if _libc.setfsuid(-1) != uid:
        raise PermissionError(f"cannot access files as user {uid}")


def _set_groups(groups: Sequence[int]) -> None:
    # os.setgroups changes all threads, the system call only this one.
    call = NUMBERS["setgroups"].get(platform.machine())
    array = (ctypes.c_uint32 * len(groups))(*groups)
    if call is None or _libc.syscall(call, ctypes.c_size_t(len(groups)), array):
        raise PermissionError("cannot drop the groups of this process")
