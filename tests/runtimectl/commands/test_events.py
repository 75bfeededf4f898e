"""Events are followed and exported: where a feed begins and ends, and how it survives an outage."""

import base64
import hashlib
import json
import re
import signal
import socket
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from tests.runtimectl.conftest import DEADLINE_S, Ctl, Daemon, NewWorker, ServeRaw, StartCtl, StartDaemon, Tail, Until

DURABLE = "--runtime-id", "runtime-under-test", "--store"


def names(stdout: str) -> list[str]:
    return [json.loads(line)["payload"]["event"] for line in stdout.splitlines()]


def test_a_feed_is_printed_from_its_start_to_the_newest_event(ctl: Ctl, new_worker: NewWorker) -> None:
    worker = new_worker()
    ctl("workers", "input", worker, "hello", "--wait")
    found = ctl("events", "tail", worker, "--from-start", "--no-follow", "-o", "jsonl")
    assert (found.returncode, found.stderr) == (0, "")
    assert names(found.stdout) == ["snapshot", "user_message", "invoke_start", "text_delta", "text_done", "run_end"]
    assert found.stdout == ctl("events", "tail", worker, "--from-start", "--no-follow", "-o", "json").stdout


def test_a_feed_begins_after_a_cursor_and_ends_at_an_event(ctl: Ctl, new_worker: NewWorker) -> None:
    worker = new_worker()
    ctl("workers", "input", worker, "hello", "--wait")
    found = ctl("events", "tail", worker, "--cursor", "wo_0000000000000002", "--until", "text_done", "-o", "jsonl")
    assert (found.returncode, names(found.stdout)) == (0, ["snapshot", "text_delta", "text_done"])


def test_a_feed_shows_only_new_events_by_default(ctl: Ctl, start_ctl: StartCtl, new_worker: NewWorker) -> None:
    worker = new_worker()
    ctl("workers", "input", worker, "before", "--wait")
    tail = start_ctl("events", "tail", worker, "--until", "run_end")
    tail.wait_for("snapshot")
    ctl("workers", "input", worker, "after")
    assert tail.finished() == 0
    assert "before" not in "".join(tail.out)
    assert any(line.endswith("  user_message  after\n") for line in tail.out)


def test_the_format_name_prints_cursors(ctl: Ctl, new_worker: NewWorker) -> None:
    worker = new_worker()
    ctl("workers", "input", worker, "hello", "--wait")
    found = ctl("events", "tail", worker, "--from-start", "--no-follow", "-o", "name").stdout.split()
    assert found[:2] == ["wo_0000000000000000", "wo_0000000000000001"]


def test_a_feed_ends_when_the_worker_does(ctl: Ctl, start_ctl: StartCtl, new_worker: NewWorker) -> None:
    worker = new_worker()
    tail = start_ctl("events", "tail", worker)
    tail.wait_for("snapshot")
    ctl("workers", "stop", worker)
    assert tail.finished() == 0
    assert tail.out[-1].endswith("  shutdown\n")
    assert ctl("events", "tail", worker).returncode == 0


def test_a_worker_that_is_stopped_between_its_runs_has_not_failed(ctl: Ctl, new_worker: NewWorker) -> None:
    worker = new_worker()
    ctl("workers", "input", worker, "hello", "--wait")
    ctl("workers", "stop", worker)
    assert ctl("events", "tail", worker, "--from-start", "--until", "shutdown").returncode == 0


def test_a_feed_that_ends_without_the_awaited_event_is_exit_1(ctl: Ctl, new_worker: NewWorker) -> None:
    worker = new_worker()
    ctl("workers", "stop", worker)
    found = ctl("events", "tail", worker, "--from-start", "--until", "run_end")
    assert (found.returncode, found.stderr) == (1, "runtimectl: the events ended without run_end\n")


def test_waiting_for_the_end_of_an_interrupted_run_is_exit_1(
    ctl: Ctl, start_ctl: StartCtl, new_worker: NewWorker
) -> None:
    worker = new_worker("--profile", "builtin:shell", "--capability", "shell")
    ctl("workers", "input", worker, "sleep 600")
    tail = start_ctl("events", "tail", worker, "--from-start", "--until", "run_end")
    tail.wait_for("invoke_start")
    ctl("workers", "cancel", worker)
    assert tail.finished() == 1
    assert tail.out[-1].endswith("  run_end  result=rolled_back\n")


def test_control_characters_are_escaped_unless_raw_is_given(ctl: Ctl, new_worker: NewWorker) -> None:
    worker = new_worker()
    ctl("workers", "input", worker, "\x1b[31mred\nline", "--wait")
    tail = ("events", "tail", worker, "--from-start", "--no-follow")
    neutral = ctl(*tail).stdout
    assert r"  text_delta  \x1b[31mred\nline" in neutral
    assert "\x1b" not in neutral
    assert "  text_delta  \x1b[31mred\nline\n" in ctl(*tail, "--raw").stdout
    assert "\x1b" not in ctl(*tail, "-o", "jsonl").stdout


def test_timestamps_show_the_time_of_an_event_by_the_clock_of_the_daemon(ctl: Ctl, new_worker: NewWorker) -> None:
    worker = new_worker()
    tail = ("events", "tail", worker, "--no-follow", "--timestamps")
    created = json.loads(ctl("workers", "get", worker, "-o", "json").stdout)["worker"]["created_at_ms"]

    shown = ctl(*tail).stdout.split()[0]

    assert round(datetime.fromisoformat(shown).timestamp() * 1_000) == created
    assert json.loads(ctl(*tail, "-o", "jsonl").stdout)["timestamp_ms"] == created


@pytest.mark.parametrize("cursor", ["nonsense", "wo_00000000000fffff", "x y&cursor=\r\nHost: elsewhere"])
def test_an_unknown_cursor_is_refused_with_5(ctl: Ctl, new_worker: NewWorker, cursor: str) -> None:
    found = ctl("events", "tail", new_worker(), "--cursor", cursor)
    assert found.returncode == 5
    assert found.stderr.startswith("runtimectl: runtime.cursor_")


def test_an_unknown_worker_is_not_found_with_3(ctl: Ctl, daemon: Daemon) -> None:
    assert ctl("events", "tail", "worker-0000ffff").returncode == 3


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_feed_continues_after_a_restart_of_the_daemon_with_each_event_once(
    ctl: Ctl, start_ctl: StartCtl, start_daemon: StartDaemon, tmp_path: Path, how: signal.Signals
) -> None:
    first = start_daemon(*DURABLE, f"fs:{tmp_path}/store")
    worker = ctl("workers", "create", "-o", "name").stdout.strip()
    tail = start_ctl("events", "tail", worker, "-o", "jsonl")
    tail.wait_for("snapshot")
    ctl("workers", "input", worker, "hello", "--wait")
    tail.wait_for("run_end")
    first.end(how)
    tail.wait_for("reconnecting", stream="err")
    start_daemon(*DURABLE, f"fs:{tmp_path}/store")
    tail.wait_for("feed resumed", stream="err")
    ctl("workers", "stop", worker)
    assert tail.finished() == 0
    whole = ctl("events", "tail", worker, "--from-start", "-o", "jsonl").stdout
    assert "".join(tail.out) == whole
    assert names(whole)[-1] == "shutdown"


def test_a_run_that_a_crash_ends_is_a_failure(
    ctl: Ctl, start_ctl: StartCtl, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    first = start_daemon(*DURABLE, f"fs:{tmp_path}/store")
    create = ("workers", "create", "--profile", "builtin:shell", "--capability", "shell", "-o", "name")
    worker = ctl(*create).stdout.strip()
    waiting = start_ctl("workers", "input", worker, "sleep 600", "--wait", "-q", "-o", "name")
    waiting.wait_for(worker)
    first.end(signal.SIGKILL)
    start_daemon(*DURABLE, f"fs:{tmp_path}/store")
    assert waiting.finished() == 1
    (said,) = waiting.err
    assert said.startswith("runtimectl: the run ended in an error: internal: ")


def test_a_worker_lost_in_a_restart_ends_its_feed_with_3(
    ctl: Ctl, start_ctl: StartCtl, start_daemon: StartDaemon, env: dict[str, str]
) -> None:
    first = start_daemon("--store", "memory", "--runtime-id", "runtime-of-memory")
    tail = start_ctl("events", "tail", ctl("workers", "create", "-o", "name").stdout.strip(), "-q")
    tail.wait_for("snapshot")
    first.end()
    start_daemon("--store", "memory", "--runtime-id", "runtime-of-memory")
    assert tail.finished() == 3
    assert tail.err == ["runtimectl: worker_not_found: there is no Worker worker-00000001\n"]


def test_another_runtime_at_the_same_address_ends_the_feed(
    ctl: Ctl, start_ctl: StartCtl, start_daemon: StartDaemon, tmp_path: Path
) -> None:
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
    b'{"worker": {"worker_id": "worker-00000001", "runtime_id": "r", "status": "running", "last_cursor": "wo_0"},'
    b' "runtime": {"runtime_id": "r"}}'
)
HEAD = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s"


def as_worker_and_feed(frames: list[list[bytes]], *, patient: bool = False) -> Callable[[socket.socket], None]:
    """Return a server that answers a request with the Worker, and each handshake with the next list of frames.

    It closes the connection after them, unless it is patient.
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


def event_frame(cursor: str, name: str) -> bytes:
    payload = {"cursor": cursor, "event_id": cursor, "worker_id": "worker-00000001", "payload": {"event": name}}
    return json.dumps({"kind": "event", "envelope": payload}).encode()


@pytest.mark.parametrize("garbage", [b"hello", b"[]", b'{"kind": "event", "envelope": {}}', b"\xff\xfe"])
def test_an_invalid_frame_is_exit_7(ctl: Ctl, serve_raw: ServeRaw, garbage: bytes) -> None:
    found = ctl(
        "events", "tail", "worker-00000001", "--url", serve_raw(as_worker_and_feed([[garbage]], patient=True))
    )
    assert (found.returncode, found.stdout) == (7, "")


def test_a_feed_with_several_interruptions_has_one_snapshot(ctl: Ctl, serve_raw: ServeRaw) -> None:
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


def test_a_server_without_websockets_is_exit_7(ctl: Ctl, serve_raw: ServeRaw) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(HEAD % (len(WORKER), WORKER))

    found = ctl("events", "tail", "worker-00000001", "--url", serve_raw(handle))
    assert found.returncode == 7
    assert "did not open the feed" in found.stderr


def two_workers(ctl: Ctl, new_worker: NewWorker) -> tuple[str, str]:
    red, blue = new_worker("--label", "team=red"), new_worker("--label", "team=blue")
    ctl("workers", "input", red, "one", "--wait")
    ctl("workers", "input", blue, "two", "--wait")
    return red, blue


def test_a_tail_of_all_shows_the_events_and_ids_of_all_workers(ctl: Ctl, new_worker: NewWorker) -> None:
    red, blue = two_workers(ctl, new_worker)
    found = ctl("events", "tail", "--all", "--from-start", "--no-follow")
    assert (found.returncode, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert [line.split()[1] for line in lines] == [red] * 5 + [blue] * 5
    assert lines[5] == f"wo_0000000000000006  {blue}  user_message  two"
    both = ctl("events", "tail", "--all", "--from-start", "--until", "run_end", "--no-follow", "-o", "jsonl").stdout
    assert names(both) == ["user_message", "invoke_start", "text_delta", "text_done", "run_end"]
    behind = ctl("events", "tail", "--all", "--cursor", "wo_0000000000000008", "--until", "run_end", "-o", "name")
    assert behind.stdout.split() == ["wo_0000000000000009", "wo_000000000000000a"]


def test_a_tail_of_all_can_be_limited_to_a_label(ctl: Ctl, new_worker: NewWorker) -> None:
    _, blue = two_workers(ctl, new_worker)
    tail = ("events", "tail", "--all", "--from-start", "--until", "run_end", "--label", "team=blue", "-o", "jsonl")
    for options in ((), ("--no-follow",)):
        told = [json.loads(line) for line in ctl(*tail, *options).stdout.splitlines()]
        assert [envelope["worker_id"] for envelope in told] == [blue] * 5
    found = ctl("events", "tail", "--all", "--label", "team=green", "--from-start", "--no-follow")
    assert (found.returncode, found.stdout) == (0, "")


def test_a_tail_of_all_begins_now_and_continues_when_a_worker_ends(
    ctl: Ctl, start_ctl: StartCtl, new_worker: NewWorker
) -> None:
    red, blue = two_workers(ctl, new_worker)
    assert ctl("events", "tail", "--all", "--no-follow").stdout == ""
    tail = start_ctl("events", "tail", "--all")
    wait_until_connected(ctl, tail, red)
    ctl("workers", "stop", red)
    tail.wait_for(f"  {red}  shutdown")
    ctl("workers", "input", blue, "after")
    tail.wait_for(f"  {blue}  run_end  result=finished")
    assert tail.process.poll() is None
    assert not any(line.endswith("  user_message  one\n") for line in tail.out)


def wait_until_connected(ctl: Ctl, tail: Tail, worker: str) -> None:
    """Send inputs until the tail shows one: a tail of all has no snapshot to wait for."""
    deadline = time.monotonic() + DEADLINE_S
    while not any("system_item" in line for line in tail.out) and time.monotonic() < deadline:
        ctl("workers", "input", worker, "ping", "--system")
    tail.wait_for("system_item")


def test_the_run_of_another_worker_does_not_fail_the_one_that_ends(
    ctl: Ctl, start_ctl: StartCtl, new_worker: NewWorker
) -> None:
    shell = new_worker("--profile", "builtin:shell", "--capability", "shell")
    ctl("workers", "input", shell, "sleep 600")
    ctl("workers", "cancel", shell)
    echo = new_worker()
    ctl("workers", "input", echo, "hello", "--wait")
    until = ("events", "tail", "--all", "--from-start", "--until")
    assert ctl(*until, "text_done").returncode == 0
    assert ctl(*until, "run_end").returncode == 1


def test_a_tail_of_all_continues_after_a_restart_with_each_event_once(
    ctl: Ctl, start_ctl: StartCtl, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    first = start_daemon(*DURABLE, f"fs:{tmp_path}/store")
    worker = ctl("workers", "create", "-o", "name").stdout.strip()
    ctl("workers", "input", worker, "hello", "--wait")
    tail = start_ctl("events", "tail", "--all", "--from-start", "--until", "shutdown", "-o", "jsonl")
    tail.wait_for("run_end")
    first.end(signal.SIGKILL)
    tail.wait_for("reconnecting", stream="err")
    start_daemon(*DURABLE, f"fs:{tmp_path}/store")
    ctl("workers", "stop", worker)
    assert tail.finished() == 0
    assert "".join(tail.out) == ctl("events", "export", worker).stdout


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ((), "W: "),
        (("w", "--all"), "W: "),
        (("w", "--label", "a=b"), "--label: "),
        (("--all", "--label", "a"), "--label: "),
        (("--all", "--cursor", "wo_0", "--from-start"), "--from-start: "),
    ],
)
def test_options_that_cannot_be_combined_are_a_usage_error(
    ctl: Ctl, daemon: Daemon, args: tuple[str, ...], named: str
) -> None:
    found = ctl("events", "tail", *args)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith(f"runtimectl: {named}")


def test_an_export_is_the_same_bytes_live_and_after_a_restart(
    ctl: Ctl, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    first = start_daemon(*DURABLE, f"fs:{tmp_path}/store", "--max-event-batch-items", "4")
    worker = ctl("workers", "create", "-o", "name").stdout.strip()
    for said in ("one", "zwei Ümläute\n\x1b[31m", "3"):
        ctl("workers", "input", worker, said, "--wait")
    live = ctl("events", "export", worker)
    assert (live.returncode, live.stderr) == (0, "")
    assert "\x1b" not in live.stdout
    cursors = [json.loads(line)["cursor"] for line in live.stdout.splitlines()]
    assert cursors == [f"wo_{sequence:016x}" for sequence in range(1, 16)]
    first.end()
    start_daemon(*DURABLE, f"fs:{tmp_path}/store")
    assert ctl("events", "export", worker).stdout == live.stdout
    behind = ctl("events", "export", worker, "--cursor", cursors[9]).stdout
    assert behind == "".join(live.stdout.splitlines(keepends=True)[10:])
    assert ctl("events", "export", worker, "--cursor", cursors[-1]).stdout == ""


def test_an_export_of_a_worker_without_events_is_empty(ctl: Ctl, new_worker: NewWorker) -> None:
    found = ctl("events", "export", new_worker())
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize("args", [("worker-0000ffff",), ("worker-00000001", "--cursor", "nonsense")])
def test_an_export_of_an_unknown_worker_or_cursor_fails(
    ctl: Ctl, new_worker: NewWorker, args: tuple[str, ...]
) -> None:
    ctl("workers", "input", new_worker(), "hello", "--wait")
    found = ctl("events", "export", *args)
    assert (found.returncode, found.stdout) == (3 if len(args) == 1 else 5, "")


@pytest.mark.parametrize("args", [("export", "worker-00000001"), ("tail", "--all", "--no-follow")])
@pytest.mark.parametrize(
    ("cursor", "code"),
    [("x", "runtime.cursor_malformed"), ("wo_7fffffffffffffff", "runtime.cursor_unknown_or_expired")],
)
def test_an_invalid_or_future_cursor_is_refused_without_following(
    ctl: Ctl, new_worker: NewWorker, args: tuple[str, ...], cursor: str, code: str
) -> None:
    new_worker()
    found = ctl("events", *args, "--cursor", cursor)
    assert (found.returncode, found.stdout) == (5, "")
    assert found.stderr.startswith(f"runtimectl: {code}: cursor: ")


@pytest.mark.parametrize("args", [("tail", "--from-start", "--no-follow", "-o", "jsonl"), ("export",)])
def test_a_note_says_that_old_events_are_no_longer_kept(
    ctl: Ctl, env: dict[str, str], start_daemon: StartDaemon, until: Until, args: tuple[str, ...]
) -> None:
    env["RUNTIMED_MAX_EVENTS_PER_WORKER"] = "10"
    start_daemon()
    worker = ctl("workers", "create", "-o", "name").stdout.strip()
    for number in range(6):
        ctl("workers", "input", worker, f"{number}", "--wait")
    until(lambda: trimmed(ctl, worker) >= "wo_0000000000000014", "the retention of ten events")
    found = ctl("events", args[0], worker, *args[1:])
    events = [json.loads(line) for line in found.stdout.splitlines()]
    kept = [event["cursor"] for event in events if event["payload"]["event"] != "snapshot"]
    oldest = trimmed(ctl, worker)
    assert found.returncode == 0
    assert found.stderr == f"runtimectl: events up to {oldest} are no longer kept; beginning after them\n"
    assert 0 < len(kept) <= 10
    assert (int(kept[0][3:], 16), kept[-1]) == (int(oldest[3:], 16) + 1, "wo_000000000000001e")
    refused = ctl("events", "export", worker, "--cursor", "wo_0000000000000001")
    assert refused.returncode == 5
    assert "cursor" in refused.stderr


@pytest.mark.parametrize("ending", ["--no-follow", "--until=run_end"])
def test_a_tail_of_all_notes_that_old_events_are_no_longer_kept(
    ctl: Ctl, env: dict[str, str], start_daemon: StartDaemon, until: Until, ending: str
) -> None:
    env["RUNTIMED_MAX_EVENTS_PER_WORKER"] = "10"
    start_daemon()
    tail = ("events", "tail", "--all", "--from-start", ending, "-o", "jsonl")
    worker = ctl("workers", "create", "-o", "name").stdout.strip()
    ctl("workers", "input", worker, "0", "--wait")
    assert ctl(*tail).stderr == ""
    for number in range(1, 6):
        ctl("workers", "input", worker, f"{number}", "--wait")
    until(lambda: trimmed(ctl, worker) >= "wo_0000000000000014", "the retention of ten events")
    found = ctl(*tail)
    assert found.returncode == 0
    said = "runtimectl: some old events are no longer kept; beginning after them\n"
    assert found.stderr == said
    assert json.loads(found.stdout.splitlines()[0])["cursor"] > trimmed(ctl, worker)


def trimmed(ctl: Ctl, worker: str) -> str:
    return str(json.loads(ctl("workers", "get", worker, "-o", "json").stdout)["worker"].get("oldest_cursor", ""))
