"""Decide what Landlock holds a program to; the launcher applies it."""

import ctypes
import errno
import os
from collections.abc import Iterable
from pathlib import Path

import attrs

MAX_ABI = 7
"""The newest version of Landlock whose rights are used. Newer kernels know them all."""

NETWORK_SINCE, SCOPES_SINCE = 4, 6
"""The versions from which on ports, and signals and abstract sockets, are restricted; older ones leave them open."""

_CREATE_RULESET, _ASK_VERSION = 444, 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (1 << bit for bit in range(6, 13))
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_ABSTRACT_SOCKETS, _SIGNALS = 1 << 0, 1 << 1

_libc = ctypes.CDLL(None, use_errno=True)

_FILES_BY_ABI = {1: (1 << 13) - 1, 2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEV}
_READ = _READ_FILE | _READ_DIR
_CONTENT = _READ | _WRITE_FILE | _TRUNCATE
_NAMES = _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO | _MAKE_SYM | _REFER
_SPECIAL = _MAKE_CHAR | _MAKE_BLOCK

_CLOSED_BY_ABI = {
    3: "files that the user may write can be emptied (closed from Linux 6.2 on)",
    4: "TCP: any connection, any server (closed from Linux 6.7 on)",
    5: "devices that the user may open can be controlled by ioctl (closed from Linux 6.10 on)",
    6: "processes of the same user can be sent signals (closed from Linux 6.12 on)",
}
_NEVER_CLOSED = (
    "files elsewhere show their name, size and owner, and change their mode, owner and times as far as the user may",
    "the ports of a Worker's own servers can be connected to on every host, and be reached from there",
    "a server that does not choose its port gets one from the kernel, and can be reached from other hosts",
    "of processes of the same user: command lines, priorities and processors, System V memory and message queues",
)


@attrs.frozen
class Files:
    """The files a program may use: absolute paths without links, each with all that is below it.

    Attributes:
        readable: To read.
        writable: To read and change. No device files can be made there.
        devices: To read, write and control by ioctl.
    """

    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    devices: tuple[Path, ...] = ()


@attrs.frozen
class Ports:
    """The TCP ports a program may use. Landlock knows no addresses: a port is one on every host.

    Attributes:
        connect: To connect to.
        serve: To bind, and to connect to: for servers of the program's own.
    """

    connect: tuple[int, ...] = ()
    serve: tuple[int, ...] = ()


@attrs.frozen
class Access:
    """What a program may reach. None leaves a kind of access unrestricted.

    Attributes:
        files: The files it may use. They can't be executed by that.
        executable: What it may execute, and so read: absolute paths without links, each with all that is below it.
            Programs that are linked dynamically need their loader among them, which runs any file that is readable.
        ports: The TCP ports it may use.
        scoped: Whether its signals and its connections to abstract sockets reach itself and its descendants only.
    """

    files: Files | None = None
    executable: tuple[Path, ...] | None = None
    ports: Ports | None = None
    scoped: bool = False


@attrs.frozen
class Ruleset:
    """What the kernel is told, in its own bits.

    Attributes:
        files: The rights on files that are restricted.
        network: The same for ports.
        scopes: What is kept to the program and its descendants.
        path_rules: Paths with the rights that are left there.
        port_rules: The same for ports.
    """

    files: int = 0
    network: int = 0
    scopes: int = 0
    path_rules: tuple[tuple[Path, int], ...] = ()
    port_rules: tuple[tuple[int, int], ...] = ()


UNRESTRICTED = Ruleset()
"""The ruleset that restricts nothing."""


def abi() -> int:
    """Return the version of Landlock that can be used here, at most MAX_ABI, or 0 if none can."""
    version, _ = _version()
    return max(0, min(version, MAX_ABI))


def unusable() -> str | None:
    """Return why Landlock can't be used here, or None if it can."""
    version, error = _version()
    if version > 0:
        return None
    if error == errno.ENOSYS:
        return "Landlock: this kernel does not have it (Linux 5.13 or newer, built with CONFIG_SECURITY_LANDLOCK)"
    if error == errno.EOPNOTSUPP:
        return "Landlock: switched off (add landlock to the boot option lsm=)"
    return f"Landlock: refused, probably by the seccomp filter of a container ({os.strerror(error)})"


def gaps(abi: int) -> tuple[str, ...]:
    """Return what this version of Landlock leaves open, with the seccomp filter for it, each in plain words."""
    return (*(text for since, text in _CLOSED_BY_ABI.items() if abi < since), *_NEVER_CLOSED)


def ruleset(access: Access, abi: int) -> Ruleset:
    """Return the rules that hold a program to some access, as far as a version of Landlock can."""
    known = sum(rights for since, rights in _FILES_BY_ABI.items() if since <= abi)
    files = known & _restricted(access)
    ports = access.ports if abi >= NETWORK_SINCE else None
    return Ruleset(
        files=files,
        network=0 if ports is None else _BIND_TCP | _CONNECT_TCP,
        scopes=_ABSTRACT_SOCKETS | _SIGNALS if access.scoped and abi >= SCOPES_SINCE else 0,
        path_rules=tuple((path, rights & files) for path, rights in _path_rules(access) if rights & files),
        port_rules=() if ports is None else tuple(_port_rules(ports)),
    )


def _restricted(access: Access) -> int:
    files = 0 if access.files is None else _CONTENT | _IOCTL_DEV | _NAMES | _SPECIAL
    execution = 0 if access.executable is None else _EXECUTE | _REFER
    return files | execution


def _path_rules(access: Access) -> Iterable[tuple[Path, int]]:
    if access.files is None:
        # A ruleset restricts moves between folders even if it does not name them.
        yield from () if access.executable is None else ((Path("/"), _REFER),)
    else:
        yield from ((path, _READ) for path in access.files.readable)
        yield from ((path, _CONTENT | _NAMES) for path in access.files.writable)
        yield from ((path, _CONTENT | _IOCTL_DEV) for path in access.files.devices)
    yield from ((path, _EXECUTE | _READ_FILE) for path in access.executable or ())


def _port_rules(ports: Ports) -> Iterable[tuple[int, int]]:
    yield from ((port, _CONNECT_TCP) for port in ports.connect)
    yield from ((port, _CONNECT_TCP | _BIND_TCP) for port in ports.serve)


def _version() -> tuple[int, int]:
    """Return the kernel's answer to the question for its version, and the error with which it refuses it."""
    version: int = _libc.syscall(_CREATE_RULESET, None, 0, _ASK_VERSION)
    return version, ctypes.get_errno() if version < 0 else 0
