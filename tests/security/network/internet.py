"""An Internet for the daemons of tests: the network of their host, and servers at addresses of all kinds."""

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, cast

from aiohttp import web

HOST = "45.0.0.1"
"""The address of the host of the daemons. It looks public, as do those of the servers."""

WEB, DNS = "45.0.0.2", "45.0.0.3"
NEARBY = ("10.1.2.3", "100.64.0.9", "169.254.169.254", "172.16.5.5", "192.168.7.7")
"""Addresses that a host reaches and a Worker must not: servers listen there too."""

PORT = 80
LOCAL_PORT = 8080
"""Where a server of the host itself listens, on each of its addresses."""

NAMES: Mapping[str, Sequence[str]] = {
    "web.test": (WEB,),
    "api.wild.test": (WEB,),
    "wild.test": (WEB,),
    "metadata.test": ("169.254.169.254",),
    "nearby.wild.test": ("192.168.7.7",),
    "loopback.test": ("127.0.0.1",),
    "inside.test": ("10.1.2.3",),
    "host.test": (HOST,),
    "index.test": (WEB,),
}
"""The addresses of names. `changing.test` has another one each time that it is looked up, see `Names`."""

DEADLINE_S = 60.0
NEW_NETWORK = 0x40000000
A_RECORD, IN = 1, 1

THERE = "ip link set lo up; echo ready; exec cat"
HERE = """
mount --make-rprivate /
for name in resolv.conf nsswitch.conf; do mount --bind "$FOLDER/$name" "/etc/$name"; done
ip link set lo up
ip link add inside type veth peer name outside netns "$THERE"
ip address add {host}/24 dev inside
ip link set inside up
nsenter --net="/proc/$THERE/ns/net" sh -ec '
    for address in {servers}; do ip address add $address/24 dev outside; done
    for address in {nearby}; do ip address add $address/32 dev lo; done
    ip link set outside up'
ip route add default via {web}
echo ready
exec cat
""".format(host=HOST, web=WEB, servers=f"{WEB} {DNS}", nearby=" ".join(NEARBY))

Handler = Callable[[web.BaseRequest], Coroutine[Any, Any, web.StreamResponse]]


class Network:
    """Opens sockets in the network of a process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._thread = ThreadPoolExecutor(1, "network", self._enter)

    def _enter(self) -> None:
        with Path(f"/proc/{self.pid}/ns/net").open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), NEW_NETWORK):
                raise OSError(ctypes.get_errno(), "cannot enter the network")

    def open(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        return self._thread.submit(socket.socket, socket.AF_INET, kind | socket.SOCK_NONBLOCK).result()

    def listen(self, port: int, address: str = "0.0.0.0") -> socket.socket:
        made = self.open()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen(64)
        return made

    def close(self) -> None:
        self._thread.shutdown()


class Names(asyncio.DatagramProtocol):
    """A name server.

    Attributes:
        asked: The names whose IPv4 addresses were asked for.
        changing: The addresses of `changing.test`, one for each time that it is looked up. The last one stays.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.changing: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        end = data.index(b"\0", 12)
        kind, _ = struct.unpack_from("!HH", data, end + 1)
        name = _read_name(data[12:end])
        addresses = self._addresses(name) if kind == A_RECORD else ()
        status = 0x8180 if name in NAMES or name == "changing.test" else 0x8183
        head = data[:2] + struct.pack("!5H", status, 1, len(addresses), 0, 0)
        record = struct.pack("!HHHIH", 0xC00C, A_RECORD, IN, 0, 4)
        answers = b"".join(record + socket.inet_aton(address) for address in addresses)
        self._transport.sendto(head + data[12 : end + 5] + answers, addr)

    def _addresses(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        if name != "changing.test":
            return NAMES.get(name, ())
        return [self.changing.pop(0) if len(self.changing) > 1 else self.changing[0]]


def _read_name(data: bytes) -> str:
    labels = []
    while data:
        labels.append(data[1 : 1 + data[0]].decode())
        data = data[1 + data[0] :]
    return ".".join(labels).lower()


class Internet:
    """The network of the host, what is in front of it, and a thread in which servers run.

    Attributes:
        here: The network of the host.
        there: The network of all other servers.
        names: Their name server.
        seen: The requests to the plain servers: the address that was reached, and the first line.
    """

    def __init__(self, here: int, there: int) -> None:
        self.here, self.there = Network(here), Network(there)
        self.names = Names()
        self.seen: list[tuple[str, str]] = []
        self._passing: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="internet", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        server = self.there.open(socket.SOCK_DGRAM)
        server.bind((DNS, 53))
        self._answering, _ = self.run(self._loop.create_datagram_endpoint(lambda: self.names, sock=server))
        for listener in (self.there.listen(PORT), self.here.listen(LOCAL_PORT)):
            self.serve(self._answer, listener)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            self._loop.call_soon_threadsafe(server.close)
        self._loop.call_soon_threadsafe(self._answering.close)
        self.run(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.here.close()
        self.there.close()

    @property
    def wrapper(self) -> Sequence[str]:
        """What runs a program on the host."""
        return [
            "nsenter",
            *(f"--{kind}=/proc/{self.here.pid}/ns/{name}" for kind, name in (("net", "net"), ("mount", "mnt"))),
        ]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the thread of the servers, and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S)

    def serve(self, handler: Handler, listener: socket.socket, **options: Any) -> None:
        """Serve HTTP on a listening socket. Bodies are not decoded."""

        async def begin() -> None:
            server = web.Server(handler, access_log=None, auto_decompress=False)
            self._servers.append(await self._loop.create_server(server, sock=listener, **options))

        self.run(begin())

    def exchange(self, port: int, request: bytes, end: bytes) -> bytes:
        """Send a request to a loopback port of the host, and return the answer up to its last bytes."""
        with self.here.open() as sock:
            sock.settimeout(DEADLINE_S)
            sock.connect(("127.0.0.1", port))
            sock.sendall(request)
            answer = b""
            while not answer.endswith(end) and (data := sock.recv(1 << 16)):
                answer += data
        return answer

    def open_door(self) -> int:
        """Pass the connections to a port of this machine on to the same port of the host, and return the port."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        listener.setblocking(False)
        asyncio.run_coroutine_threadsafe(self._accept(listener), self._loop)
        return int(listener.getsockname()[1])

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                client, _ = await self._loop.sock_accept(listener)
                task = asyncio.create_task(self._pass_on(client, listener.getsockname()[1]))
                self._passing.add(task)
                task.add_done_callback(self._passing.discard)

    async def _pass_on(self, client: socket.socket, port: int) -> None:
        with client, self.here.open() as server, contextlib.suppress(ConnectionError):
            await self._loop.sock_connect(server, ("127.0.0.1", port))
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._copy(client, server))
                    both.create_task(self._copy(server, client))
            except* OSError:
                pass  # one side has gone

    async def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        while data := await self._loop.sock_recv(source, 1 << 16):
            await self._loop.sock_sendall(sink, data)
        sink.shutdown(socket.SHUT_WR)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        self.seen.append((address, f"{request.method} {request.raw_path} {request.host}"))
        return web.Response(text=f"{address} {request.raw_path}", headers={"Connection": "close"})


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextlib.contextmanager
def new_internet(folder: Path) -> Iterator[Internet]:
    """Make an Internet. Raises OSError if this machine cannot have one.

    Args:
        folder: Where files for it can be written.
    """
    (folder / "resolv.conf").write_text(f"nameserver {DNS}\n")
    (folder / "nsswitch.conf").write_text("hosts: files dns\n")
    with _holder(["--net"], THERE, {}) as there:
        variables = {"THERE": str(there.pid), "FOLDER": str(folder)}
        with _holder(["--net", "--mount"], HERE, variables) as here, Internet(here.pid, there.pid) as made:
            yield made


@contextlib.contextmanager
def _holder(kinds: Sequence[str], script: str, variables: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Start a program in namespaces of its own. It ends with its input."""
    command = ["unshare", *kinds, "sh", "-ec", script]
    with subprocess.Popen(
        command, env={**os.environ, **variables}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise OSError("cannot make a network")
            yield process
        finally:
            process.communicate()
