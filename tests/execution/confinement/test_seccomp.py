"""The filters of system calls: each rule is tried on this kernel, and decided by an interpreter for each machine."""

import ctypes
import errno
import json
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from runtimed.execution.confinement.seccomp import RULES, Kind, seccomp_filter
from runtimed.execution.confinement.syscalls import ARCHITECTURES, NUMBERS

CALLS = Path(__file__).with_name("calls.py")
ALLOWED = 0x7FFF0000
FAILED = 0x00050000
NAMESPACES = ("mount", "cgroup", "uts", "ipc", "user", "pid", "network")
NEWER_THAN_LIBSECCOMP = {"fchmodat2": 452, "open_tree_attr": 467, "file_setattr": 469}
SET_ID_CALLS = ("chmod", "fchmod", "fchmodat", "fchmodat2", "creat", "open", "openat", "mknod", "mknodat")

REFUSED_ALWAYS: Mapping[str, int] = {
    **dict.fromkeys((rule.call for rule in RULES["bubblewrap"] if not rule.conditions), errno.EPERM),
    **{f"unshare {name}": errno.EPERM for name in (*NAMESPACES, "time")},
    **{f"clone {name}": errno.EPERM for name in NAMESPACES},
    "clone3": errno.ENOSYS,
    "openat2": errno.ENOSYS,
    **{f"{name} with a set-ID bit": errno.EPERM for name in SET_ID_CALLS},
    "ioctl TIOCSTI": errno.EPERM,
    "ioctl FS_IOC_SETFLAGS": errno.EPERM,
    "ioctl FS_IOC_FSSETXATTR": errno.EPERM,
    "ioctl TIOCLINUX": errno.EPERM,
    "socket vsock": errno.EAFNOSUPPORT,
    "socket packet": errno.EAFNOSUPPORT,
    "socket algorithms": errno.EAFNOSUPPORT,
    "socket raw": errno.EPERM,
    "socket raw, of IPv6": errno.EPERM,
    "socket netlink of kernel objects": errno.EPROTONOSUPPORT,
    "socket netlink, generic": errno.EPROTONOSUPPORT,
    "socketpair inet": errno.EAFNOSUPPORT,
    "i386": errno.ENOSYS,
    "x32": errno.ENOSYS,
}
REFUSED_ON_A_SHARED_HOST: Mapping[str, int] = {
    "socket unix": errno.EPERM,
    "socketpair datagrams": errno.EPERM,
    "prlimit64 of another": errno.EPERM,
}
REFUSED_BESIDE_PORTS: Mapping[str, int] = {
    "socket UDP": errno.EPERM,
    "socket UDP, of IPv6": errno.EPERM,
    "socket MPTCP": errno.EPROTONOSUPPORT,
    "sendto fast open": errno.EOPNOTSUPP,
    "sendmsg fast open": errno.EOPNOTSUPP,
    "sendmmsg fast open": errno.EOPNOTSUPP,
}
REFUSED: Mapping[Kind, Mapping[str, int]] = {
    "bubblewrap": REFUSED_ALWAYS,
    "landlock": {**REFUSED_ALWAYS, **REFUSED_ON_A_SHARED_HOST, **REFUSED_BESIDE_PORTS},
    "landlock_host_network": {**REFUSED_ALWAYS, **REFUSED_ON_A_SHARED_HOST},
    "executables": {"memfd_create": errno.EPERM, "i386": errno.ENOSYS, "x32": errno.ENOSYS},
}


def system_call_numbers(architecture: int) -> dict[str, int] | None:
    """Return the numbers of the calls in the rules, as libseccomp knows them; None where it is not installed."""
    try:
        resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name_arch
    except OSError:
        return None
    resolve.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    known = {name: resolve(architecture, name.encode()) for name in NUMBERS if name not in NEWER_THAN_LIBSECCOMP}
    return known | NEWER_THAN_LIBSECCOMP


def _numbers(machine: str) -> dict[str, int]:
    return {name: each[machine] for name, each in NUMBERS.items() if machine in each}


@cache
def errors_of_calls(kind: Kind | None) -> dict[str, int]:
    """Return the error of each case in calls.py, under a filter or without one."""
    machine = platform.machine()
    numbers = system_call_numbers(ARCHITECTURES[machine]) or _numbers(machine)
    program = seccomp_filter(kind).hex() if kind else ""
    printed = subprocess.run(
        [sys.executable, "-I", CALLS, program, json.dumps(numbers)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert printed.returncode == 0, printed.stderr
    found: dict[str, int] = json.loads(printed.stdout)
    return found


def decide(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Interpret a filter for one system call, and return its verdict."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, architecture, 0, *padded)
    steps = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, operand = steps[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                accumulator &= operand
            case 0x15:
                at += if_true if accumulator == operand else if_false
            case 0x35:
                at += if_true if accumulator >= operand else if_false
            case 0x06:
                verdict: int = operand
                return verdict
            case _:
                pytest.fail(f"the kernel's interpreter would see the code {code:#x}")


@pytest.mark.skipif(platform.machine() not in ARCHITECTURES, reason="no filters for this machine")
@pytest.mark.parametrize(
    ("kind", "case"), [(kind, case) for kind, cases in REFUSED.items() for case in cases], ids=lambda value: value
)
def test_a_call_that_works_without_the_filter_is_refused_under_it(kind: Kind, case: str) -> None:
    if case not in errors_of_calls(None):
        pytest.skip("this machine has no such call")
    refusal, control = REFUSED[kind][case], errors_of_calls(None)[case]
    if control in {refusal, -11}:
        pytest.skip("this kernel refuses the call by itself, here or to this user")

    assert errors_of_calls(kind)[case] == refusal


@pytest.mark.skipif(platform.machine() not in ARCHITECTURES, reason="no filters for this machine")
@pytest.mark.parametrize("kind", RULES)
def test_a_call_that_no_rule_names_goes_on_as_without_the_filter(kind: Kind) -> None:
    free = {case: error for case, error in errors_of_calls(None).items() if case not in REFUSED[kind]}

    assert {case: errors_of_calls(kind)[case] for case in free} == free
    assert free["a thread"] == free["a program"] == free["loopback"] == free["interfaces"] == 0
    assert free["clone process"] == free["unshare files"] == free["prlimit64 of itself"] == 0


@pytest.mark.parametrize("kind", RULES)
def test_each_rule_has_a_case_that_is_tried(kind: Kind) -> None:
    tried = {case.split()[0] for case in REFUSED[kind]}

    assert {rule.call for rule in RULES[kind]} <= tried


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_numbers_of_system_calls_are_those_of_libseccomp(machine: str) -> None:
    expected = system_call_numbers(ARCHITECTURES[machine])
    if expected is None:
        pytest.skip("libseccomp is not installed")

    found = {name: numbers[machine] for name, numbers in NUMBERS.items() if machine in numbers}
    assert found == {name: number for name, number in expected.items() if number >= 0}


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["bubblewrap", "landlock", "landlock_host_network"])
def test_the_filter_of_each_machine_refuses_calls_of_other_machines(kind: Kind, machine: str) -> None:
    program = seccomp_filter(kind, machine)
    getpid = {"x86_64": 39, "aarch64": 172}[machine]
    others = {*ARCHITECTURES.values(), 0x40000003, 0x40000028} - {ARCHITECTURES[machine]}  # i386 and ARM besides

    assert decide(program, ARCHITECTURES[machine], getpid) == ALLOWED
    assert {decide(program, other, getpid) for other in others} == {FAILED | errno.ENOSYS}
    assert decide(program, ARCHITECTURES[machine], 0x40000000 | getpid) == FAILED | errno.ENOSYS


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_of_each_machine_decides_by_the_arguments(machine: str) -> None:
    def verdict(kind: Kind, call: str, *arguments: int) -> int:
        found = decide(seccomp_filter(kind, machine), ARCHITECTURES[machine], NUMBERS[call][machine], *arguments)
        return 0 if found == ALLOWED else found - FAILED

    refused = [rule for rule in RULES["landlock"] if not rule.conditions]
    assert [verdict("landlock", rule.call) for rule in refused] == [rule.error for rule in refused]
    assert verdict("bubblewrap", "openat", 0, 0, 0o100, 0o4755) == errno.EPERM
    assert verdict("bubblewrap", "openat", 0, 0, 0o100, 0o755) == 0
    assert verdict("bubblewrap", "openat", 0, 0, 0, 0o4755) == 0
    assert verdict("bubblewrap", "fchmodat", 0, 0, 0o2000) == errno.EPERM
    assert verdict("bubblewrap", "clone", 0x11) == 0
    assert verdict("bubblewrap", "clone", 0x10000011) == errno.EPERM
    assert verdict("bubblewrap", "unshare", 0x80) == errno.EPERM
    assert verdict("bubblewrap", "ioctl", 0, 0x5413) == 0
    assert verdict("bubblewrap", "ioctl", 0, 0x1_0000_5412) == errno.EPERM  # the kernel looks at 32 bits
    assert verdict("bubblewrap", "socket", 10, 0x80802) == 0
    assert verdict("bubblewrap", "socket", 10, 0x80803) == errno.EPERM
    assert verdict("bubblewrap", "socket", 16, 3, 0) == 0
    assert verdict("bubblewrap", "socket", 16, 3, 9) == errno.EPROTONOSUPPORT
    assert verdict("landlock", "socket", 2, 0x80801, 6) == 0
    assert verdict("landlock", "socket", 2, 1, 262) == errno.EPROTONOSUPPORT
    assert verdict("landlock", "socket", 2, 2) == errno.EPERM
    assert verdict("landlock_host_network", "socket", 2, 2) == 0
    assert verdict("landlock", "socketpair", 1, 5) == 0
    assert verdict("landlock", "socketpair", 1, 3) == errno.EPERM
    assert verdict("landlock", "sendto", 3, 0, 0, 0x4000) == 0
    assert verdict("landlock", "sendto", 3, 0, 0, 0x20004000) == errno.EOPNOTSUPP
    assert verdict("landlock", "prlimit64", 0, 7) == 0
    assert verdict("landlock", "prlimit64", os.getpid(), 7) == errno.EPERM
    assert verdict("executables", "memfd_create", 0, 0x9) == 0
    assert verdict("executables", "memfd_create", 0, 0x1) == errno.EPERM


def test_a_machine_without_a_table_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="no seccomp filter for the machine riscv64: expected x86_64 or aarch64"):
        seccomp_filter("bubblewrap", "riscv64")
