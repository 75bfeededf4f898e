"""The numbers of the system calls that filters name.

Those of x86_64 are in the kernel's arch/x86/entry/syscalls/syscall_64.tbl, those of aarch64 in its generic table,
include/uapi/asm-generic/unistd.h. From 424 on they are the same everywhere.
"""

from collections.abc import Mapping

ARCHITECTURES: Mapping[str, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""What seccomp calls the architecture of each machine: AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64."""

_X86_64_AND_AARCH64 = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "delete_module": (176, 106),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "finit_module": (313, 273),
    "init_module": (175, 105),
    "ioctl": (16, 29),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "mknodat": (259, 33),
    "mount": (165, 40),
    "open_by_handle_at": (304, 265),
    "openat": (257, 56),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "sendmmsg": (307, 269),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "setgroups": (116, 159),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_EVERYWHERE = {
    "clone3": 435,
    "fchmodat2": 452,
    "file_setattr": 469,
    "fsconfig": 431,
    "fsmount": 432,
    "fsopen": 430,
    "fspick": 433,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "io_uring_setup": 425,
    "mount_setattr": 442,
    "move_mount": 429,
    "open_tree": 428,
    "openat2": 437,
    "open_tree_attr": 467,
    "pidfd_getfd": 438,
    "quotactl_fd": 443,
}
_ONLY_X86_64 = {"chmod": 90, "creat": 85, "mknod": 133, "open": 2}
NUMBERS: Mapping[str, Mapping[str, int]] = {
    **{name: {"x86_64": x86, "aarch64": arm} for name, (x86, arm) in _X86_64_AND_AARCH64.items()},
    **{name: {"x86_64": number, "aarch64": number} for name, number in _EVERYWHERE.items()},
    **{name: {"x86_64": number} for name, number in _ONLY_X86_64.items()},
}
"""The number of each call, by name and machine. A machine that has no such call is left out."""
