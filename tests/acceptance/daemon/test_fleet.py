"""The socket of all Workers, and what an observer may ask for besides."""

import json
import secrets

import pytest
from websockets.exceptions import InvalidStatus

from tests.acceptance.daemon.conftest import Daemon

ZERO = "wo_0000000000000000"


def test_all_workers_are_observed_from_the_head_on_without_snapshots(daemon: Daemon) -> None:
    first, second = daemon.echo(), daemon.echo()
    daemon.run(first, "before")
    with daemon.observe_all() as observer:
        runs = [*daemon.run(first, "one"), *daemon.run(second, "two")]
        assert [observer.envelope() for _ in runs] == runs


def test_all_workers_are_observed_behind_a_cursor_and_by_label_and_name(daemon: Daemon) -> None:
    profile = {"kind": "builtin", "value": "builtin:echo"}
    mark = secrets.token_hex(4)
    chosen = daemon.create(profile=profile, labels={"test": mark})
    events = [event for text in "abc" for event in daemon.run(chosen, text)]
    daemon.run(daemon.echo(), "somebody else")
    query = f"?cursor={ZERO}&label=test={mark}&events=text_done"
    with daemon.observe_all(query) as observer:
        wanted = [event for event in events if event["payload"]["event"] == "text_done"]
        assert [observer.envelope() for _ in wanted] == wanted
        live = daemon.run(chosen, "d")
        assert observer.envelope() in live


def test_a_worker_is_observed_by_name_behind_its_snapshot(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    daemon.run(worker_id, "one")
    with daemon.observe(worker_id, f"{ZERO}&events=run_end") as observer:
        assert observer.up_to("run_end")[0]["payload"]["event"] == "snapshot"


def test_who_asks_for_it_is_told_the_head_now_and_then(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    newest = daemon.run(worker_id, "one")[-1]["cursor"]
    with daemon.observe(worker_id, f"{newest}&heartbeat=1") as asking, daemon.observe(worker_id) as other:
        assert asking.frame()["kind"] == "event"
        other.frame()
        for _ in range(2):
            assert asking.frame() == {"kind": "heartbeat", "head": newest}
        ack = daemon.input(worker_id, "two")
        assert other.up_to("run_end")[0]["cursor"] == ack["cursor"]
    with daemon.observe_all("?heartbeat=1&events=shutdown") as observer:
        head = daemon.run(worker_id, "three")[-1]["cursor"]
        beats = [observer.frame()]
        while beats[-1]["head"] != head:
            beats.append(observer.frame())
        assert {beat["kind"] for beat in beats} == {"heartbeat"}


@pytest.mark.parametrize(
    "query", ["?heartbeat=0", "?heartbeat=3601", "?heartbeat=x", "?events=nothing", "?label=x", "?limit=1"]
)
def test_a_wrong_query_refuses_the_handshake(daemon: Daemon, query: str) -> None:
    with pytest.raises(InvalidStatus) as refused, daemon.observe_all(query):
        pass
    assert refused.value.response.status_code == 400
    assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_query"


def test_a_wrong_cursor_is_a_diagnostic_and_a_close(daemon: Daemon) -> None:
    for cursor, code in (("x", "runtime.cursor_malformed"), ("wo_" + "f" * 16, "runtime.cursor_unknown_or_expired")):
        with daemon.observe_all(f"?cursor={cursor}") as observer:
            assert [one["diagnostic"]["code"] for one in observer.rest()] == [code]
