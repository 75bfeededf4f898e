"""Listening sockets in the network namespaces of sandboxes, for the daemon to accept on."""

import array
import asyncio
import contextlib
import errno
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("listener_program.py")
PYTHON = (sys.executable, "-I", "-S", "-B")

ANSWER_S = 30.0
"""How long the program may take to start and to answer one request."""

END_S = 5.0
"""How long the program may take to end before it is killed."""

MAX_PORTS = 200
"""The most ports of one sandbox; one message of the kernel carries at most 253 descriptors."""

MAX_ANSWER_BYTES = 4096
ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_PORTS * array.array("i").itemsize)


class NamespaceListeners:
    """Opens loopback ports inside sandboxes.

    A program does it, since a process with threads cannot enter a user namespace. It starts with the first request
    and ends with this object or with the daemon. If it is lost, the next request starts another.

    Args:
        python: The command that runs it, up to the file to run.
    """

    def __init__(self, python: Sequence[str] = PYTHON) -> None:
        self._python = tuple(python)
        self._program: _Program | None = None
        self._thread = ThreadPoolExecutor(1, "namespace-listeners")

    async def open(self, pid: int, ports: Sequence[int], *, inode: int | None = None) -> list[socket.socket]:
        """Listen on ports of 127.0.0.1 in the network namespace of a process.

        The loopback interface there may still be down. An open socket keeps the namespace in existence.

        Args:
            pid: A process in the sandbox.
            ports: The ports, at most MAX_PORTS.
            inode: The inode of the namespace, if it is known: another process may have got the pid by now.

        Returns:
            A listening socket for each port, in the same order. They don't block. The caller closes them.

        Raises:
            OSError: The process is gone, is in another namespace than expected or in that of the daemon, a port is
                taken, or the namespace cannot be entered. No socket is left open.
        """
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._open, pid, tuple(ports), inode)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(_discard)
            raise

    async def close(self) -> None:
        """End the program. Call it once, and `open` no more. Sockets that were returned stay open."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        self._thread.shutdown(wait=False)

    def _open(self, pid: int, ports: Sequence[int], inode: int | None) -> list[socket.socket]:
        if len(ports) > MAX_PORTS or not all(0 < port < 65536 for port in ports):
            raise OSError(errno.EINVAL, f"expected at most {MAX_PORTS} ports from 1 to 65535, got {ports}")
        if self._program is not None and self._program.has_ended:
            self._end()
        self._program = self._program or _Program(self._python)
        try:
            answer, sockets = self._program.request({"pid": pid, "ports": ports, "inode": inode})
        except OSError:
            self._end()
            raise
        return _checked(answer, sockets, len(ports))

    def _end(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            program.end()


class _Program:
    """A running `listener_program`. Its methods block."""

    def __init__(self, python: Sequence[str]) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(ANSWER_S)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*python, str(PROGRAM), str(theirs.fileno())],
                    cwd="/",
                    env={},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
        except BaseException:
            self._channel.close()
            raise

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def request(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[socket.socket]]:
        """Return an answer and the sockets that came with it. Raises OSError if there is none."""
        self._channel.send(json.dumps(request).encode())
        # socket.recv_fds would ignore the flag, and another thread may be starting a program right now
        answer, messages, _, _ = self._channel.recvmsg(MAX_ANSWER_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        if not answer:
            raise OSError(errno.EPIPE, "the program that opens sockets in sandboxes has ended")
        descriptors = array.array("i", b"".join(data for _, _, data in messages))
        return json.loads(answer), [socket.socket(fileno=descriptor) for descriptor in descriptors]

    def end(self) -> None:
        self._channel.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _checked(answer: dict[str, Any], sockets: list[socket.socket], expected: int) -> list[socket.socket]:
    if "error" in answer:
        raise OSError(answer["errno"], answer["error"])
    if len(sockets) != expected:
        _close(sockets)
        raise OSError(errno.EMFILE, "too many open files: the sockets of a sandbox could not be received")
    for sock in sockets:
        sock.setblocking(False)
    return sockets


def _discard(work: asyncio.Future[list[socket.socket]]) -> None:
    """Close the sockets of a request that was cancelled, if it succeeded."""
    with contextlib.suppress(OSError, asyncio.CancelledError):
        _close(work.result())


def _close(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
