"""Show folders of root as those of another user, then execute a program in this process's place.

A program of its own, with the arguments UID FOLDER... -- PROGRAM [ARGUMENT]...; bubblewrap.py starts it as root. It
imports nothing of this package. In a mount namespace of its own, what root owns in the folders belongs to the user
UID, and what that user makes there belongs to root on the disk: so a program can work in a folder of root without
being root. The program inherits all descriptors. If that is not possible, or if a link leads to a folder, nothing is
executed: standard error says why, and the status is 126.
"""

import ctypes
import errno
import os
import signal
import stat
import struct
import sys

NOT_EXECUTED = 126

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same on every machine
_AT_EMPTY_PATH, _OPEN_TREE_CLONE, _MOVE_BETWEEN_DESCRIPTORS = 0x1000, 1, 0x44
_IDMAP = 0x00100000
_NEW_MOUNTS, _NEW_USERS = 0x00020000, 0x10000000
_SLAVE, _RECURSIVE = 1 << 19, 1 << 14

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Execute the program, or exit."""
    end = sys.argv.index("--")
    uid, folders, command = int(sys.argv[1]), sys.argv[2:end], sys.argv[end + 1 :]
    try:
        users = _map_root_to(uid)
        _check("unshare", _libc.unshare(_NEW_MOUNTS))
        _check("mount", _libc.mount(None, b"/", None, ctypes.c_ulong(_SLAVE | _RECURSIVE), None))
        for folder in folders:
            _show(folder, users)
        os.close(users)
        os.execv(command[0], command)  # noqa: S606
    except OSError as error:
        os.write(2, f"runtimed: cannot show a folder of root to user {uid}: {error}\n".encode(errors="replace"))
        os._exit(NOT_EXECUTED)


def _map_root_to(uid: int) -> int:
    """Return the descriptor of a user namespace whose root is this user."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        failed = _libc.unshare(_NEW_USERS)
        os.write(told, b"-" if failed else b"+")
        signal.pause()
    os.close(told)
    try:
        if os.read(ready, 1) != b"+":
            raise OSError("user namespaces are not available")
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{name}", "w") as file:  # noqa: PTH123
                file.write(f"0 {uid} 1\n")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _show(folder: str, users: int) -> None:
    """Mount a folder over itself, with its owner mapped."""
    place = _open_without_links(folder)
    flags = _OPEN_TREE_CLONE | _AT_EMPTY_PATH | os.O_CLOEXEC
    tree = _syscall("open_tree", _OPEN_TREE, place, b"", flags)
    attributes = struct.pack("=QQQQ", _IDMAP, 0, 0, users)
    size = ctypes.c_size_t(len(attributes))
    _syscall("mount_setattr", _MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, size)
    _syscall("move_mount", _MOVE_MOUNT, tree, b"", place, b"", _MOVE_BETWEEN_DESCRIPTORS)
    os.close(tree)
    os.close(place)


def _open_without_links(path: str) -> int:
    here = os.open("/", os.O_PATH | os.O_CLOEXEC)
    for part in filter(None, path.split("/")):
        inner = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        os.close(here)
        here = inner
        if stat.S_ISLNK(os.fstat(here).st_mode):
            raise OSError(errno.ELOOP, "a link leads to the folder")
    return here


def _syscall(name: str, number: int, *arguments: object) -> int:
    return _check(name, _libc.syscall(number, *arguments))


def _check(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


if __name__ == "__main__":
    main()
