"""Events by plain HTTP: pages of one Worker and of all."""

import json
import secrets
from typing import Any

import pytest

from tests.acceptance.conftest import Shaped
from tests.acceptance.daemon.conftest import Daemon

ZERO = "wo_0000000000000000"


def _page(daemon: Daemon, path: str, shaped: Shaped) -> dict[str, Any]:
    answer = daemon.call("GET", path)
    assert answer.status == 200, answer.body
    assert answer.header("Content-Type") == "application/json"
    page: dict[str, Any] = json.loads(answer.body)
    assert list(page) == ["events", "next_cursor", "has_more"]
    for envelope in page["events"]:
        shaped({"kind": "event", "envelope": envelope}, "Frame")
    return page


def _pages(daemon: Daemon, path: str, shaped: Shaped, cursor: str = ZERO) -> list[Any]:
    found = []
    while True:
        page = _page(daemon, f"{path}cursor={cursor}", shaped)
        found += page["events"]
        if not page["has_more"]:
            return found
        assert page["next_cursor"] > cursor
        cursor = page["next_cursor"]


def test_pages_have_the_same_events_as_the_socket_and_go_on_at_their_cursor(daemon: Daemon, shaped: Shaped) -> None:
    worker_id = daemon.echo()
    events = [*daemon.run(worker_id, "one"), *daemon.run(worker_id, "two")]
    path = f"/v1/workers/{worker_id}/events"
    assert _page(daemon, path, shaped)["events"] == events
    for limit in (1, 3, 256):
        assert _pages(daemon, f"{path}?limit={limit}&", shaped) == events
    last = _page(daemon, f"{path}?cursor={events[-1]['cursor']}", shaped)
    assert last == {"events": [], "next_cursor": events[-1]["cursor"], "has_more": False}


def test_a_worker_without_events_has_an_empty_page(daemon: Daemon, shaped: Shaped) -> None:
    page = _page(daemon, f"/v1/workers/{daemon.echo()}/events", shaped)
    assert page == {"events": [], "next_cursor": ZERO, "has_more": False}


def test_pages_of_all_workers_hold_the_events_of_each_in_the_order_of_their_cursors(
    daemon: Daemon, shaped: Shaped
) -> None:
    first, second = daemon.echo(), daemon.echo()
    begin = _page(daemon, "/v1/events", shaped)["events"][:1]
    for number in range(3):
        daemon.run(first, f"{number}")
        daemon.run(second, f"{number}")
    everything = _pages(daemon, "/v1/events?limit=7&", shaped)
    cursors = [event["cursor"] for event in everything]
    assert cursors == sorted(set(cursors))
    assert everything[:1] == begin or not begin
    for worker_id in (first, second):
        assert [event for event in everything if event["worker_id"] == worker_id] == daemon.log(worker_id)


def test_pages_show_what_was_selected_and_go_on_over_the_rest(daemon: Daemon, shaped: Shaped) -> None:
    team = secrets.token_hex(4)
    wanted = daemon.create(profile={"kind": "builtin", "value": "builtin:echo"}, labels={"team": team, "kind": "x"})
    other = daemon.create(profile={"kind": "builtin", "value": "builtin:echo"}, labels={"team": team})
    runs = [daemon.run(worker_id, "hello") for worker_id in (other, wanted, other)]
    chosen = [event for event in runs[1] if event["payload"]["event"] in {"text_done", "run_end"}]
    path = f"/v1/events?label=team={team}&label=kind=x&events=text_done,run_end&limit=2&"
    assert _pages(daemon, path, shaped) == chosen
    assert _pages(daemon, f"/v1/workers/{wanted}/events?events=text_done,run_end&", shaped) == chosen
    assert _pages(daemon, f"/v1/events?label=team={secrets.token_hex(4)}&", shaped) == []


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("cursor=nonsense", 400, "runtime.cursor_malformed"),
        ("cursor=", 400, "runtime.cursor_malformed"),
        ("cursor=wo_ffffffffffffffff", 410, "runtime.cursor_unknown_or_expired"),
        ("limit=257", 400, "limit_too_large"),
        ("limit=0", 400, "invalid_query"),
        ("events=snapshot", 400, "invalid_query"),
        ("events=text_done,", 400, "invalid_query"),
        ("events=", 400, "invalid_query"),
        ("heartbeat=5", 400, "invalid_query"),
    ],
)
def test_what_is_wrong_with_the_query_is_an_error_of_its_own(
    daemon: Daemon, query: str, status: int, code: str
) -> None:
    for path in (f"/v1/workers/{daemon.echo()}/events", "/v1/events"):
        answer = daemon.call("GET", f"{path}?{query}")
        assert answer.status == status, answer.body
        assert json.loads(answer.body)["error"]["code"] == code


@pytest.mark.parametrize(("path", "least"), [("transcript", 0), ("events", 1)])
def test_what_a_limit_may_be_is_said_alike_whether_it_is_too_small_or_too_large(
    daemon: Daemon, path: str, least: int
) -> None:
    worker_id = daemon.echo()
    for limit, code in ((f"{least - 1}", "invalid_query"), ("x", "invalid_query"), ("257", "limit_too_large")):
        message = daemon.call("GET", f"/v1/workers/{worker_id}/{path}?limit={limit}").refused(400, code)
        assert message == f"limit: expected a whole number, {least} to 256"


def test_labels_are_for_the_feed_of_all_workers(daemon: Daemon) -> None:
    daemon.call("GET", f"/v1/workers/{daemon.echo()}/events?label=a=b").refused(400, "invalid_query")
    daemon.call("GET", "/v1/events?label=a").refused(400, "invalid_query")


def test_the_events_of_an_unknown_worker_are_not_found(daemon: Daemon) -> None:
    path = f"/v1/workers/{daemon.unknown_worker()}/events"
    for headers in ((), ("Accept: text/event-stream",)):
        daemon.call("GET", path, None, headers).refused(404, "worker_not_found")
