"""Many observers of a daemon in one process. It reads commands from stdin, and answers each with a line on stdout.

The first line is the plan: host, port, token, observers (each a worker and a cursor or null), resume (reconnect with
the last cursor when a connection ends), connections (how many idle HTTP connections to keep open), receive_buffer
(bytes, or null), pace (bytes a second that each observer reads, or null). The commands are `state`, `report`, `stall`
and `read` (stop reading, resume reading), `hold` and `answer` (hold pongs back, send them). It exits at the end of
stdin.
"""

import asyncio
import contextlib
import hashlib
import json
import resource
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
RETRY_S = 0.1
PIECE_BYTES = 2**14
"""The bytes that an observer with a pace reads at a time."""

HANDSHAKES = 100
"""The most handshakes at the same time."""


@dataclass
class Orders:
    """The current orders for all observers."""

    reading: asyncio.Event
    answering: bool = True
    handshakes: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(HANDSHAKES))


class Observer:
    """One observer, and what it has seen: event sequences, a digest of the text, and how connections ended."""

    def __init__(self, plan: dict[str, Any], worker: str, cursor: str | None, orders: Orders) -> None:
        self.plan, self.worker, self.cursor, self.orders = plan, worker, cursor, orders
        self.start: int | None = None
        self.sequences: list[int] = []
        self.text = hashlib.sha256()
        self.characters = 0
        self.names: Counter[str] = Counter()
        self.pings: list[float] = []
        self.held: list[bytes] = []
        self.diagnostic: str | None = None
        self.ends: list[dict[str, Any]] = []
        self.connected = False
        self.writer: asyncio.StreamWriter | None = None

    @property
    def newest(self) -> int:
        """The sequence up to which it has seen everything."""
        return self.sequences[-1] if self.sequences else self.start or 0

    def report(self) -> dict[str, Any]:
        return {
            "worker": self.worker,
            "start": self.start,
            "sequences": self.sequences,
            "names": self.names,
            "characters": self.characters,
            "text": self.text.hexdigest(),
            "ends": self.ends,
        }

    async def live(self) -> None:
        """Observe, and reconnect if the plan says so, until the cursor has expired."""
        while True:
            self.diagnostic = None
            end: dict[str, Any] = {"code": None, "reason": None}
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                end = await self.observe()
            if self.connected or self.diagnostic:
                self.ends.append(end | {"diagnostic": self.diagnostic})
            self.connected = False
            if not self.plan["resume"] or self.diagnostic == "runtime.cursor_expired":
                return
            await asyncio.sleep(RETRY_S)

    async def observe(self) -> dict[str, Any]:
        """Read one connection until its close frame."""
        async with self.orders.handshakes:
            reader, writer = await connect(self.plan)
            self.writer = writer
            await self.shake_hands(reader, writer)
        try:
            while True:
                await self.orders.reading.wait()
                opcode, payload = await frame(reader, self.plan["pace"])
                if opcode == TEXT:
                    self.take(json.loads(payload))
                elif opcode == PING:
                    self.answer(payload)
                elif opcode == CLOSE:
                    self.send(CLOSE, payload)
                    return {"code": int.from_bytes(payload[:2], "big"), "reason": payload[2:].decode()}
        finally:
            writer.close()

    async def shake_hands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = f"?cursor={self.cursor}" if self.cursor else ""
        lines = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        lines.append(f"Sec-WebSocket-Key: {'A' * 22}==")
        writer.write(head(self.plan, f"/v1/workers/{self.worker}/events/ws{query}", *lines))
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(answer)

    def take(self, value: dict[str, Any]) -> None:
        """Record one text frame. A snapshot must be the first one of a connection."""
        if value["kind"] == "diagnostic":
            self.diagnostic = value["diagnostic"]["code"]
            return
        envelope = value["envelope"]
        sequence = int(envelope["cursor"][3:], 16)
        self.cursor = envelope["cursor"]
        if envelope["event_id"].startswith("snapshot:"):
            self.start = sequence if self.start is None else self.start
            self.connected = True
            return
        self.sequences.append(sequence)
        self.names[envelope["payload"]["event"]] += 1
        if envelope["payload"]["event"] == "text_delta":
            text = envelope["payload"]["data"]["text"]
            self.text.update(text.encode())
            self.characters += len(text)

    def answer(self, payload: bytes) -> None:
        self.pings.append(time.monotonic())
        if self.orders.answering:
            self.send(PONG, payload)
        else:
            self.held.append(payload)

    def send(self, opcode: int, payload: bytes) -> None:
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload)

    def release(self) -> None:
        """Send the pongs that were held back."""
        for payload in self.held:
            self.send(PONG, payload)
        self.held.clear()


class Idle:
    """An idle connection: it has had one response, and stays open."""

    def __init__(self) -> None:
        self.open = False

    async def live(self, plan: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await connect(plan)
            writer.write(head(plan, "/v1/runtime"))
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().partition(b"content-length: ")[2].split(b"\r")[0])
            await reader.readexactly(length)
            self.open = True
            await reader.read(1)
            writer.close()
        self.open = False


async def connect(plan: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = socket.socket()
    try:
        sock.setblocking(False)
        if plan["receive_buffer"]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, plan["receive_buffer"])
        await asyncio.get_running_loop().sock_connect(sock, (plan["host"], plan["port"]))
        return await asyncio.open_connection(sock=sock)
    except BaseException:
        sock.close()
        raise


def head(plan: dict[str, Any], path: str, *headers: str) -> bytes:
    host = f"Host: {plan['host']}:{plan['port']}"
    lines = [f"GET {path} HTTP/1.1", host, f"Authorization: Bearer {plan['token']}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def frame(reader: asyncio.StreamReader, pace: int | None) -> tuple[int, bytes]:
    """Return opcode and payload of the next frame. The daemon's are unfragmented and unmasked."""
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length >= 126:
        length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
    return first & 0x0F, await (reader.readexactly(length) if pace is None else slowly(reader, length, pace))


async def slowly(reader: asyncio.StreamReader, length: int, pace: int) -> bytes:
    """Read a number of bytes, in pieces."""
    data = b""
    while len(data) < length:
        piece = await reader.readexactly(min(PIECE_BYTES, length - len(data)))
        await asyncio.sleep(len(piece) / pace)
        data += piece
    return data


def state(observers: list[Observer], idle: list[Idle]) -> dict[str, Any]:
    return {
        "connected": sum(one.connected for one in observers),
        "least": min((one.newest for one in observers), default=0),
        "pings": min((len(one.pings) for one in observers), default=0),
        "held": min((len(one.held) for one in observers), default=0),
        "ends": sum(len(one.ends) for one in observers),
        "idle": sum(one.open for one in idle),
    }


def obey(command: str, observers: list[Observer], idle: list[Idle], orders: Orders) -> Any:
    """Carry out a command, and return its answer."""
    if command == "report":
        return [one.report() for one in observers]
    if command in {"stall", "read"}:
        (orders.reading.clear if command == "stall" else orders.reading.set)()
    if command in {"hold", "answer"}:
        orders.answering = command == "answer"
    if command == "answer":
        for one in observers:
            one.release()
    return state(observers, idle)


async def main() -> None:
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    plan = json.loads(await stdin.readline())
    orders = Orders(asyncio.Event())
    orders.reading.set()
    observers = [Observer(plan, worker, cursor, orders) for worker, cursor in plan["observers"]]
    idle = [Idle() for _ in range(plan["connections"])]
    tasks = [asyncio.create_task(one.live()) for one in observers]
    tasks += [asyncio.create_task(one.live(plan)) for one in idle]
    while line := await stdin.readline():
        print(json.dumps(obey(line.decode().strip(), observers, idle, orders)), flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main())
