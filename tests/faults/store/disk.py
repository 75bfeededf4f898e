"""File systems of a test: one whose power can be cut, and one that is small."""

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.acceptance.daemon.conftest import until

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
MIB = 1024 * 1024


class PowerLine:
    """An ext4 file system on a loop device, at `folder` while it is mounted, in a mount namespace of its own.

    There it is seen by the programs that are started under `inside`, a command and its options, and by what they
    start. Any other program that makes a mount namespace would keep the file system from being unmounted.
    """

    def __init__(self, image: Path, folder: Path, namespace: int) -> None:
        self.folder = folder
        self.inside = ("nsenter", f"--mount=/proc/{namespace}/ns/mnt", f"--wd={folder.parent}", "--")
        self._image = image
        self._seen_from_outside = Path(f"/proc/{namespace}/root{folder}")

    def mount(self) -> None:
        """Switch the power on. The journal is replayed."""
        _run(*self.inside, "mount", "-o", "loop", str(self._image), str(self.folder))

    def cut(self) -> None:
        """Cut the power: nothing reaches the disk, and what was not synced is lost, in the journal too."""
        handle = os.open(self._seen_from_outside, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(handle)

    def unmount(self) -> None:
        """Drop what was not on the disk, after the last process that used it has ended."""
        _run(*self.inside, "umount", str(self.folder))
        self.wait_until_free()

    def wait_until_free(self) -> None:
        """Wait until nothing holds the loop device. A Worker's mount namespace may outlive the daemon briefly."""
        until(lambda: not _run("losetup", "--associated", str(self._image)))


@contextlib.contextmanager
def power_line(home: Path, size: int = 1024 * MIB) -> Iterator[PowerLine]:
    """Yield a mounted PowerLine below `home`."""
    image, folder = home / "disk.img", home / "disk"
    folder.mkdir()
    with image.open("wb") as made:
        made.truncate(size)
    _run("mkfs.ext4", "-q", "-F", str(image))
    with _mount_namespace() as namespace:
        line = PowerLine(image, folder, namespace)
        line.mount()
        yield line
    line.wait_until_free()


@contextlib.contextmanager
def _mount_namespace() -> Iterator[int]:
    """Run a process in a new mount namespace. Its mounts end with the last process in it."""
    holder = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process.pid


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system in memory of `size` bytes."""
    folder.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "small", str(folder))
    try:
        yield folder
    finally:
        _unmount_for_good(folder)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def _unmount_for_good(folder: Path) -> None:
    """Unmount, even if a process still has a file open."""
    if folder.is_mount():
        _run("umount", "--lazy", str(folder))
