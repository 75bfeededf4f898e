"""Assemble seccomp filters: programs in classic BPF that decide which system calls the kernel refuses."""

import errno
import platform
import struct
from collections.abc import Iterable, Mapping
from typing import Literal

import attrs

from runtimed.execution.confinement.syscalls import ARCHITECTURES, NUMBERS

Kind = Literal["bubblewrap", "landlock", "landlock_host_network", "executables"]
"""What a filter is for.

- `bubblewrap`: inside a sandbox with namespaces of its own.
- `landlock`: beside Landlock, on the host's network; only TCP is left, because Landlock restricts nothing else.
- `landlock_host_network`: beside Landlock where the network is not restricted.
- `executables`: on top of one of these, where Landlock allows only listed programs to be executed.
"""

_NEW_NAMESPACES = 0x7E020000
_NEW_TIME_NAMESPACE = 0x80
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_STREAM, _DATAGRAM, _SEQPACKET = 1, 2, 5
_TYPE_MASK = 0xF  # the rest of a socket's type are flags
_NETLINK_ROUTE = 0
_TCP = (0, 6)  # 0 is the default of a stream socket
_MSG_FASTOPEN = 0x20000000
_MFD_NOEXEC_SEAL = 0x8
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_FS_IOC_SETFLAGS, _FS_IOC_FSSETXATTR = 0x40086602, 0x401C5820


@attrs.frozen
class Condition:
    """A condition on the lower 32 bits of an argument, which are all that the kernel looks at in those named here.

    Attributes:
        argument: The position of the argument, from 0.
        values: What it is compared with, after the mask.
        mask: The bits that count.
        among: Whether it has to be one of the values, or none of them.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    among: bool = True


@attrs.frozen
class Rule:
    """Refuse a system call with an error if all conditions hold; without conditions, always."""

    call: str
    conditions: tuple[Condition, ...] = ()
    error: int = errno.EPERM


def _is(argument: int, *values: int, mask: int = 0xFFFFFFFF) -> Condition:
    return Condition(argument, values, mask)


def _is_not(argument: int, *values: int, mask: int = 0xFFFFFFFF) -> Condition:
    return Condition(argument, values, mask, among=False)


def _has_any(argument: int, bits: int) -> Condition:
    return Condition(argument, (0,), bits, among=False)


_ALWAYS_REFUSED = (
    "setns",
    *("mount", "umount2", "pivot_root", "fsopen", "fsconfig", "fsmount", "fspick"),
    *("open_tree", "open_tree_attr", "move_mount", "mount_setattr"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"),
    *("keyctl", "add_key", "request_key"),
    *("bpf", "perf_event_open", "userfaultfd"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),  # its operations pass by every other rule
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module"),
    *("open_by_handle_at", "syslog", "quotactl", "quotactl_fd", "swapon", "swapoff", "reboot", "acct"),
    *("settimeofday", "clock_settime", "adjtimex", "clock_adjtime"),
)

_SET_ID_BITS = 0o6000
_CREATING = 0o100 | 0o20000000  # O_CREAT and O_TMPFILE: without them the argument for the mode means nothing

_NO_SET_ID_FILES = (
    # In a folder of another user, such a file would give that user's rights to everybody on the host.
    Rule("chmod", (_has_any(1, _SET_ID_BITS),)),
    Rule("fchmod", (_has_any(1, _SET_ID_BITS),)),
    Rule("fchmodat", (_has_any(2, _SET_ID_BITS),)),
    Rule("fchmodat2", (_has_any(2, _SET_ID_BITS),)),
    Rule("creat", (_has_any(1, _SET_ID_BITS),)),
    Rule("open", (_has_any(1, _CREATING), _has_any(2, _SET_ID_BITS))),
    Rule("openat", (_has_any(2, _CREATING), _has_any(3, _SET_ID_BITS))),
    Rule("openat2", error=errno.ENOSYS),  # a filter can't read its mode; programs then use openat
    Rule("mknod", (_has_any(1, _SET_ID_BITS),)),
    Rule("mknodat", (_has_any(2, _SET_ID_BITS),)),
)

_EVERYWHERE = (
    *map(Rule, _ALWAYS_REFUSED),
    *_NO_SET_ID_FILES,
    Rule("unshare", (_has_any(0, _NEW_NAMESPACES | _NEW_TIME_NAMESPACE),)),
    Rule("clone", (_has_any(0, _NEW_NAMESPACES),)),
    Rule("clone3", error=errno.ENOSYS),  # a filter can't read its flags; the C library then uses clone
    Rule("ioctl", (_is(1, _TIOCSTI, _TIOCLINUX),)),  # they type into a terminal
    # They move files out of the project by which the disk space of a Worker is limited.
    Rule("ioctl", (_is(1, _FS_IOC_SETFLAGS, _FS_IOC_FSSETXATTR),)),
    Rule("file_setattr"),
    Rule("socket", (_is_not(0, _AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK),), errno.EAFNOSUPPORT),
    Rule("socketpair", (_is_not(0, _AF_UNIX),), errno.EAFNOSUPPORT),
    # What stays of netlink are the interfaces, addresses, routes and neighbors, which getifaddrs() reads. To change
    # them takes CAP_NET_ADMIN, which no Worker has.
    Rule("socket", (_is(0, _AF_NETLINK), _is_not(2, _NETLINK_ROUTE)), errno.EPROTONOSUPPORT),
    Rule("socket", (_is(0, _AF_INET, _AF_INET6), _is_not(1, _STREAM, _DATAGRAM, mask=_TYPE_MASK))),
)

_SHARED_HOST = (
    Rule("socket", (_is(0, _AF_UNIX),)),  # sockets with a path, which Landlock does not restrict
    # A pair of datagram sockets could still send to any socket with a path.
    Rule("socketpair", (_is_not(1, _STREAM, _SEQPACKET, mask=_TYPE_MASK),)),
    Rule("prlimit64", (_is_not(0, 0),)),  # the limits of other processes of the same user, the daemon among them
)

_ONLY_TCP = (
    # Landlock does not see the connections of other protocols for streams, such as MPTCP.
    Rule("socket", (_is(0, _AF_INET, _AF_INET6), _is_not(1, _STREAM, mask=_TYPE_MASK))),
    Rule("socket", (_is(0, _AF_INET, _AF_INET6), _is_not(2, *_TCP)), errno.EPROTONOSUPPORT),
    # TCP Fast Open connects without connect(), where Landlock looks.
    Rule("sendto", (_has_any(3, _MSG_FASTOPEN),), errno.EOPNOTSUPP),
    Rule("sendmsg", (_has_any(2, _MSG_FASTOPEN),), errno.EOPNOTSUPP),
    Rule("sendmmsg", (_has_any(3, _MSG_FASTOPEN),), errno.EOPNOTSUPP),
)

RULES: Mapping[Kind, tuple[Rule, ...]] = {
    "bubblewrap": _EVERYWHERE,
    "landlock": (*_EVERYWHERE, *_SHARED_HOST, *_ONLY_TCP),
    "landlock_host_network": (*_EVERYWHERE, *_SHARED_HOST),
    # Landlock lets every file in memory be executed.
    "executables": (Rule("memfd_create", (_is(1, 0, mask=_MFD_NOEXEC_SEAL),)),),
}
"""The rules of each kind of filter. What no rule refuses is allowed."""

_LOAD, _AND, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_AT_NUMBER, _AT_ARCHITECTURE, _AT_ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000

_Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def seccomp_filter(kind: Kind, machine: str = platform.machine()) -> bytes:
    """Return a filter as an array of `struct sock_filter`, ready for `prctl` and `bwrap --seccomp`.

    It refuses calls with an error, so that programs can go on without them. Calls of other architectures, i386 and
    x32 among them, fail as on a kernel that does not support them.

    Args:
        kind: What the filter is for.
        machine: The machine, as `uname -m` names it.

    Raises:
        ValueError: Filters for this machine are not supported.
    """
    if machine not in ARCHITECTURES:
        raise ValueError(f"no seccomp filter for the machine {machine}: expected {' or '.join(ARCHITECTURES)}")
    refusals = [_refusal(rule, NUMBERS[rule.call][machine]) for rule in RULES[kind] if machine in NUMBERS[rule.call]]
    program = [*_only(ARCHITECTURES[machine]), *(step for refusal in refusals for step in refusal), _stop(_ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in program)


def _only(architecture: int) -> Iterable[_Instruction]:
    """Refuse calls of other architectures, and leave the number of the call in the accumulator.

    On x86_64 a number with the bit of x32 is one. On others no call has such a number.
    """
    yield _load(_AT_ARCHITECTURE)
    yield _jump(_JUMP_IF_EQUAL, architecture, 1, 0)
    yield _stop(_FAIL | errno.ENOSYS)
    yield _load(_AT_NUMBER)
    yield _jump(_JUMP_IF_AT_LEAST, _X32, 0, 1)
    yield _stop(_FAIL | errno.ENOSYS)


def _refusal(rule: Rule, number: int) -> list[_Instruction]:
    """Return a block that begins and ends with the number of the call in the accumulator."""
    failing = _stop(_FAIL | rule.error)
    if not rule.conditions:
        return [_jump(_JUMP_IF_EQUAL, number, 0, 1), failing]
    block = [failing, _load(_AT_NUMBER)]
    for condition in reversed(rule.conditions):
        block = [*_test(condition, len(block) - 1), *block]
    return [_jump(_JUMP_IF_EQUAL, number, 0, len(block)), *block]


def _test(condition: Condition, otherwise: int) -> list[_Instruction]:
    """Return steps that go on behind themselves if the condition holds, else `otherwise` instructions further."""
    compared = []
    for position, value in enumerate(reversed(condition.values)):
        if condition.among:
            compared.append(_jump(_JUMP_IF_EQUAL, value, position, 0 if position else otherwise))
        else:
            compared.append(_jump(_JUMP_IF_EQUAL, value, position + otherwise, 0))
    loaded = [_load(_AT_ARGUMENTS + 8 * condition.argument)]
    if condition.mask != 0xFFFFFFFF:
        loaded.append((_AND, 0, 0, condition.mask))
    return [*loaded, *reversed(compared)]


def _load(offset: int) -> _Instruction:
    return _LOAD, 0, 0, offset


def _jump(code: int, operand: int, if_true: int, if_false: int) -> _Instruction:
    return code, if_true, if_false, operand


def _stop(verdict: int) -> _Instruction:
    return _RETURN, 0, 0, verdict
