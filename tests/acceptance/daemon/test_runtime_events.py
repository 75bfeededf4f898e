"""What the Runtime tells of itself: its events by id, its diagnostics, and a check of its store."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon.conftest import Daemon, Launch, Until

LOCAL_DEFAULTS = "runtime.local_default_resources"
TOOLS_LESS = "worker.tools_less"
SWEPT_EACH_SECOND = {"RUNTIMED_MAX_EVENT_AGE_S": "600"}


def _page(daemon: Daemon, query: str = "") -> dict[str, Any]:
    answer = daemon.curl("GET", f"/v1/runtime/events{query}")
    assert answer.status == 200, answer.body
    page: dict[str, Any] = json.loads(answer.body)
    assert set(page) == {"events", "next_after", "has_more"}
    for event in page["events"]:
        daemon.shaped(event, "RuntimeEvent")
    return page


def _kinds(events: list[Any]) -> list[str]:
    return [event["kind"] for event in events]


def _lived(daemon: Daemon) -> tuple[str, str, str, str]:
    """Two Workers, an input, a stop, a cancel; the ids and the cursors of the input and of the stop."""
    stopped, cancelled = daemon.echo(), daemon.echo()
    said = daemon.run(stopped, "hello")[0]["cursor"]
    ended = daemon.call("POST", f"/v1/workers/{stopped}/stop").ok("ack")["cursor"]
    daemon.call("POST", f"/v1/workers/{cancelled}/cancel").ok("ack")
    return stopped, cancelled, said, ended


LIFE = ["worker_created", "worker_created", "worker_input_accepted", "worker_stopped", "worker_cancelled"]


def test_what_happened_is_told_by_id(launch: Launch, store: str) -> None:
    daemon = launch(store=store).ready()
    began = int(time.time() * 1000)
    stopped, cancelled, said, ended = _lived(daemon)
    page = _page(daemon)
    assert _kinds(page["events"]) == ["runtime_started", *LIFE]
    assert [event["id"] for event in page["events"]] == [1, 2, 3, 4, 5, 6]
    assert (page["next_after"], page["has_more"]) == (6, False)
    started, first, second, accepted, over, cut = page["events"]
    assert not {"worker_id", "event_id", "cursor"} & set(started)
    assert (first["worker_id"], second["worker_id"]) == (stopped, cancelled)
    assert (accepted["worker_id"], accepted["cursor"]) == (stopped, said)
    assert (over["worker_id"], over["cursor"]) == (stopped, ended)
    assert cut["worker_id"] == cancelled
    assert all(abs(event["timestamp_ms"] - began) < 60_000 for event in page["events"])


def test_pages_make_up_all_of_them(launch: Launch, store: str) -> None:
    daemon = launch(store=store).ready()
    _lived(daemon)
    whole = _page(daemon)["events"]
    for limit in (1, 2, 5, 6):
        page = _page(daemon, f"?limit={limit}")
        found = page["events"]
        while page["has_more"]:
            assert len(page["events"]) == limit
            assert page["next_after"] == found[-1]["id"]
            page = _page(daemon, f"?after={page['next_after']}&limit={limit}")
            found += page["events"]
        assert found == whole
    assert _page(daemon, "?after=6") == {"events": [], "next_after": 6, "has_more": False}


def test_what_changes_nothing_is_no_event(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    daemon.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")
    after = _newest(daemon)
    daemon.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")
    daemon.call("POST", f"/v1/workers/{worker_id}/cancel").ok("ack")
    daemon.call("POST", f"/v1/workers/{worker_id}/input", {"kind": "user", "content": "x"}).refused(
        400, "invalid_request"
    )
    daemon.call("POST", "/v1/workers", {"name": ""}).refused(400, "invalid_request")
    assert _page(daemon, f"?after={after}")["events"] == []


def _newest(daemon: Daemon) -> int:
    page = _page(daemon)
    while page["has_more"]:
        page = _page(daemon, f"?after={page['next_after']}")
    return int(page["next_after"])


def test_the_events_of_a_durable_runtime_go_on_over_restarts(launch: Launch, tmp_path: Path) -> None:
    store = f"fs:{tmp_path / 'store'}"
    daemon = launch(store=store).ready()
    _lived(daemon)
    before = _page(daemon)["events"]
    daemon.stop()
    second = launch(store=store).ready()
    second.kill()
    third = launch(store=store).ready()
    found = _page(third)["events"]
    assert found[: len(before)] == before
    assert _kinds(found[len(before) :]) == ["runtime_stopped", "runtime_started", "runtime_started"]
    assert [event["id"] for event in found] == list(range(1, len(found) + 1))
    assert sorted(event["timestamp_ms"] for event in found) == [event["timestamp_ms"] for event in found]


def test_the_events_of_a_deleted_worker_stay(launch: Launch, store: str) -> None:
    daemon = launch(store=store).ready()
    stopped, *_ = _lived(daemon)
    before = _page(daemon)
    assert daemon.curl("DELETE", f"/v1/workers/{stopped}").status == 204
    assert _page(daemon) == before


def test_the_oldest_go_once_there_are_too_many(launch: Launch, store: str, until: Until) -> None:
    daemon = launch(store=store, env=SWEPT_EACH_SECOND | {"RUNTIMED_MAX_RUNTIME_EVENTS": "5"}).ready()
    for _ in range(10):
        daemon.create()
    until(lambda: len(_page(daemon)["events"]) <= 5)
    found = _page(daemon)["events"]
    assert found[-1]["id"] == 11
    assert [event["id"] for event in found] == list(range(12 - len(found), 12))


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "invalid_query"),
        ("limit=x", "invalid_query"),
        ("limit=257", "limit_too_large"),
        ("after=-1", "invalid_query"),
        ("after=wo_0000000000000001", "invalid_query"),
        ("after=1&after=2", "invalid_query"),
        ("before=1", "invalid_query"),
    ],
)
def test_a_page_that_can_not_be_had_is_refused(daemon: Daemon, query: str, code: str) -> None:
    message = daemon.curl("GET", f"/v1/runtime/events?{query}").refused(400, code)
    assert message.startswith(f"{query.partition('=')[0]}: ")


def _remarks(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.curl("GET", "/v1/diagnostics").ok("diagnostics")
    for remark in found:
        daemon.shaped(remark, "Diagnostic")
    return found


def test_diagnostics_are_told_oldest_first_and_counted(launch: Launch, store: str) -> None:
    daemon = launch(store=store).ready()
    assert _remarks(daemon) == []
    first = daemon.create()
    second = daemon.create(requested_capabilities=[{"name": "read"}])
    told = [(remark["code"], remark["severity"], remark["worker_id"]) for remark in _remarks(daemon)]
    assert told == [
        (LOCAL_DEFAULTS, "info", first),
        (TOOLS_LESS, "info", first),
        (LOCAL_DEFAULTS, "info", second),
    ]
    assert daemon.runtime()["diagnostic_count"] == 3


def test_diagnostics_last_over_a_restart_and_go_once_there_are_too_many(
    launch: Launch, tmp_path: Path, until: Until
) -> None:
    store = f"fs:{tmp_path / 'store'}"
    daemon = launch(store=store).ready()
    for _ in range(4):
        daemon.create()
    before = _remarks(daemon)
    daemon.kill()
    again = launch(store=store).ready()
    assert _remarks(again) == before
    again.stop()
    few = launch(store=store, env=SWEPT_EACH_SECOND | {"RUNTIMED_MAX_DIAGNOSTICS": "3"}).ready()
    newest = few.create()
    until(lambda: len(_remarks(few)) <= 3)
    assert _remarks(few)[-1]["worker_id"] == newest


@pytest.mark.parametrize("path", ["/v1/diagnostics", "/v1/runtime/check"])
def test_what_takes_no_query_refuses_one(daemon: Daemon, path: str) -> None:
    daemon.curl("GET", f"{path}?limit=1").refused(400, "invalid_query")


@pytest.mark.parametrize("path", ["/v1/diagnostics", "/v1/runtime/check", "/v1/runtime/events"])
def test_what_the_runtime_tells_of_itself_wants_the_token_and_is_for_reading(daemon: Daemon, path: str) -> None:
    daemon.curl("GET", path, token=None).refused(401, "unauthorized")
    daemon.curl("POST", path, {}).refused(405, "method_not_allowed")


def test_a_store_in_order_is_read_whole_and_nothing_is_found(launch: Launch, store: str) -> None:
    daemon = launch(store=store).ready()
    assert _check(daemon) == {"workers": 0, "entries": 0, "events": 0, "findings": []}
    worker_id, other = daemon.echo(), daemon.echo()
    for said in ("one", "two"):
        daemon.run(worker_id, said)
    daemon.run(other, "three")
    events = len(daemon.log(worker_id)) + len(daemon.log(other))
    assert _check(daemon) == {"workers": 2, "entries": 6, "events": events, "findings": []}


def test_a_check_changes_nothing(daemon: Daemon) -> None:
    daemon.run(daemon.echo(), "hello")
    with daemon.unchanged():
        _check(daemon)


def _check(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.curl("GET", "/v1/runtime/check").ok("check", "StoreCheck")
    return found


def test_damage_on_the_disk_is_found_and_named(launch: Launch, tmp_path: Path) -> None:
    store = f"fs:{tmp_path / 'store'}"
    daemon = launch(store=store).ready()
    fine, hurt = daemon.echo(), daemon.echo()
    daemon.run(fine, "hello")
    daemon.run(hurt, "a-word-that-will-be-damaged")
    daemon.stop()
    database = tmp_path / "store" / "runtime.sqlite3"
    content = database.read_bytes()
    assert content.count(b"a-word-that-will-be-damaged")
    database.write_bytes(content.replace(b"a-word-that-will-be-damaged", b"A-word-that-will-be-damaged"))

    again = launch(store=store).ready()
    found = _check(again)
    assert found["findings"]
    assert {finding["worker_id"] for finding in found["findings"]} == {hurt}
    assert found["workers"] == 2
    assert len(again.items(fine)) == 2


def test_what_others_can_read_in_the_folder_is_found(launch: Launch, tmp_path: Path) -> None:
    daemon = launch(store=f"fs:{tmp_path / 'store'}").ready()
    (tmp_path / "store" / "token").chmod(0o644)
    [finding] = _check(daemon)["findings"]
    assert "token" in finding["problem"]
    (tmp_path / "store" / "token").chmod(0o600)
    assert _check(daemon)["findings"] == []
