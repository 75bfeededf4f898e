"""`runtimectl drain` ends the daemon once its runs are over."""

import json
import socket

import pytest

from tests.runtimectl.conftest import Ctl, Daemon, NewWorker, ServeRaw, StartCtl, StartDaemon, wait_until

LONG_RUN = "sleep 3600"


@pytest.fixture
def daemon(start_daemon: StartDaemon, env: dict[str, str]) -> Daemon:
    """A daemon that waits for its runs."""
    env["RUNTIMED_DRAIN_S"] = "3600"
    return start_daemon()


def test_a_drain_with_wait_ends_with_the_daemon(
    ctl: Ctl, start_ctl: StartCtl, daemon: Daemon, new_worker: NewWorker
) -> None:
    worker = new_worker("--profile", "builtin:shell", "--capability", "shell")
    assert ctl("workers", "input", worker, LONG_RUN).returncode == 0

    waiting = start_ctl("drain", "--wait", "-o", "json")
    waiting.wait_for('"runs"')
    assert json.loads("".join(waiting.out))["drain"]["runs"] == 1
    assert waiting.process.poll() is None
    assert ctl("workers", "interrupt", worker).returncode == 0

    assert waiting.finished() == 0
    assert daemon.process.wait(0) == 0, "the daemon has ended by then"


def test_a_drain_without_wait_says_how_many_runs_go_on(ctl: Ctl, daemon: Daemon, new_worker: NewWorker) -> None:
    worker = new_worker("--profile", "builtin:shell", "--capability", "shell")
    ctl("workers", "input", worker, LONG_RUN)

    drained = ctl("drain")

    assert drained.returncode == 0
    assert [line.split()[0] for line in drained.stdout.splitlines()] == ["Runs", "Ends"]
    assert daemon.process.poll() is None
    refused = ctl("workers", "input", worker, "more", "--timeout", "1")
    assert refused.returncode in {7, 8}
    ctl("workers", "cancel", worker)
    wait_until(lambda: daemon.process.poll() == 0, "the end of the daemon")


def test_a_drain_of_no_daemon_is_exit_6(ctl: Ctl, dead_url: str) -> None:
    found = ctl("drain", "--wait", "--url", dead_url, extra={"RUNTIMECTL_TOKEN": "a-token-of-a-user"})

    assert (found.returncode, found.stdout) == (6, "")


def test_a_wait_goes_on_when_a_proxy_cuts_the_connection(ctl: Ctl, serve_raw: ServeRaw) -> None:
    """A proxy that cuts the first feed; the second one ends with the farewell of the daemon."""
    feeds: list[str] = []
    farewell = json.dumps({"code": "runtime.upstream_closed", "message": "the Runtime is shutting down"})

    def handle(connection: socket.socket) -> None:
        head = connection.recv(65536)
        if head.startswith(b"POST /v1/runtime/drain "):
            body = json.dumps({"drain": {"runs": 0, "deadline_ms": 0}}).encode()
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
            )
            return
        assert head.startswith(b"GET /v1/events?events=run_end "), head
        feeds.append("feed")
        message = f"event: diagnostic\ndata: {farewell}\n\n" if len(feeds) > 1 else ": hello\n\n"
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + message.encode())

    found = ctl("drain", "--wait", "--url", serve_raw(handle), extra={"RUNTIMECTL_TOKEN": "a-token-of-a-user"})

    assert (found.returncode, found.stderr) == (0, "")
    assert len(feeds) == 2
