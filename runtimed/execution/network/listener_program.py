"""A program that opens listening sockets in the network namespaces of other processes. It imports no other module.

A process with one thread is needed to enter a user namespace, and a process of its own so that the daemon never
leaves its namespaces. It is started with the number of a descriptor, a SOCK_SEQPACKET socket, and serves one request
after the other until the other end is closed. A request is JSON: `{"pid": PID, "ports": [PORT], "inode": INODE}`, the
last one null or what the network namespace must be. The answer is `{}` with the sockets, or `{"errno", "error"}`.
"""

import ctypes
import errno
import fcntl
import json
import os
import socket
import sys

MAX_REQUEST_BYTES = 4096
BACKLOG = 128
ADDRESS = "127.0.0.1"

OVER = 1
"""The exit status of a child that met the end of the requests."""

NS_GET_USERNS = 0xB701
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
IP_FREEBIND = 15
"""Permits to bind an address that the namespace does not have yet: its loopback interface may still be down."""

_libc = ctypes.CDLL(None, use_errno=True)


def serve(channel: socket.socket) -> None:
    """Answer requests until the other end is closed.

    Each is served by a child of its own, since no process can come back. It is forked before the request arrives,
    because that takes longer than all the rest. If a child fails, the program ends: an answer could be missing.
    """
    while True:
        child = os.fork()
        if child == 0:
            os._exit(_serve_one(channel))
        _, status = os.waitpid(child, 0)
        if status:
            return


def _serve_one(channel: socket.socket) -> int:
    """Answer one request, and return the exit status."""
    request = channel.recv(MAX_REQUEST_BYTES)
    if not request:
        return OVER
    try:
        sockets = _open(**json.loads(request))
        socket.send_fds(channel, [b"{}"], [sock.fileno() for sock in sockets])
    except OSError as error:
        _refuse(channel, error)
    return 0


def _refuse(channel: socket.socket, error: OSError) -> None:
    text = f"{error.strerror or error}: {error.filename}" if error.filename else error.strerror or str(error)
    channel.send(json.dumps({"errno": error.errno or errno.EIO, "error": text}).encode())


def _open(pid: int, ports: list[int], inode: int | None) -> list[socket.socket]:
    _enter(pid, inode)
    return [_listening(port) for port in ports]


def _enter(pid: int, inode: int | None) -> None:
    """Enter the network namespace of a process, unless it is another one than expected or our own."""
    network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    found = os.fstat(network)
    if _is_own(found, "net"):
        raise OSError(errno.EPERM, f"process {pid} has no network namespace of its own")
    if inode is not None and found.st_ino != inode:
        raise OSError(errno.ESRCH, f"process {pid} is in the network namespace {found.st_ino}, not in {inode}")
    owner = fcntl.ioctl(network, NS_GET_USERNS)
    if not _is_own(os.fstat(owner), "user"):
        _setns(owner, CLONE_NEWUSER)
    _setns(network, CLONE_NEWNET)


def _is_own(namespace: os.stat_result, kind: str) -> bool:
    descriptor = os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    own = os.fstat(descriptor)
    os.close(descriptor)
    return (namespace.st_dev, namespace.st_ino) == (own.st_dev, own.st_ino)


def _setns(descriptor: int, kind: int) -> None:
    if _libc.setns(descriptor, kind):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot enter the namespace of the process: {os.strerror(number)}")


def _listening(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((ADDRESS, port))
        sock.listen(BACKLOG)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {ADDRESS}:{port}: {error.strerror}") from None
    return sock


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
