"""Pings find the dead, and only them."""

import contextlib
import signal
import socket
import struct
import time

from tests.acceptance.daemon.conftest import Daemon, Launch, Until

from .conftest import DEADLINE_S

PATIENT_HEARTBEAT_S = 3.0
"""Long enough for an observer on a busy machine to answer in time."""

HEARTBEAT_S = 0.5
MAX_PINGS = 10
PING, PONG = b"\x89\x00", b"\x8a\x80\0\0\0\0"
UPGRADE = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def _observer(daemon: Daemon) -> socket.socket:
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


def test_a_daemon_that_was_stopped_drops_nobody_who_answered_meanwhile(launch: Launch) -> None:
    daemon = launch(env={"RUNTIMED_HEARTBEAT_S": str(PATIENT_HEARTBEAT_S)}).ready()
    with _observer(daemon) as connection:
        assert connection.recv(2) == PING
        daemon.process.send_signal(signal.SIGSTOP)
        connection.sendall(PONG)
        time.sleep(2.5 * PATIENT_HEARTBEAT_S)
        daemon.process.send_signal(signal.SIGCONT)
        for _ in range(3):
            assert connection.recv(2) == PING
            connection.sendall(PONG)


def test_an_observer_that_answers_no_ping_is_dropped_at_the_next_one(
    launch: Launch, store: str, until: Until
) -> None:
    daemon = launch(store=store, env={"RUNTIMED_HEARTBEAT_S": str(HEARTBEAT_S)}).ready()
    until(lambda: _pings_without_answer(daemon) == 1)  # a daemon that is late forgives: another observer is tried


def _pings_without_answer(daemon: Daemon) -> int:
    """How many pings an observer gets that answers none, until it is dropped or has had MAX_PINGS."""
    pings = 0
    with _observer(daemon) as connection, contextlib.suppress(ConnectionResetError):
        while pings < MAX_PINGS and (said := connection.recv(2)):
            assert said == PING
            pings += 1
    return pings
