"""Open folders below a root without ever leaving it. Everything here blocks."""

import ctypes
import errno
import os
import stat
from pathlib import Path, PurePath, PurePosixPath

_SYS_OPENAT2 = 437
_AT_FDCWD = -100
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_ANYTHING = os.O_PATH | os.O_CLOEXEC
_FOLDER = _ANYTHING | os.O_DIRECTORY
_MISSING_CALL = {errno.ENOSYS, errno.EPERM, errno.E2BIG}
"""What openat2 fails with on an old kernel, or where a filter of system calls does not know it."""

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_folder(path: Path) -> int:
    """Return a descriptor of a folder that is trusted: links are followed. Raises OSError."""
    return os.open(path, _FOLDER)


def open_without_links(path: Path, *, is_folder: bool = True) -> int:
    """Return a descriptor of a folder, or of anything else, at an absolute path that has no link anywhere.

    Raises:
        OSError: It does not exist, is no folder, or a link leads to it (ELOOP, or ENOTDIR without openat2).
    """
    try:
        return _openat2(_AT_FDCWD, path, _FOLDER if is_folder else _ANYTHING, _RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if error.errno not in _MISSING_CALL:
            raise
    top = open_folder(Path("/"))
    try:
        below = PurePosixPath(path).relative_to("/")
        return descend(top, below) if is_folder else _descend_to_any(top, below)
    finally:
        os.close(top)


def open_beneath(root: int, below: PurePosixPath) -> int:
    """Return a descriptor of a folder below a root.

    Links are followed where the kernel can tell that they stay below the root, and refused elsewhere.

    Args:
        root: The descriptor of the root.
        below: The path of the folder, relative to the root.

    Raises:
        OSError: It does not exist, is no folder, or a link or `..` leads out of the root.
    """
    try:
        return _openat2(root, below, _FOLDER, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno not in _MISSING_CALL:
            raise
    return descend(root, below)


def descend(root: int, below: PurePosixPath) -> int:
    """Do the same step by step, without following any link, for kernels without openat2."""
    here = os.open(".", _FOLDER, dir_fd=root)
    for part in below.parts:
        try:
            if part == "..":
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
        finally:
            os.close(here)
        here = inner
    return here


def _descend_to_any(root: int, below: PurePosixPath) -> int:
    folder = descend(root, below.parent)
    try:
        found = os.open(below.name or ".", _ANYTHING | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)
    if stat.S_ISLNK(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return found


def real_path(descriptor: int) -> Path:
    """Return the path of what a descriptor stands for, without links. Raises OSError if it was removed."""
    path = Path(f"/proc/self/fd/{descriptor}").readlink()
    if identity(descriptor) != _identity_at(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return path


def identity(descriptor: int) -> tuple[int, int]:
    """Return the device and inode of what a descriptor stands for."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _identity_at(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def _openat2(root: int, below: PurePath, flags: int, resolve: int) -> int:
    how = _OpenHow(flags, 0, resolve)
    path = os.fsencode(str(below))
    opened: int = _libc.syscall(_SYS_OPENAT2, root, path, ctypes.byref(how), ctypes.sizeof(how))
    if opened < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return opened
