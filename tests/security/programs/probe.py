"""Try to reach what the programs of a Worker must not reach, and print which attempts succeeded.

    python3 probe.py TARGETS

TARGETS is a JSON file, see `Targets`. The output is one line: `PROBED` and a JSON object of the name of each attempt
with an empty text, or why it failed. Each attempt runs in a process of its own, and none changes the host: where an
attempt would change something, it sets what is set already, or undoes it.
"""

import ctypes
import fcntl
import json
import os
import platform
import resource
import signal
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

ATTEMPT_S = 10
"""The most seconds that an attempt may take."""

Who = Literal["anyone", "root", "host"]
"""Who succeeds without a sandbox: any user, root at least, or as the kernel of the host is built and configured."""

IS_ARM = platform.machine() == "aarch64"
CLONE, ADD_KEY, BPF = (220, 217, 280) if IS_ARM else (56, 248, 321)
PERF_EVENT_OPEN, USERFAULTFD = (241, 282) if IS_ARM else (298, 323)
IO_URING_SETUP, OPEN_TREE, FSOPEN, CLONE3, PIDFD_GETFD = 425, 428, 430, 435, 438

NEW_MOUNT, NEW_CGROUP, NEW_UTS, NEW_IPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEW_USER, NEW_PID, NEW_NETWORK, NEW_TIME = 0x10000000, 0x20000000, 0x40000000, 0x80

AF_ALG, AF_PACKET, AF_VSOCK, AF_NETLINK = 38, 17, 40, 16
NETLINK_SOCK_DIAG, NETLINK_AUDIT, NETLINK_UEVENT, NETLINK_GENERIC = 4, 9, 15, 16
MPTCP, FAST_OPEN = 262, 0x20000000
TIOCSCTTY, TIOCSTI = 0x540E, 0x5412
PTRACE_SEIZE = 0x4206
AT_FDCWD = -100
MS_BIND, MNT_DETACH = 4096, 2
READ_ALL_OF_LOG = 3

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class Targets(NamedTuple):
    """What is attacked.

    Attributes:
        daemon: The process id of the daemon.
        port: Its port on 127.0.0.1.
        unix: The path of its Unix socket.
        token: The file with its token.
        store: Its store.
        database: The database in it.
        config: Its configuration.
        endpoint: Its endpoint file.
        other_worker: A file that another Worker has made.
        private: A file in the home of the daemon's user.
        pid: The process id of another program of this user, the neighbor.
        address: Where its memory holds `secret`, which is in its environment too.
        secret: That text.
        abstract: The name of its abstract socket.
        datagram: The path of its datagram socket.
        udp: A port on 127.0.0.1 where it echoes.
        memory: Its System V memory.
        shared: Its file in /dev/shm.
        terminal: Its terminal.
    """

    daemon: int
    port: int
    unix: str
    token: str
    store: str
    database: str
    config: str
    endpoint: str
    other_worker: str
    private: str
    pid: int
    address: int
    secret: str
    abstract: str
    datagram: str
    udp: int
    memory: int
    shared: str
    terminal: str


Try = Callable[[Targets], object]
ATTEMPTS: dict[str, tuple[Try, Who]] = {}


def by(who: Who) -> Callable[[Try], Try]:
    """Make a function an attempt, which has failed if it raises OSError."""

    def add(attempt: Try) -> Try:
        ATTEMPTS[attempt.__name__.replace("_", " ")] = (attempt, who)
        return attempt

    return add


def checked(result: int) -> int:
    """Return what a call of the C library returned. Raises OSError if that says that it failed."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def system_call(number: int, *arguments: object) -> int:
    return checked(libc.syscall(ctypes.c_long(number), *arguments))


def read(path: str) -> None:
    if not Path(path).read_bytes():
        raise OSError(f"{path} is empty")


def change(path: str) -> None:
    with Path(path).open("r+b"):
        pass


@contextmanager
def own_folder() -> Iterator[Path]:
    """Make a folder in the directory that this program runs in."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        yield Path(folder)


# What belongs to the daemon


@by("anyone")
def read_the_token(targets: Targets) -> None:
    read(targets.token)


@by("anyone")
def see_the_size_of_the_token(targets: Targets) -> None:
    Path(targets.token).stat()


@by("anyone")
def change_the_mode_of_the_token(targets: Targets) -> None:
    Path(targets.token).chmod(0o600)


@by("anyone")
def list_the_store(targets: Targets) -> None:
    if Path(targets.database) not in Path(targets.store).iterdir():
        raise OSError("the database is not there")


@by("anyone")
def make_a_file_in_the_store(targets: Targets) -> None:
    with tempfile.TemporaryFile(dir=targets.store):
        pass


@by("anyone")
def read_the_database(targets: Targets) -> None:
    read(targets.database)


@by("anyone")
def change_the_database(targets: Targets) -> None:
    change(targets.database)


@by("anyone")
def read_the_configuration(targets: Targets) -> None:
    read(targets.config)


@by("anyone")
def change_the_configuration(targets: Targets) -> None:
    change(targets.config)


@by("anyone")
def list_the_endpoint_folder(targets: Targets) -> None:
    list(Path(targets.endpoint).parent.iterdir())


@by("anyone")
def read_the_endpoint_file(targets: Targets) -> None:
    read(targets.endpoint)


@by("root")
def read_the_environment_of_the_daemon(targets: Targets) -> None:
    read(f"/proc/{targets.daemon}/environ")


@by("anyone")
def send_a_signal_to_the_daemon(targets: Targets) -> None:
    os.kill(targets.daemon, 0)


@by("anyone")
def change_the_limits_of_the_daemon(targets: Targets) -> None:
    resource.prlimit(targets.daemon, resource.RLIMIT_CORE, resource.prlimit(targets.daemon, resource.RLIMIT_CORE))


@by("anyone")
def connect_to_the_port_of_the_daemon(targets: Targets) -> None:
    socket.create_connection(("127.0.0.1", targets.port), ATTEMPT_S).close()


@by("host")
def connect_to_the_port_of_the_daemon_by_multipath_tcp(targets: Targets) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP) as client:
        client.connect(("127.0.0.1", targets.port))


@by("host")
def connect_to_the_port_of_the_daemon_by_sending(targets: Targets) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.sendto(b"GET", FAST_OPEN, ("127.0.0.1", targets.port))


@by("anyone")
def connect_to_the_socket_of_the_daemon(targets: Targets) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(targets.unix)


# Files of others, and ways around


@by("anyone")
def read_a_file_of_another_worker(targets: Targets) -> None:
    read(targets.other_worker)


@by("anyone")
def change_a_file_of_another_worker(targets: Targets) -> None:
    change(targets.other_worker)


@by("anyone")
def list_the_folders_of_all_workers(targets: Targets) -> None:
    folders = Path(targets.other_worker).parents[2]
    if len(list(folders.iterdir())) < 2:
        raise OSError("there is no other")


@by("anyone")
def read_a_file_in_the_home_of_the_user(targets: Targets) -> None:
    read(targets.private)


@by("anyone")
def change_a_file_in_the_home_of_the_user(targets: Targets) -> None:
    change(targets.private)


@by("anyone")
def read_the_shared_memory_of_another_program(targets: Targets) -> None:
    read(targets.shared)


@by("anyone")
def read_the_token_by_a_symbolic_link(targets: Targets) -> None:
    with own_folder() as folder:
        (folder / "link").symlink_to(targets.token)
        read(str(folder / "link"))


@by("anyone")
def read_the_token_by_a_hard_link(targets: Targets) -> None:
    with own_folder() as folder:
        os.link(targets.token, folder / "link")
        read(str(folder / "link"))


@by("anyone")
def move_the_file_of_another_worker_here_and_back(targets: Targets) -> None:
    with own_folder() as folder:
        Path(targets.other_worker).rename(folder / "file")
        (folder / "file").rename(targets.other_worker)


@by("anyone")
def read_the_token_by_the_root_of_another_program(targets: Targets) -> None:
    read(f"/proc/{targets.pid}/root{targets.token}")


@by("anyone")
def read_the_token_by_the_root_of_this_program(targets: Targets) -> None:
    read(f"/proc/self/root{targets.token}")


@by("host")
def read_the_token_by_the_root_of_process_one(targets: Targets) -> None:
    read(f"/proc/1/root{targets.token}")


@by("root")
def open_a_file_by_its_handle(targets: Targets) -> None:
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 136)
    checked(libc.name_to_handle_at(AT_FDCWD, b".", handle, ctypes.byref(ctypes.c_int()), 0))
    checked(libc.open_by_handle_at(os.open(".", os.O_RDONLY), handle, os.O_RDONLY))


@by("root")
def read_the_token_in_another_root(targets: Targets) -> None:
    with own_folder() as folder:
        os.chroot(folder)
        os.chroot("../" * 32)
        read(targets.token)


@by("root")
def make_a_file_among_the_programs_of_the_system(targets: Targets) -> None:
    with tempfile.TemporaryFile(dir="/usr/lib"):
        pass


@by("root")
def make_a_device(targets: Targets) -> None:
    with own_folder() as folder:
        os.mknod(folder / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))


@by("host")
def read_a_disk(targets: Targets) -> None:
    disks = [path for path in Path("/dev").iterdir() if path.is_block_device()]
    if not disks:
        raise OSError("there is no disk")
    with disks[0].open("rb") as disk:
        disk.read(1)


@by("anyone")
def list_the_devices_in_sys(targets: Targets) -> None:
    list(Path("/sys/class").iterdir())


@by("root")
def change_a_setting_of_the_kernel(targets: Targets) -> None:
    change("/proc/sys/kernel/core_pattern")


@by("anyone")
def open_the_terminal_of_another_program(targets: Targets) -> None:
    os.open(targets.terminal, os.O_RDWR | os.O_NOCTTY)


# Other processes


@by("anyone")
def send_a_signal_to_another_program(targets: Targets) -> None:
    os.kill(targets.pid, 0)


@by("anyone")
def send_a_signal_to_another_program_by_its_descriptor(targets: Targets) -> None:
    signal.pidfd_send_signal(os.pidfd_open(targets.pid), 0)


@by("root")
def trace_another_program(targets: Targets) -> None:
    checked(libc.ptrace(PTRACE_SEIZE, targets.pid, None, None))


@by("root")
def read_the_memory_of_another_program(targets: Targets) -> None:
    with Path(f"/proc/{targets.pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(targets.address)
        expect_secret(targets, memory.read(len(targets.secret)))


@by("root")
def copy_the_memory_of_another_program(targets: Targets) -> None:
    size = len(targets.secret)
    copied = ctypes.create_string_buffer(size)
    ours, theirs = ((ctypes.c_size_t * 2)(place, size) for place in (ctypes.addressof(copied), targets.address))
    checked(libc.process_vm_readv(targets.pid, ours, ctypes.c_ulong(1), theirs, ctypes.c_ulong(1), ctypes.c_ulong(0)))
    expect_secret(targets, copied.raw)


def expect_secret(targets: Targets, found: bytes) -> None:
    if found != targets.secret.encode():
        raise OSError("read something else")


@by("anyone")
def read_the_environment_of_another_program(targets: Targets) -> None:
    if targets.secret.encode() not in Path(f"/proc/{targets.pid}/environ").read_bytes():
        raise OSError("read something else")


@by("anyone")
def read_the_command_line_of_another_program(targets: Targets) -> None:
    read(f"/proc/{targets.pid}/cmdline")


@by("anyone")
def list_the_files_of_another_program(targets: Targets) -> None:
    Path(f"/proc/{targets.pid}/fd/0").readlink()


@by("root")
def take_a_file_of_another_program(targets: Targets) -> None:
    system_call(PIDFD_GETFD, os.pidfd_open(targets.pid), 0, 0)


@by("anyone")
def change_the_priority_of_another_program(targets: Targets) -> None:
    os.setpriority(os.PRIO_PROCESS, targets.pid, os.getpriority(os.PRIO_PROCESS, targets.pid))


@by("anyone")
def choose_the_processors_of_another_program(targets: Targets) -> None:
    os.sched_setaffinity(targets.pid, os.sched_getaffinity(targets.pid))


@by("anyone")
def attach_the_system_v_memory_of_another_program(targets: Targets) -> None:
    checked(-1 if libc.shmat(targets.memory, None, 0) == ctypes.c_void_p(-1).value else 0)


@by("root")
def enter_the_namespace_of_another_program(targets: Targets) -> None:
    checked(libc.setns(os.open(f"/proc/{targets.pid}/ns/net", os.O_RDONLY), 0))


# Sockets


@by("anyone")
def connect_to_an_abstract_socket(targets: Targets) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(f"\0{targets.abstract}")


@by("anyone")
def send_to_a_socket_with_a_path(targets: Targets) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", targets.datagram)


@by("anyone")
def send_to_a_socket_with_a_path_from_one_of_a_pair(targets: Targets) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.sendto(b"x", targets.datagram)


@by("anyone")
def exchange_datagrams_by_udp(targets: Targets) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(ATTEMPT_S - 2)
        client.connect(("127.0.0.1", targets.udp))
        client.send(b"x")
        client.recv(1)


def open_netlink(protocol: int) -> None:
    socket.socket(AF_NETLINK, socket.SOCK_RAW, protocol).close()


@by("anyone")
def open_generic_netlink(targets: Targets) -> None:
    open_netlink(NETLINK_GENERIC)


@by("anyone")
def open_netlink_for_the_sockets_of_the_host(targets: Targets) -> None:
    open_netlink(NETLINK_SOCK_DIAG)


@by("anyone")
def open_netlink_for_the_events_of_devices(targets: Targets) -> None:
    open_netlink(NETLINK_UEVENT)


@by("host")
def open_netlink_for_the_audit_log(targets: Targets) -> None:
    open_netlink(NETLINK_AUDIT)


@by("host")
def open_a_socket_to_the_hypervisor(targets: Targets) -> None:
    socket.socket(AF_VSOCK, socket.SOCK_STREAM).close()


@by("host")
def open_a_socket_for_the_ciphers_of_the_kernel(targets: Targets) -> None:
    socket.socket(AF_ALG, socket.SOCK_SEQPACKET).close()


@by("root")
def open_a_raw_socket(targets: Targets) -> None:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


@by("root")
def open_a_packet_socket(targets: Targets) -> None:
    socket.socket(AF_PACKET, socket.SOCK_RAW).close()


# The kernel


def unshare(flags: int) -> None:
    checked(libc.unshare(flags))


@by("host")
def unshare_a_user_namespace(targets: Targets) -> None:
    unshare(NEW_USER)


@by("host")
def unshare_a_user_and_a_network_namespace(targets: Targets) -> None:
    unshare(NEW_USER | NEW_NETWORK)


@by("root")
def unshare_a_mount_namespace(targets: Targets) -> None:
    unshare(NEW_MOUNT)


@by("root")
def unshare_a_network_namespace(targets: Targets) -> None:
    unshare(NEW_NETWORK)


@by("root")
def unshare_a_pid_namespace(targets: Targets) -> None:
    unshare(NEW_PID)


@by("root")
def unshare_the_namespaces_of_names_and_ipc(targets: Targets) -> None:
    unshare(NEW_UTS | NEW_IPC)


@by("root")
def unshare_a_cgroup_namespace(targets: Targets) -> None:
    unshare(NEW_CGROUP)


@by("host")
def unshare_a_time_namespace(targets: Targets) -> None:
    unshare(NEW_TIME)


def end_child(pid: int) -> None:
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


@by("host")
def clone_into_a_user_namespace(targets: Targets) -> None:
    end_child(system_call(CLONE, ctypes.c_ulong(NEW_USER | signal.SIGCHLD), None, None, None, None))


@by("host")
def clone3_into_a_user_namespace(targets: Targets) -> None:
    arguments = struct.pack("=8Q", NEW_USER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    end_child(system_call(CLONE3, arguments, ctypes.c_size_t(len(arguments))))


@by("root")
def mount_a_file_system(targets: Targets) -> None:
    with own_folder() as folder:
        checked(libc.mount(b"probe", bytes(folder), b"tmpfs", 0, None))
        checked(libc.umount2(bytes(folder), MNT_DETACH))


@by("root")
def bind_a_folder(targets: Targets) -> None:
    with own_folder() as folder:
        checked(libc.mount(bytes(folder), bytes(folder), None, MS_BIND, None))
        checked(libc.umount2(bytes(folder), MNT_DETACH))


@by("root")
def open_a_file_system(targets: Targets) -> None:
    system_call(FSOPEN, b"tmpfs", 0)


@by("root")
def clone_a_mount(targets: Targets) -> None:
    system_call(OPEN_TREE, AT_FDCWD, b".", 1)


@by("root")
def leave_the_control_group(targets: Targets) -> None:
    top = Path("/sys/fs/cgroup")
    groups = [path.parent for path in (*top.glob("cgroup.procs"), *top.glob("*/cgroup.procs"))]
    if not groups:
        raise OSError("there are no control groups")
    (groups[0] / "cgroup.procs").write_text("0")


@by("root")
def make_a_control_group(targets: Targets) -> None:
    top = Path("/sys/fs/cgroup")
    group = next(iter((*top.glob("cgroup.procs"), *top.glob("*/cgroup.procs"))), top / "none").parent
    made = group / f"probe-{os.getpid()}"
    made.mkdir()
    made.rmdir()


@by("root")
def set_the_name_of_the_host(targets: Targets) -> None:
    socket.sethostname(socket.gethostname())


@by("root")
def have_capabilities(targets: Targets) -> None:
    if int(status("CapEff"), 16) == 0:
        raise OSError("there are none")


@by("anyone")
def gain_privileges_by_executing_a_program(targets: Targets) -> None:
    if status("NoNewPrivs") == "1":
        raise OSError("no new privileges")


def status(field: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


@by("host")
def type_into_a_terminal(targets: Targets) -> None:
    _, terminal = os.openpty()
    os.setsid()
    fcntl.ioctl(terminal, TIOCSCTTY, 0)
    fcntl.ioctl(terminal, TIOCSTI, b"x")


@by("host")
def add_a_key_to_the_keyring(targets: Targets) -> None:
    system_call(ADD_KEY, b"user", b"probe", b"x", ctypes.c_size_t(1), -2)


@by("host")
def set_up_an_io_uring(targets: Targets) -> None:
    system_call(IO_URING_SETUP, 1, ctypes.create_string_buffer(120))


@by("host")
def open_a_performance_counter(targets: Targets) -> None:
    attributes = ctypes.create_string_buffer(struct.pack("=II", 1, 112), 112)
    system_call(PERF_EVENT_OPEN, attributes, 0, -1, -1, ctypes.c_ulong(0))


@by("host")
def load_a_table_for_bpf(targets: Targets) -> None:
    system_call(BPF, 0, ctypes.create_string_buffer(struct.pack("=IIII", 2, 4, 4, 1), 72), 72)


@by("host")
def handle_page_faults(targets: Targets) -> None:
    system_call(USERFAULTFD, 1)


@by("root")
def read_the_log_of_the_kernel(targets: Targets) -> None:
    checked(libc.klogctl(READ_ALL_OF_LOG, ctypes.create_string_buffer(4096), 4096))


def outcome(attempt: Try, targets: Targets) -> str:
    """Run an attempt in a child process, and return nothing if it succeeded, or why it failed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(ATTEMPT_S)
        os.write(writing, failure(attempt, targets).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        found = answer.read()
    _, ended = os.waitpid(pid, 0)
    return found if ended == 0 else f"broken: status {ended}"


def failure(attempt: Try, targets: Targets) -> str:
    try:
        attempt(targets)
    except OSError as error:
        return str(error) or "refused"
    except Exception as error:  # noqa: BLE001 a fault of the probe must not look like a refusal
        return f"broken: {error!r}"
    return ""


def main() -> None:
    values: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    targets = Targets(**values)
    found = {name: outcome(attempt, targets) for name, (attempt, _) in ATTEMPTS.items()}
    print(f"PROBED {json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()
