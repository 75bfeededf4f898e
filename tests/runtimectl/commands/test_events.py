"""Tailing a Worker's feed: where it begins, where it ends, and what an outage does to it."""

import base64
import hashlib
import json
import re
import signal
import socket

import pytest

DURABLE = "--runtime-id", "runtime-under-test", "--store"


def names(stdout):
    return [json.loads(line)["payload"]["event"] for line in stdout.splitlines()]


def test_a_feed_is_printed_from_its_start_up_to_now(ctl, new_worker):
    worker = new_worker()
    ctl("workers", "input", worker, "hello", "--wait")
    found = ctl("events", "tail", worker, "--from-start", "--no-follow", "-o", "jsonl")
    assert (found.returncode, found.stderr) == (0, "")
    assert names(found.stdout) == ["snapshot", "user_message", "invoke_start", "text_delta", "text_done", "run_end"]
    assert found.stdout == ctl("events", "tail", worker, "--from-start", "--no-follow", "-o", "json").stdout


def test_a_feed_begins_behind_a_cursor_and_ends_at_an_event(ctl, new_worker):
    worker = new_worker()
    ctl("workers", "input", worker, "hello", "--wait")
    found = ctl("events", "tail", worker, "--cursor", "wo_0000000000000002", "--until", "text_done", "-o", "jsonl")
    assert (found.returncode, names(found.stdout)) == (0, ["snapshot", "text_delta", "text_done"])


def test_a_feed_shows_by_default_what_comes_from_now_on(ctl, start_ctl, new_worker):
    worker = new_worker()
    ctl("workers", "input", worker, "before", "--wait")
    tail = start_ctl("events", "tail", worker, "--until", "run_end")
    tail.wait_for("snapshot")
    ctl("workers", "input", worker, "after")
    assert tail.finished() == 0
    assert "before" not in "".join(tail.out)
    assert any(line.endswith("  user_message  after\n") for line in tail.out)


def test_the_cursors_alone_are_the_names(ctl, new_worker):
    worker = new_worker()
    ctl("workers", "input", worker, "hello", "--wait")
    found = ctl("events", "tail", worker, "--from-start", "--no-follow", "-o", "name").stdout.split()
    assert found[:2] == ["wo_0000000000000000", "wo_0000000000000001"]


def test_a_feed_ends_when_the_worker_does(ctl, start_ctl, new_worker):
    worker = new_worker()
    tail = start_ctl("events", "tail", worker)
    tail.wait_for("snapshot")
    ctl("workers", "stop", worker)
    assert tail.finished() == 0
    assert tail.out[-1].endswith("  shutdown\n")
    assert ctl("events", "tail", worker).returncode == 0


def test_an_event_that_can_not_come_any_more_is_exit_1(ctl, new_worker):
    worker = new_worker()
    ctl("workers", "stop", worker)
    found = ctl("events", "tail", worker, "--from-start", "--until", "run_end")
    assert (found.returncode, found.stderr) == (1, "runtimectl: the events ended before run_end\n")


def test_waiting_for_the_end_of_a_run_that_was_cut_is_exit_1(ctl, start_ctl, new_worker):
    worker = new_worker("--profile", "builtin:shell", "--capability", "shell")
    ctl("workers", "input", worker, "sleep 600")
    tail = start_ctl("events", "tail", worker, "--from-start", "--until", "run_end")
    tail.wait_for("invoke_start")
    ctl("workers", "cancel", worker)
    assert tail.finished() == 1
    assert tail.out[-1].endswith("  run_end  result=rolled_back\n")


def test_escapes_are_neutralised_unless_they_are_wanted_raw(ctl, new_worker):
    worker = new_worker()
    ctl("workers", "input", worker, "\x1b[31mred\nline", "--wait")
    tail = ("events", "tail", worker, "--from-start", "--no-follow")
    neutral = ctl(*tail).stdout
    assert r"  text_delta  \x1b[31mred\nline" in neutral
    assert "\x1b" not in neutral
    assert "  text_delta  \x1b[31mred\nline\n" in ctl(*tail, "--raw").stdout
    assert "\x1b" not in ctl(*tail, "-o", "jsonl").stdout


def test_timestamps_say_when_an_event_arrived(ctl, new_worker):
    tail = ("events", "tail", new_worker(), "--no-follow", "--timestamps")
    assert ctl(*tail).stdout[:2] == "20"
    assert next(iter(json.loads(ctl(*tail, "-o", "jsonl").stdout))) == "received_at"


@pytest.mark.parametrize("cursor", ["nonsense", "wo_00000000000fffff", "x y&cursor=\r\nHost: elsewhere"])
def test_a_cursor_that_the_daemon_does_not_know_is_refused_with_5(ctl, new_worker, cursor):
    found = ctl("events", "tail", new_worker(), "--cursor", cursor)
    assert found.returncode == 5
    assert found.stderr.startswith("runtimectl: runtime.cursor_")


def test_an_unknown_worker_is_not_found_with_3(ctl, daemon):
    assert ctl("events", "tail", "worker-0000ffff").returncode == 3


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_feed_goes_on_after_a_restart_of_the_daemon_with_each_event_once(
    ctl, start_ctl, start_daemon, tmp_path, how
):
    first = start_daemon(*DURABLE, f"fs:{tmp_path}/store")
    worker = ctl("workers", "create", "-o", "name").stdout.strip()
    tail = start_ctl("events", "tail", worker, "-o", "jsonl")
    tail.wait_for("snapshot")
    ctl("workers", "input", worker, "hello", "--wait")
    tail.wait_for("run_end")
    first.end(how)
    tail.wait_for("reconnecting", stream="err")
    start_daemon(*DURABLE, f"fs:{tmp_path}/store")
    tail.wait_for("the feed goes on", stream="err")
    ctl("workers", "stop", worker)
    assert tail.finished() == 0
    whole = ctl("events", "tail", worker, "--from-start", "-o", "jsonl").stdout
    assert "".join(tail.out) == whole
    assert names(whole)[-1] == "shutdown"


def test_a_run_that_a_crash_cuts_is_told_as_failed(ctl, start_ctl, start_daemon, tmp_path):
    first = start_daemon(*DURABLE, f"fs:{tmp_path}/store")
    create = ("workers", "create", "--profile", "builtin:shell", "--capability", "shell", "-o", "name")
    worker = ctl(*create).stdout.strip()
    waiting = start_ctl("workers", "input", worker, "sleep 600", "--wait", "-q")
    waiting.wait_for(worker)
    first.end(signal.SIGKILL)
    start_daemon(*DURABLE, f"fs:{tmp_path}/store")
    assert waiting.finished() == 1
    (said,) = waiting.err
    assert said.startswith("runtimectl: the run ended in an error: internal: ")


def test_a_worker_that_a_restart_has_lost_ends_its_feed_with_3(ctl, start_ctl, start_daemon, env):
    first = start_daemon("--store", "memory", "--runtime-id", "runtime-of-memory")
    tail = start_ctl("events", "tail", ctl("workers", "create", "-o", "name").stdout.strip(), "-q")
    tail.wait_for("snapshot")
    first.end()
    start_daemon("--store", "memory", "--runtime-id", "runtime-of-memory")
    assert tail.finished() == 3
    assert tail.err == ["runtimectl: worker_not_found: there is no Worker worker-00000001\n"]


def test_another_runtime_at_the_same_address_is_no_continuation(ctl, start_ctl, start_daemon, tmp_path):
    socket_path = tmp_path / "runtimed.sock"
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("a-token-of-the-test")
    options = ("--listen", f"unix:{socket_path}", "--token-file", str(token))
    where = ("--url", f"unix:{socket_path}", "--token-file", str(token))
    first = start_daemon("--store", "memory", *options)
    worker = ctl("workers", "create", "-o", "name", *where).stdout.strip()
    tail = start_ctl("events", "tail", worker, "-q", *where)
    tail.wait_for("snapshot")
    first.end()
    start_daemon("--store", "memory", *options)
    ctl("workers", "create", *where)
    assert tail.finished() in {3, 5}


WORKER = (
    b'{"worker": {"worker_id": "worker-00000001", "runtime_id": "r", "status": "running", "last_event_id": "wo_0"}}'
)
HEAD = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s"


def as_worker_and_feed(frames, *, patient=False):
    """A daemon that answers the question for the Worker, and each handshake with the next of `frames` and an end.

    A patient one leaves the end to the client.
    """

    def handle(connection: socket.socket) -> None:
        asked = connection.recv(65536)
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", asked)
        if key is None:
            connection.sendall(HEAD % (len(WORKER), WORKER))
            return
        accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        connection.sendall(b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept)
        for frame in frames.pop(0):
            connection.sendall(b"\x81\x7e" + len(frame).to_bytes(2) + frame)
        while patient and connection.recv(65536):
            pass

    return handle


def event_frame(cursor, name):
    payload = {"cursor": cursor, "event_id": cursor, "worker_id": "worker-00000001", "payload": {"event": name}}
    return json.dumps({"kind": "event", "envelope": payload}).encode()


@pytest.mark.parametrize("garbage", [b"hello", b"[]", b'{"kind": "event", "envelope": {}}', b"\xff\xfe"])
def test_a_frame_that_is_none_is_exit_7(ctl, serve_raw, garbage):
    found = ctl(
        "events", "tail", "worker-00000001", "--url", serve_raw(as_worker_and_feed([[garbage]], patient=True))
    )
    assert (found.returncode, found.stdout) == (7, "")


def test_a_feed_that_breaks_off_again_and_again_goes_on_with_one_snapshot(ctl, serve_raw):
    closing = {"kind": "diagnostic", "diagnostic": {"code": "runtime.upstream_closed", "message": "going down"}}
    connections = [
        [event_frame("wo_0", "snapshot"), event_frame("wo_1", "turn_start")],
        [event_frame("wo_1", "snapshot"), event_frame("wo_2", "turn_end"), json.dumps(closing).encode()],
        [event_frame("wo_2", "snapshot"), event_frame("wo_3", "shutdown")],
    ]
    url = serve_raw(as_worker_and_feed(connections))
    found = ctl("events", "tail", "worker-00000001", "--url", url, "-o", "name")
    assert (found.returncode, found.stdout.split()) == (0, ["wo_0", "wo_1", "wo_2", "wo_3"])
    assert found.stderr.count("reconnecting") == 2
    assert "upstream_closed: going down" in found.stderr


def test_a_socket_that_speaks_no_websocket_is_exit_7(ctl, serve_raw):
    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(HEAD % (len(WORKER), WORKER))

    found = ctl("events", "tail", "worker-00000001", "--url", serve_raw(handle))
    assert found.returncode == 7
    assert "opened no feed" in found.stderr
