"""Project quotas: the kernel itself limits how large a folder becomes. Everything here blocks.

A project is a number that a file carries. Files that are made in a folder inherit its project, and the file system
counts what each project uses. ext4 and XFS can do that when they are mounted with `prjquota`. Only root sets limits.
On ext4 they do not hold a program with CAP_SYS_RESOURCE, so what a project uses has to be checked as well.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path

import attrs

FIRST_PROJECT = 1 << 30
LAST_PROJECT = (1 << 31) - 1
"""The projects of Workers' folders. Tools that number projects begin far below."""

TRIES = 10
"""How many numbers are tried for one that no other folder has."""

MAX_FILES = 5_000_000
"""The most files of a folder whose size has a limit."""

BLOCK_BYTES = 1024

_SYS_QUOTACTL_FD = 443
_PROJECT_QUOTA = 2
_GET_STATE = (ord("X") << 8) + 5
_GET_QUOTA = 0x800007
_SET_QUOTA = 0x800008
_IS_ENFORCED = 1 << 5
_LIMITS_VALID = 1 | 4

_GET_ATTRIBUTES = 0x801C581F
_SET_ATTRIBUTES = 0x401C5820
_INHERIT = 0x200
_ATTRIBUTES = struct.Struct("=IIIII8x")
_QUOTA = struct.Struct("=8QI4x")
_STATE = struct.Struct("=bxHb123x")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


@attrs.frozen
class Quota:
    """What a project uses and may use, in bytes and files; a limit of 0 is none."""

    max_bytes: int
    used_bytes: int
    max_files: int
    used_files: int

    @property
    def is_free(self) -> bool:
        """Whether no folder has this project."""
        return not (self.max_bytes or self.used_bytes or self.max_files or self.used_files)


def hold(folder: Path, max_bytes: int) -> int:
    """Have the kernel limit a folder, if it can.

    A folder that has content without a project stays without: its content would not count.

    Args:
        folder: The folder.
        max_bytes: How large it may become; 0 lifts the limit of an earlier call.

    Returns:
        The project whose use is limited; 0 if the kernel does not limit the folder.
    """
    with contextlib.suppress(OSError), _opened(folder) as opened:
        project = _project_of(opened)
        if not project and max_bytes and _is_enforced(opened) and _is_empty(opened):
            project = _assign(opened)
        if project:
            _set_limit(opened, project, max_bytes)
            return project if max_bytes and _is_enforced(opened) else 0
    return 0


def quota_of(project: int, place: Path) -> Quota:
    """Return what a project uses and may use.

    Args:
        project: The project.
        place: A folder on the file system.

    Raises:
        OSError: The file system counts no projects any more, or the folder is gone.
    """
    with _opened(place) as opened:
        return _quota(opened, project)


def find(folder: Path) -> int:
    """Return the project that `hold` gave to a folder; 0 if it has none."""
    with contextlib.suppress(OSError), _opened(folder) as opened:
        return _project_of(opened)
    return 0


def release(project: int, place: Path) -> None:
    """Forget the limit of a project whose folder is gone.

    Args:
        project: The project.
        place: A folder on the file system.
    """
    with contextlib.suppress(OSError), _opened(place) as opened:
        _set_limit(opened, project, 0)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_empty(folder: int) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def _project_of(folder: int) -> int:
    flags, _, _, project, _ = _attributes(folder)
    return project if flags & _INHERIT and FIRST_PROJECT <= project <= LAST_PROJECT else 0


def _assign(folder: int) -> int:
    """Give a folder a project that no other has, and return it. Raises OSError."""
    for _ in range(TRIES):
        project = FIRST_PROJECT + secrets.randbelow(LAST_PROJECT - FIRST_PROJECT)
        if _quota(folder, project).is_free:
            flags, extent, extents, _, copied = _attributes(folder)
            changed = _ATTRIBUTES.pack(flags | _INHERIT, extent, extents, project, copied)
            fcntl.ioctl(folder, _SET_ATTRIBUTES, changed)
            return project
    raise OSError(errno.EEXIST, "no free project was found")


def _attributes(folder: int) -> tuple[int, int, int, int, int]:
    found = fcntl.ioctl(folder, _GET_ATTRIBUTES, bytes(_ATTRIBUTES.size))
    flags, extent, extents, project, copied = _ATTRIBUTES.unpack(found)
    return flags, extent, extents, project, copied


def _is_enforced(folder: int) -> bool:
    """Whether the file system limits projects, and does not only count what they use."""
    state = ctypes.create_string_buffer(_STATE.size)
    try:
        _quotactl(folder, _GET_STATE, 0, state)
    except OSError:
        return False
    _, flags, _ = _STATE.unpack(state.raw)
    return bool(flags & _IS_ENFORCED)


def _quota(folder: int, project: int) -> Quota:
    block = ctypes.create_string_buffer(_QUOTA.size)
    try:
        _quotactl(folder, _GET_QUOTA, project, block)
    except OSError as error:
        if error.errno != errno.ENOENT:  # XFS knows nothing of a project that was never used
            raise
    blocks, _, used_bytes, files, _, used_files, *_ = _QUOTA.unpack(block.raw)
    return Quota(blocks * BLOCK_BYTES, used_bytes, files, used_files)


def _set_limit(folder: int, project: int, max_bytes: int) -> None:
    blocks = -(-max_bytes // BLOCK_BYTES)
    fields = (blocks, 0, 0, MAX_FILES if max_bytes else 0, 0, 0, 0, 0, _LIMITS_VALID)
    _quotactl(folder, _SET_QUOTA, project, ctypes.create_string_buffer(_QUOTA.pack(*fields), _QUOTA.size))


def _quotactl(folder: int, command: int, project: int, data: "ctypes.Array[ctypes.c_char]") -> None:
    """Call quotactl_fd, which is there since Linux 5.14. Raises OSError."""
    full = ctypes.c_uint((command << 8) | _PROJECT_QUOTA)
    if _libc.syscall(_SYS_QUOTACTL_FD, ctypes.c_uint(folder), full, ctypes.c_uint(project), data):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
