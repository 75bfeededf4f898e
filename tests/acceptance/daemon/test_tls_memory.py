"""What connections with TLS take of the daemon's memory, before their handshake and while they are idle."""

import contextlib
import http.client
import json
import os
import socket
from pathlib import Path

from tests.acceptance.daemon.conftest import DEADLINE_S, Daemon, Launch
from tests.certificates import Authority
from tests.http.server.test_tls_transport import half_message

MIB = 2**20


def resident_bytes(daemon: Daemon) -> int:
    return int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_handshakes_that_are_not_finished_take_no_more_than_their_limit(launch: Launch, authority: Authority) -> None:
    daemon = launch(authority=authority).ready()
    daemon.call("GET", "/v1/runtime").ok("runtime")
    before, hello = resident_bytes(daemon), half_message(32_000)

    with contextlib.ExitStack() as open_:
        for _ in range(500):
            one = open_.enter_context(socket.create_connection(daemon.address, timeout=DEADLINE_S))
            with contextlib.suppress(ConnectionError):
                one.sendall(hello)
        daemon.call("GET", "/v1/runtime").ok("runtime")

        assert resident_bytes(daemon) - before < 70 * MIB


def test_an_idle_connection_keeps_no_memory_of_what_it_has_carried(launch: Launch, authority: Authority) -> None:
    daemon = launch(authority=authority).ready()
    large = json.dumps({"intent": {"kind": "task", "objective": "x" * 3 * MIB}}).encode()
    worker_id = daemon.call("POST", "/v1/workers", large).ok("worker")["worker_id"]

    with contextlib.ExitStack() as open_:
        fetch(daemon, open_, worker_id)
        before = resident_bytes(daemon)
        for _ in range(30):
            fetch(daemon, open_, worker_id)

        assert resident_bytes(daemon) - before < 40 * MIB


def fetch(daemon: Daemon, open_: contextlib.ExitStack, worker_id: str) -> None:
    """Get a large answer on a new connection, which stays open."""
    connection = open_.enter_context(contextlib.closing(http.client.HTTPConnection(daemon.host, timeout=DEADLINE_S)))
    connection.sock = daemon.dial()
    connection.request("GET", f"/v1/workers/{worker_id}", headers={"Authorization": f"Bearer {daemon.token}"})
    response = connection.getresponse()
    assert len(response.read()) > 3 * MIB
    assert response.getheader("Connection") != "close"
