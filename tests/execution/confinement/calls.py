"""A program that tries system calls, each in a process of its own, and prints the error of each as JSON.

Its arguments are a seccomp filter to install first, in hexadecimal digits (empty for none), and the number of each
system call by its name, as JSON.
"""

import array
import atexit
import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import pty
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial

FILTER, NUMBERS = bytes.fromhex(sys.argv[1]), json.loads(sys.argv[2])
NAMESPACES = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}
INVALID = ctypes.c_void_p(1)
AT_FDCWD, MSG_FASTOPEN, TIOCSTI, TIOCLINUX, MPTCP = -100, 0x20000000, 0x5412, 0x541C, 262

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    whole = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result: int = libc.syscall(NUMBERS[name], *whole)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def install(program: bytes) -> None:
    steps = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(steps))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, header):
        raise OSError(ctypes.get_errno(), "the filter was not installed")


def enter_namespace() -> None:
    call("setns", os.open("/proc/self/ns/uts", os.O_RDONLY), 0)


def clone(flags: int) -> None:
    child = call("clone", flags | 17, None, None, None, None)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def type_into_terminal() -> None:
    """Type into this process's own controlling terminal, which is allowed to everybody on older kernels."""
    _, terminal = pty.openpty()
    os.setsid()
    fcntl.ioctl(terminal, 0x540E, 0)
    fcntl.ioctl(terminal, TIOCSTI, b"x")


def control_console() -> None:
    _, terminal = pty.openpty()
    fcntl.ioctl(terminal, TIOCLINUX, array.array("b", [0] * 16))


def create(family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> None:
    libc_socket = call("socket", family, kind, protocol)
    os.close(libc_socket)


def pair(family: int, kind: int) -> None:
    call("socketpair", family, kind, 0, (ctypes.c_int * 2)())


def server() -> tuple[str, int]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    KEPT.append(listener)
    address: tuple[str, int] = listener.getsockname()
    return address


def connect_by_sendto() -> None:
    client = socket.socket()
    client.sendto(b"x", MSG_FASTOPEN, server())
    client.getpeername()


def connect_by_sendmsg() -> None:
    client = socket.socket()
    client.sendmsg([b"x"], [], MSG_FASTOPEN, server())
    client.getpeername()


def run_thread() -> None:
    thread = threading.Thread(target=KEPT.clear)
    thread.start()
    thread.join()


def run_program() -> None:
    if subprocess.run(["/bin/sh", "-c", "exit 7"], check=False).returncode != 7:
        raise OSError(errno.EIO, "the program did not run")


def talk_on_loopback() -> None:
    with socket.create_connection(server()) as client:
        client.sendall(b"x")
    client, peer = socket.socketpair()
    client.sendall(b"x")
    peer.recv(1)


def i386_call() -> None:
    """Ask for the process ID as a program of 32 bits does."""
    code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov eax, 20; int 0x80; ret
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(code)
        place = ctypes.c_char.from_buffer(page)
        result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(place))()
        del place
    if result < 0:
        raise OSError(-result, "i386")


def x32_call() -> None:
    result: int = libc.syscall(0x40000000 + 39)
    if result < 0:
        raise OSError(ctypes.get_errno(), "x32")


KEPT: list[socket.socket] = []
FOLDER = tempfile.mkdtemp()
atexit.register(shutil.rmtree, FOLDER)
NEW, FILE = f"{FOLDER}/new".encode(), f"{FOLDER}/file".encode()
os.close(os.open(FILE, os.O_CREAT))
SET_ID, CREATING = 0o4755, os.O_CREAT | os.O_WRONLY
CASES: dict[str, Callable[[], object]] = {
    **{f"unshare {name}": partial(call, "unshare", flag) for name, flag in NAMESPACES.items()},
    "unshare time": lambda: call("unshare", 0x80),
    "unshare files": lambda: call("unshare", 0x400),
    "setns": enter_namespace,
    **{f"clone {name}": partial(clone, flag) for name, flag in NAMESPACES.items()},
    "clone process": lambda: clone(0),
    "clone3": lambda: call("clone3", None, 0),
    "mount": lambda: call("mount", None, None, None, 0, None),
    "umount2": lambda: call("umount2", None, 0),
    "pivot_root": lambda: call("pivot_root", None, None),
    "fsopen": lambda: call("fsopen", None, 0),
    "fsconfig": lambda: call("fsconfig", -1, 0, None, None, 0),
    "fsmount": lambda: call("fsmount", -1, 0, 0),
    "fspick": lambda: call("fspick", AT_FDCWD, None, 0),
    "open_tree": lambda: call("open_tree", AT_FDCWD, None, 0),
    "open_tree_attr": lambda: call("open_tree_attr", AT_FDCWD, None, 0, None, 0),
    "move_mount": lambda: call("move_mount", -1, None, -1, None, 0),
    "mount_setattr": lambda: call("mount_setattr", -1, None, 0, None, 0),
    "ptrace": lambda: call("ptrace", 0, 0, None, None),
    "process_vm_readv": lambda: call("process_vm_readv", os.getpid(), None, 0, None, 0, 0),
    "process_vm_writev": lambda: call("process_vm_writev", os.getpid(), None, 0, None, 0, 0),
    "pidfd_getfd": lambda: call("pidfd_getfd", -1, 0, 0),
    "keyctl": lambda: call("keyctl", 0, -3, 0),
    "add_key": lambda: call("add_key", None, None, None, 0, 0),
    "request_key": lambda: call("request_key", None, None, None, 0),
    "bpf": lambda: call("bpf", 0, None, 0),
    "perf_event_open": lambda: call("perf_event_open", None, 0, 0, -1, 0),
    "userfaultfd": lambda: call("userfaultfd", 1),
    "io_uring_setup": lambda: call("io_uring_setup", 0, None),
    "io_uring_enter": lambda: call("io_uring_enter", -1, 0, 0, 0, None, 0),
    "io_uring_register": lambda: call("io_uring_register", -1, 0, None, 0),
    "kexec_load": lambda: call("kexec_load", 0, 99, None, 0xFF00),
    "kexec_file_load": lambda: call("kexec_file_load", -1, -1, 0, None, 0xFF00),
    "init_module": lambda: call("init_module", None, 0, None),
    "finit_module": lambda: call("finit_module", -1, None, 0),
    "delete_module": lambda: call("delete_module", None, 0),
    "open_by_handle_at": lambda: call("open_by_handle_at", -1, None, 0),
    "syslog": lambda: call("syslog", 10, None, 0),
    "quotactl": lambda: call("quotactl", 0xFF, None, 0, None),
    "quotactl_fd": lambda: call("quotactl_fd", -1, 0xFF, 0, None),
    "swapon": lambda: call("swapon", None, 0),
    "swapoff": lambda: call("swapoff", None),
    "reboot": lambda: call("reboot", 0, 0, 0, None),
    "acct": lambda: call("acct", INVALID),
    "settimeofday": lambda: call("settimeofday", INVALID, None),
    "clock_settime": lambda: call("clock_settime", 9999, None),
    "adjtimex": lambda: call("adjtimex", None),
    "clock_adjtime": lambda: call("clock_adjtime", 0, None),
    "chmod with a set-ID bit": lambda: call("chmod", FILE, SET_ID),
    "fchmod with a set-ID bit": lambda: call("fchmod", os.open(FILE, os.O_RDONLY), 0o2755),
    "fchmodat with a set-ID bit": lambda: call("fchmodat", AT_FDCWD, FILE, SET_ID),
    "fchmodat2 with a set-ID bit": lambda: call("fchmodat2", AT_FDCWD, FILE, SET_ID, 0),
    "creat with a set-ID bit": lambda: call("creat", NEW, SET_ID),
    "open with a set-ID bit": lambda: call("open", NEW, CREATING, SET_ID),
    "openat with a set-ID bit": lambda: call("openat", AT_FDCWD, NEW, CREATING, SET_ID),
    "openat2": lambda: call("openat2", AT_FDCWD, FILE, struct.pack("=QQQ", 0, 0, 0), 24),
    "mknod with a set-ID bit": lambda: call("mknod", NEW, 0o100000 | SET_ID, 0),
    "mknodat with a set-ID bit": lambda: call("mknodat", AT_FDCWD, NEW, 0o100000 | SET_ID, 0),
    "chmod": lambda: call("chmod", FILE, 0o755),
    "ioctl FS_IOC_SETFLAGS": lambda: fcntl.ioctl(os.open(FILE, os.O_RDONLY), 0x40086602, bytes(8)),
    "ioctl FS_IOC_FSSETXATTR": lambda: fcntl.ioctl(os.open(FILE, os.O_RDONLY), 0x401C5820, bytes(28)),
    "file_setattr": lambda: call("file_setattr", AT_FDCWD, FILE, bytes(32), 32, 0),
    "openat without creating": lambda: call("openat", AT_FDCWD, FILE, os.O_RDONLY, SET_ID),
    "ioctl TIOCSTI": type_into_terminal,
    "ioctl TIOCLINUX": control_console,
    "socket vsock": lambda: create(40),
    "socket packet": lambda: create(17, socket.SOCK_DGRAM),
    "socket algorithms": lambda: create(38, socket.SOCK_SEQPACKET),
    "socket raw": lambda: create(socket.AF_INET, socket.SOCK_RAW, 1),
    "socket raw, of IPv6": lambda: create(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 58),
    "socket netlink of kernel objects": lambda: create(16, socket.SOCK_RAW, 15),
    "socket netlink, generic": lambda: create(16, socket.SOCK_DGRAM, 16),
    "socket netlink of routes": lambda: create(16, socket.SOCK_RAW, 0),
    "socket UDP": lambda: create(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC),
    "socket UDP, of IPv6": lambda: create(socket.AF_INET6, socket.SOCK_DGRAM),
    "socket unix": lambda: create(socket.AF_UNIX),
    "socket TCP": lambda: create(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 6),
    "socket MPTCP": lambda: create(socket.AF_INET, socket.SOCK_STREAM, MPTCP),
    "socketpair inet": lambda: pair(socket.AF_INET, socket.SOCK_STREAM),
    "socketpair stream": lambda: pair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC),
    "socketpair datagrams": lambda: pair(socket.AF_UNIX, socket.SOCK_DGRAM),
    "sendto fast open": connect_by_sendto,
    "sendmsg fast open": connect_by_sendmsg,
    "sendmmsg fast open": lambda: call("sendmmsg", -1, None, 0, MSG_FASTOPEN),
    "prlimit64 of another": lambda: call("prlimit64", os.getppid(), 7, None, None),
    "prlimit64 of itself": lambda: call("prlimit64", 0, 7, None, None),
    "memfd_create": lambda: call("memfd_create", b"name", 0),
    "memfd_create not executable": lambda: call("memfd_create", b"name", 0x8),
    "a thread": run_thread,
    "a program": run_program,
    "loopback": talk_on_loopback,
    "interfaces": socket.if_nameindex,
}
if platform.machine() == "x86_64":
    CASES |= {"i386": i386_call, "x32": x32_call}


def attempt(case: Callable[[], object]) -> int:
    """Return the error of a case, 0 for none, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            case()
        except OSError as error:
            os._exit(error.errno or errno.EIO)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    if FILTER:
        install(FILTER)
    print(json.dumps({name: attempt(case) for name, case in CASES.items()}))
