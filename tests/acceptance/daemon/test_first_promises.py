"""What the first clients of the v1 contract were promised, from a fresh Runtime on, with strict types."""

import json
import re
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.acceptance.daemon.conftest import Daemon, Launch

SILENT = ["sh", "-c", "cat > /dev/null"]
"""A program that takes every input and says nothing."""

TELLER = ["sh", "-c", "read -r _; sleep 0.2; echo live; cat > /dev/null"]
"""A program that answers its first input with one line."""


@pytest.fixture
def fresh(tmp_path: Path, launch: Launch, store: str) -> Daemon:
    """A daemon with no Workers yet, whose default profile is a program that is silent."""
    config = tmp_path / "config.toml"
    config.write_text(
        'default_profile = "builtin:silent"\n'
        f'[profiles."builtin:silent"]\nbackend = "process"\ncommand = {json.dumps(SILENT)}\n'
        f'[profiles."builtin:teller"]\nbackend = "process"\ncommand = {json.dumps(TELLER)}\n'
    )
    return launch("--config", str(config), store=store).ready()


def test_a_task_worker_takes_its_first_input_and_is_stopped_with_numbers_where_a_strict_client_wants_them(
    fresh: Daemon,
) -> None:
    worker_id = fresh.create(intent={"kind": "task", "objective": "first"})
    ack = fresh.input(worker_id, "hello")
    detail = fresh.worker(worker_id)
    page = fresh.call("GET", f"/v1/workers/{worker_id}/transcript?start=0&limit=1").ok("transcript")
    stopped = fresh.call("POST", f"/v1/workers/{worker_id}/stop", {"reason": "done"}).ok("ack", "LifecycleAck")
    cancelled = fresh.call("POST", f"/v1/workers/{worker_id}/cancel", {}).ok("ack", "LifecycleAck")
    listed = fresh.workers()
    runtime = fresh.runtime()

    assert ack["transcript_sequence"] == 1
    assert type(ack["event_id"]) is int
    assert ack["cursor"] == f"wo_{ack['event_id']:016x}"
    assert detail["transcript_len"] == 1
    assert type(detail["last_event_id"]) is int
    assert detail["last_cursor"] == f"wo_{detail['last_event_id']:016x}"
    assert [(item["sequence"], item["content"]) for item in page["items"]] == [(1, "hello")]
    assert page["items"][0]["event_id"] == ack["event_id"]
    assert page["items"][0]["cursor"] == ack["cursor"]
    assert (stopped["status"], cancelled) == ("stopped", stopped)
    assert [worker["worker_id"] for worker in listed] == [worker_id]
    assert (runtime["worker_count"], runtime["stopped_worker_count"], runtime["active_worker_count"]) == (1, 1, 0)


def test_a_missing_token_is_unauthorized_and_the_right_one_is_served(fresh: Daemon) -> None:
    refused = fresh.call("GET", "/v1/runtime", token=None)

    assert refused.status == 401
    assert json.loads(refused.body)["error"]["code"] == "unauthorized"
    assert fresh.call("GET", "/v1/runtime").status == 200


@pytest.mark.parametrize(
    "unknown", ["worker-missing", "WORKER-00000001", "worker-ffffffff", "w%C3%B6rk", "a%2Fb", "%00", "x" * 300]
)
def test_an_id_of_any_form_that_names_no_worker_is_not_found_with_the_id(daemon: Daemon, unknown: str) -> None:
    answer = daemon.call("GET", f"/v1/workers/{unknown}")
    error = json.loads(answer.body)["error"]

    assert (answer.status, error["code"]) == (404, "worker_not_found")
    assert error["message"].isprintable()
    if re.fullmatch(r"[\w-]{1,64}", unknown):
        assert unknown in error["message"]


def test_a_blank_id_is_no_worker_id(daemon: Daemon) -> None:
    answer = daemon.call("GET", "/v1/workers/%20%20")

    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "invalid_worker_id")


def test_a_socket_gives_a_snapshot_then_what_is_said_live_with_the_cursor_that_was_published(fresh: Daemon) -> None:
    worker_id = fresh.create(profile={"kind": "builtin", "value": "builtin:teller"})
    other = fresh.create()
    with fresh.observe(worker_id) as observer:
        snapshot = observer.envelope()
        ack = fresh.input(worker_id, "go")
        fresh.input(other, "unheard")
        seen = observer.up_to("text_delta")
    live = seen[-1]

    assert snapshot["payload"]["event"] == "snapshot"
    assert live["payload"]["data"]["text"] == "live\n"
    assert live["event_id"] == live["cursor"] > ack["cursor"]
    with fresh.observe(worker_id, live["cursor"]) as observer:
        assert observer.envelope()["event_id"] == f"snapshot:{live['cursor']}"
        fresh.call("POST", f"/v1/workers/{worker_id}/stop")
        behind = observer.up_to("shutdown")
    assert live["cursor"] not in [event["cursor"] for event in behind]
    assert {event["worker_id"] for event in behind} == {worker_id}


def test_a_cursor_that_is_none_is_told_as_malformed(daemon: Daemon) -> None:
    with daemon.observe(daemon.echo(), "bad") as observer:
        assert observer.frame()["diagnostic"]["code"] == "runtime.cursor_malformed"
        with pytest.raises(ConnectionClosed):
            observer.frame()


def test_a_client_that_speaks_on_the_socket_is_told_that_it_may_only_observe(daemon: Daemon) -> None:
    with daemon.observe(daemon.echo()) as observer:
        observer.envelope()
        observer.connection.send("{}")
        assert observer.frame()["diagnostic"]["code"] == "runtime.observation_only"


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u00a0", "\u3000\x85"])
def test_blank_input_is_refused_and_leaves_nothing(daemon: Daemon, blank: str) -> None:
    worker_id = daemon.echo()

    answer = daemon.call("POST", f"/v1/workers/{worker_id}/input", {"kind": "user", "content": blank})

    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "invalid_request")
    assert daemon.items(worker_id) == []
    assert daemon.worker(worker_id)["last_event_id"] == 0


@pytest.mark.parametrize("control", ["\x1c", "\x1d", "\x1e", "\x1f"])
def test_an_input_of_a_control_that_is_no_white_space_is_taken(daemon: Daemon, control: str) -> None:
    worker_id = daemon.echo()

    answer = daemon.call("POST", f"/v1/workers/{worker_id}/input", {"kind": "user", "content": control})

    assert answer.status == 200
    assert daemon.items(worker_id)[0]["content"] == control


def test_a_transcript_page_of_none_tells_how_many_entries_there_are(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    daemon.run(worker_id, "hello")

    page = daemon.call("GET", f"/v1/workers/{worker_id}/transcript?limit=0").ok("transcript", "TranscriptProjection")

    assert (page["items"], page["total_items"], page["limit"], page["next_start"]) == ([], 2, 0, None)


@pytest.mark.parametrize("value", ["", " ", "/bin/sh", " ~/x", "/run/x.sock", "builtin:x/run/y", "x" * 2_049])
def test_a_builtin_selector_that_is_blank_or_looks_like_a_path_is_refused(daemon: Daemon, value: str) -> None:
    with daemon.unchanged():
        answer = daemon.call("POST", "/v1/workers", {"profile": {"kind": "builtin", "value": value}})

    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "invalid_profile_selector")


def test_times_are_the_same_live_in_pages_in_the_transcript_and_after_a_restart(
    tmp_path: Path, launch: Launch
) -> None:
    store = f"fs:{tmp_path / 'store'}"
    first = launch(store=store).ready()
    worker_id = first.echo()
    with first.observe(worker_id) as observer:
        observer.envelope()
        first.input(worker_id, "hello")
        live = observer.up_to("run_end")
    created = first.worker(worker_id)["created_at_ms"]
    items = first.items(worker_id)
    first.kill()
    again = launch(store=store).ready()

    assert again.log(worker_id) == live
    assert again.items(worker_id) == items
    assert again.worker(worker_id)["created_at_ms"] == created <= live[0]["timestamp_ms"]
    assert [item["timestamp_ms"] for item in items] == [
        next(event["timestamp_ms"] for event in live if event["cursor"] == item["cursor"]) for item in items
    ]
