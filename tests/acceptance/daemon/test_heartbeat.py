"""Pings find the dead, and only them."""

import signal
import socket
import struct
import time
from typing import Any

from .conftest import DEADLINE_S

HEARTBEAT_S = 0.5
PING, PONG = b"\x89\x00", b"\x8a\x80\0\0\0\0"
UPGRADE = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def _observer(daemon: Any) -> socket.socket:
    """A socket that has had its snapshot."""
    connection = socket.create_connection(daemon.address, timeout=DEADLINE_S)
    connection.sendall(daemon.head(f"GET /v1/workers/{daemon.echo()}/events/ws HTTP/1.1", *UPGRADE, KEY))
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1)
    head = connection.recv(4)
    assert head[:2] == b"\x81\x7e"
    left = struct.unpack("!H", head[2:])[0]
    while left:
        left -= len(connection.recv(left))
    return connection


def test_a_daemon_that_was_stopped_drops_nobody_who_answered_meanwhile(launch: Any, store: str) -> None:
    daemon = launch(store=store, env={"RUNTIMED_HEARTBEAT_S": str(HEARTBEAT_S)}).ready()
    with _observer(daemon) as connection:
        assert connection.recv(2) == PING
        daemon.process.send_signal(signal.SIGSTOP)
        connection.sendall(PONG)
        time.sleep(4 * HEARTBEAT_S)
        daemon.process.send_signal(signal.SIGCONT)
        for _ in range(3):
            assert connection.recv(2) == PING
            connection.sendall(PONG)


def test_an_observer_that_answers_no_ping_is_dropped_at_the_next_one(launch: Any, store: str) -> None:
    daemon = launch(store=store, env={"RUNTIMED_HEARTBEAT_S": str(HEARTBEAT_S)}).ready()
    with _observer(daemon) as connection:
        assert connection.recv(2) == PING
        try:
            assert connection.recv(2) == b""
        except ConnectionResetError:
            return
