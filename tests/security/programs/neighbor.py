"""A program of the daemon's user that has what the programs of a Worker must not reach.

    SECRET=… python3 neighbor.py FOLDER

It prints where all of it is as a JSON object, and ends with its input.
"""

import ctypes
import json
import os
import socket
import sys
import tempfile
import threading
from pathlib import Path

PRIVATE, CREATE, REMOVE = 0, 0o1000, 0
PAGE = 4096

folder = Path(sys.argv[1])
secret = os.environ["SECRET"]
buffer = ctypes.create_string_buffer(secret.encode())
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)


def share_memory() -> int:
    """Return the number of memory that is gone once this program has ended."""
    memory = int(libc.shmget(PRIVATE, PAGE, CREATE | 0o600))
    libc.shmat(memory, None, 0)
    libc.shmctl(memory, REMOVE, None)
    return memory


def echo(server: socket.socket) -> None:
    while True:
        data, client = server.recvfrom(PAGE)
        server.sendto(data, client)


abstract = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
abstract.bind(f"\0runtimed-neighbor-{os.getpid()}")
abstract.listen()
datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
datagram.bind(str(folder / f"datagram-{os.getpid()}"))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
threading.Thread(target=echo, args=(udp,), daemon=True).start()
master, terminal = os.openpty()

with tempfile.NamedTemporaryFile(dir="/dev/shm") as shared:
    shared.write(secret.encode())
    shared.flush()
    made = {
        "pid": os.getpid(),
        "address": ctypes.addressof(buffer),
        "secret": secret,
        "abstract": abstract.getsockname()[1:].decode(),
        "datagram": datagram.getsockname(),
        "udp": udp.getsockname()[1],
        "memory": share_memory(),
        "shared": shared.name,
        "terminal": os.ttyname(terminal),
    }
    print(json.dumps(made), flush=True)
    sys.stdin.read()
