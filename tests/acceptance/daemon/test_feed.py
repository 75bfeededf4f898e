"""Contract section 6: one WebSocket observes one Worker, frame by frame."""

import contextlib
import json
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.acceptance.conftest import Shaped
from tests.acceptance.daemon.conftest import Daemon, Launch

ZERO = "wo_0000000000000000"
MIB = 1 << 20


def _names(envelopes: list[Any]) -> list[str]:
    return [one["payload"]["event"] for one in envelopes]


def _snapshot(envelope: Any) -> Any:
    assert envelope["payload"]["event"] == "snapshot"
    return envelope["payload"]["data"]


def test_an_unknown_worker_refuses_the_handshake(daemon: Daemon) -> None:
    unknown = daemon.unknown_worker()
    for cursor in (None, ZERO, "nonsense", "wo_ffffffffffffffff"):
        with pytest.raises(InvalidStatus) as refused, daemon.observe(unknown, cursor):
            pass
        assert refused.value.response.status_code == 404
        assert json.loads(refused.value.response.body)["error"]["code"] == "worker_not_found"


def test_a_get_without_an_upgrade_is_refused_with_an_error_object(daemon: Daemon, shaped: Shaped) -> None:
    answer = daemon.curl("GET", f"/v1/workers/{daemon.echo()}/events/ws")
    assert 400 <= answer.status < 500
    shaped(json.loads(answer.body), "Error")


def test_a_worker_without_events_has_a_snapshot_at_zero(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    with daemon.observe(worker_id) as observer:
        first = observer.envelope()
    assert (first["cursor"], first["event_id"], first["worker_id"]) == (ZERO, f"snapshot:{ZERO}", worker_id)
    data = _snapshot(first)
    assert (data["entries"], data["status"]) == ([], "idle")
    assert data["greeting"]["worker_name"]
    assert "in_flight" not in data


def test_the_first_frame_is_a_snapshot_at_the_newest_event(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    newest = daemon.run(worker_id, "hello")[-1]["cursor"]
    with daemon.observe(worker_id) as observer:
        first = observer.envelope()
    assert (first["cursor"], first["event_id"]) == (newest, f"snapshot:{newest}")
    data = _snapshot(first)
    assert data["entries"] == daemon.items(worker_id)
    assert data["status"] == "idle"
    assert "in_flight" not in data


def test_a_snapshot_at_a_cursor_is_the_state_as_it_was_then(daemon: Daemon) -> None:
    worker_id = daemon.shell()
    events = [*daemon.run(worker_id, "echo one"), *daemon.run(worker_id, "echo two")]
    items = daemon.items(worker_id)
    assert [one["content"] for one in items] == ["echo one", "one\n", "echo two", "two\n"]
    streamed, running = "", False
    for event in events:
        name, data = event["payload"]["event"], event["payload"].get("data", {})
        streamed = "" if name == "text_done" else streamed + data.get("text", "")
        running = name != "run_end"
        with daemon.observe(worker_id, event["cursor"]) as observer:
            first = observer.envelope()
        assert (first["cursor"], first["event_id"]) == (event["cursor"], f"snapshot:{event['cursor']}")
        found = _snapshot(first)
        assert found["entries"] == [one for one in items if one["cursor"] <= event["cursor"]]
        assert found["status"] == ("running" if running else "idle")
        blocks = found.get("in_flight", {"blocks": []})["blocks"]
        assert "".join(one["text"] for one in blocks if one["kind"] == "text") == streamed


def test_replay_goes_on_after_the_cursor_and_then_lives(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    events = [*daemon.run(worker_id, "one"), *daemon.run(worker_id, "two")]
    for index, event in enumerate(events):
        with daemon.observe(worker_id, event["cursor"]) as observer:
            assert observer.envelope()["event_id"] == f"snapshot:{event['cursor']}"
            assert [observer.envelope() for _ in events[index + 1 :]] == events[index + 1 :]
    with daemon.observe(worker_id, events[-1]["cursor"]) as observer:
        observer.envelope()
        ack = daemon.input(worker_id, "three")
        live = observer.up_to("run_end")
    assert live[0]["event_id"] == ack["cursor"]
    assert daemon.log(worker_id) == events + live


def test_an_event_id_is_its_cursor_and_sequences_rise(daemon: Daemon) -> None:
    first, second = daemon.echo(), daemon.echo()
    for number in range(3):
        daemon.run(first, f"{number}")
        daemon.run(second, f"{number}")
    logs = [daemon.log(one) for one in (first, second)]
    for worker_id, log in zip((first, second), logs, strict=True):
        cursors = [event["cursor"] for event in log]
        assert [event["event_id"] for event in log] == cursors
        assert cursors == sorted(set(cursors))
        assert {event["worker_id"] for event in log} == {worker_id}
        assert ZERO not in cursors
    assert not {event["cursor"] for event in logs[0]} & {event["cursor"] for event in logs[1]}


def test_a_cursor_of_another_worker_of_the_runtime_is_a_point_in_time(daemon: Daemon) -> None:
    worker_id, other = daemon.echo(), daemon.echo()
    before = daemon.run(worker_id, "before")
    foreign = daemon.run(other, "elsewhere")[-1]["cursor"]
    after = daemon.run(worker_id, "after")
    with daemon.observe(worker_id, foreign) as observer:
        first = observer.envelope()
        assert (first["cursor"], first["event_id"]) == (foreign, f"snapshot:{foreign}")
        assert [one["cursor"] for one in _snapshot(first)["entries"]] == [
            one["cursor"] for one in daemon.items(worker_id) if one["cursor"] <= before[-1]["cursor"]
        ]
        assert observer.up_to_cursor(after[-1]["cursor"]) == after


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "wo_",
        "wo_1",
        "wo_000000000000001",
        "wo_00000000000000001",
        "wo_000000000000000A",
        "WO_0000000000000001",
        "wo_000000000000000g",
        "wo_-000000000000001",
        "snapshot:wo_0000000000000001",
        "%00",
        "wo_0000000000000001%0a",
        "1",
    ],
)
def test_a_malformed_cursor_is_a_diagnostic_and_a_close(daemon: Daemon, cursor: str) -> None:
    with daemon.observe(daemon.echo(), cursor) as observer:
        frames = observer.rest()
    assert [one["kind"] for one in frames] == ["diagnostic"]
    assert frames[0]["diagnostic"]["code"] == "runtime.cursor_malformed"


def test_a_cursor_newer_than_anything_published_is_a_diagnostic_and_a_close(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    newest = int(daemon.run(worker_id, "hello")[-1]["cursor"][3:], 16)
    for sequence in (newest + 1, newest + 1_000, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        with daemon.observe(worker_id, f"wo_{sequence:016x}") as observer:
            frames = observer.rest()
        assert [one["kind"] for one in frames] == ["diagnostic"]
        assert frames[0]["diagnostic"]["code"] == "runtime.cursor_unknown_or_expired"


@pytest.mark.parametrize("message", ["hello", "", "{}", b"\0\1", b""])
def test_a_message_of_the_client_is_answered_with_observation_only_and_a_close(
    daemon: Daemon, message: str | bytes
) -> None:
    worker_id = daemon.echo()
    with daemon.unchanged(), daemon.observe(worker_id) as observer:
        observer.envelope()
        observer.connection.send(message)
        frames = observer.rest()
        assert [one["diagnostic"]["code"] for one in frames] == ["runtime.observation_only"]
        assert observer.connection.protocol.close_rcvd


def test_a_message_in_parts_is_observation_only_too(daemon: Daemon) -> None:
    with daemon.observe(daemon.echo()) as observer:
        observer.envelope()
        observer.connection.send(["one", "two", "three"])
        assert [one["diagnostic"]["code"] for one in observer.rest()] == ["runtime.observation_only"]


@pytest.mark.parametrize("message", ["x" * (MIB + 1), b"x" * (MIB + 1), ["x" * (MIB // 2)] * 3])
def test_a_message_above_1_mib_closes_the_socket_and_nothing_else(daemon: Daemon, message: Any) -> None:
    worker_id = daemon.echo()
    with daemon.observe(worker_id) as observer, daemon.observe(worker_id) as other:
        observer.envelope()
        other.envelope()
        with contextlib.suppress(ConnectionClosed):
            observer.connection.send(message)
        assert {one["diagnostic"]["code"] for one in observer.rest()} <= {
            "runtime.observation_only",
            "runtime.websocket_error",
        }
        daemon.input(worker_id, "go on")
        assert _names(other.up_to("run_end"))[0] == "user_message"


def test_pings_are_answered(daemon: Daemon) -> None:
    with daemon.observe(daemon.echo()) as observer:
        observer.envelope()
        assert observer.connection.ping(b"are you there").wait(20)


def test_a_close_is_honoured(daemon: Daemon) -> None:
    with daemon.observe(daemon.echo()) as observer:
        observer.envelope()
        observer.connection.close(1000, "enough")
        assert observer.connection.protocol.close_rcvd is not None
        assert observer.connection.protocol.close_rcvd.code == 1000


def test_nothing_is_compressed(daemon: Daemon) -> None:
    with daemon.observe(daemon.echo(), compression="deflate") as observer:
        assert observer.connection.response is not None
        assert "Sec-WebSocket-Extensions" not in observer.connection.response.headers


def test_a_shutdown_is_told_and_closes_the_socket(launch: Launch, store: str) -> None:
    daemon = launch(store=store).ready()
    worker_id = daemon.echo()
    with daemon.observe(worker_id) as first, daemon.observe(worker_id) as second:
        first.envelope()
        second.envelope()
        daemon.stop()
        for observer in (first, second):
            assert observer.rest()[-1]["diagnostic"]["code"] == "runtime.upstream_closed"
            assert observer.connection.protocol.close_rcvd


def test_a_snapshot_holds_no_more_entries_than_the_limit_and_the_newest(launch: Launch, store: str) -> None:
    daemon = launch("--max-transcript-projection-items", "3", store=store).ready()
    worker_id = daemon.echo()
    for number in range(4):
        daemon.run(worker_id, f"{number}")
    with daemon.observe(worker_id) as observer:
        entries = _snapshot(observer.envelope())["entries"]
    assert [one["sequence"] for one in entries] == [6, 7, 8]
    events = daemon.log(worker_id)
    middle = next(one for one in events if one["payload"] == {"event": "text_done", "data": {"text": "2"}})
    with daemon.observe(worker_id, middle["cursor"]) as observer:
        entries = _snapshot(observer.envelope())["entries"]
    assert [one["sequence"] for one in entries] == [4, 5, 6]


def test_a_stopped_worker_is_still_observed(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    daemon.run(worker_id, "hello")
    with daemon.observe(worker_id) as observer:
        observer.envelope()
        ack = daemon.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")
        last = observer.up_to("shutdown")[-1]
    assert last["event_id"] == ack["cursor"]
    with daemon.observe(worker_id) as observer:
        assert observer.envelope()["cursor"] == ack["cursor"]
    assert _names(daemon.log(worker_id))[-1] == "shutdown"
