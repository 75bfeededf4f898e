"""`DELETE /v1/workers/{worker_id}`: all of a Worker goes, at once to whoever asks, and nothing of it comes back."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

ZERO = "wo_0000000000000000"
SECRET = "the-words-that-must-not-stay"


def _stopped(daemon: Any, content: str = "hello") -> str:
    """A Worker that has said something and is over."""
    worker_id = daemon.echo()
    daemon.run(worker_id, content)
    daemon.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")
    return worker_id


def _delete(daemon: Any, worker_id: str) -> Any:
    answer = daemon.curl("DELETE", f"/v1/workers/{worker_id}")
    assert (answer.status, answer.body) == (204, b"")
    assert answer.header("Content-Type") is None
    return answer


def _asked(worker_id: str) -> list[tuple[str, str]]:
    of_worker = f"/v1/workers/{worker_id}"
    gets = [of_worker, f"{of_worker}/transcript", f"{of_worker}/events", f"{of_worker}/events/ws"]
    return [*(("GET", path) for path in gets), *(("POST", f"{of_worker}/{verb}") for verb in ("stop", "cancel"))]


def _events(daemon: Any) -> list[dict[str, Any]]:
    """The events of all Workers."""
    page = json.loads(daemon.call("GET", "/v1/events").body)
    found = page["events"]
    while page["has_more"]:
        page = json.loads(daemon.call("GET", f"/v1/events?cursor={page['next_cursor']}").body)
        found += page["events"]
    return list(found)


def test_a_worker_that_is_over_is_deleted_with_all_that_can_be_asked_of_it(daemon: Any) -> None:
    kept, gone = _stopped(daemon), _stopped(daemon)
    assert {event["worker_id"] for event in _events(daemon)} >= {kept, gone}
    before = daemon.runtime()
    _delete(daemon, gone)
    for method, path in _asked(gone):
        daemon.curl(method, path).refused(404, "worker_not_found")
    daemon.curl("POST", f"/v1/workers/{gone}/input", {"kind": "user", "content": "x"}).refused(
        404, "worker_not_found"
    )
    daemon.curl("DELETE", f"/v1/workers/{gone}").refused(404, "worker_not_found")
    listed = [worker["worker_id"] for worker in daemon.workers()]
    assert kept in listed
    assert gone not in listed
    told = daemon.call("GET", "/v1/diagnostics").ok("diagnostics")
    assert {remark.get("worker_id") for remark in told} >= {kept}
    assert gone not in {remark.get("worker_id") for remark in told}
    assert gone not in {event["worker_id"] for event in _events(daemon)}
    after = daemon.runtime()
    assert before["worker_count"] - after["worker_count"] == 1
    assert before["stopped_worker_count"] - after["stopped_worker_count"] == 1
    assert before["diagnostic_count"] - after["diagnostic_count"] == 2
    assert len(daemon.items(kept)) == 2


def test_a_running_worker_is_not_deleted(daemon: Any) -> None:
    worker_id = daemon.echo()
    daemon.run(worker_id, "hello")
    with daemon.unchanged():
        message = daemon.curl("DELETE", f"/v1/workers/{worker_id}").refused(409, "worker_running")
    assert "stop" in message
    daemon.run(worker_id, "still here")
    daemon.call("POST", f"/v1/workers/{worker_id}/cancel").ok("ack")
    _delete(daemon, worker_id)


@pytest.mark.parametrize(
    ("worker_id", "status", "code"),
    [
        ("worker-0000ffff", 404, "worker_not_found"),
        ("worker-1", 404, "worker_not_found"),
        ("worker-0000FFFF", 404, "worker_not_found"),
        ("%2e%2e", 404, "worker_not_found"),
        ("%20", 400, "invalid_worker_id"),
    ],
)
def test_what_is_no_worker_is_not_deleted(daemon: Any, worker_id: str, status: int, code: str) -> None:
    with daemon.unchanged():
        daemon.curl("DELETE", f"/v1/workers/{worker_id}").refused(status, code)


def test_a_deletion_wants_the_token(daemon: Any) -> None:
    worker_id = _stopped(daemon)
    daemon.curl("DELETE", f"/v1/workers/{worker_id}", token=None).refused(401, "unauthorized")
    assert daemon.worker(worker_id)["status"] == "stopped"


def test_the_workers_as_a_whole_can_not_be_deleted(daemon: Any) -> None:
    daemon.curl("DELETE", "/v1/workers").refused(405, "method_not_allowed")


def test_an_observer_is_told_that_the_worker_is_gone(daemon: Any) -> None:
    worker_id = _stopped(daemon)
    with daemon.observe(worker_id, ZERO) as observer:
        observer.up_to("shutdown")
        _delete(daemon, worker_id)
        [last] = observer.rest()
    assert last["diagnostic"]["code"] == "runtime.worker_not_found"


def test_an_id_is_never_given_out_again(launch: Any, store: str) -> None:
    daemon = launch(store=store).ready()
    first, second = _stopped(daemon), _stopped(daemon)
    for worker_id in (second, first):
        _delete(daemon, worker_id)
    assert daemon.runtime()["worker_count"] == 0
    assert daemon.echo() == "worker-00000003"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_deletion_is_for_good(launch: Any, tmp_path: Path, until: Any, how: signal.Signals) -> None:
    store = f"fs:{tmp_path / 'store'}"
    daemon = launch(store=store).ready()
    kept, gone = _stopped(daemon), daemon.shell()
    for number in range(3):
        daemon.run(gone, f"echo {SECRET} {number} | tee file")
    daemon.call("POST", f"/v1/workers/{gone}/stop").ok("ack")
    folder = tmp_path / "store" / "workers" / gone
    assert SECRET in (folder / "home" / "file").read_text()
    log = daemon.log(kept)
    _delete(daemon, gone)
    daemon.stop() if how is signal.SIGTERM else daemon.kill()

    again = launch(store=store).ready()
    until(lambda: not folder.exists())
    assert [worker["worker_id"] for worker in again.workers()] == [kept]
    again.curl("GET", f"/v1/workers/{gone}").refused(404, "worker_not_found")
    assert again.log(kept) == log
    assert again.echo() == "worker-00000003"
    found = again.call("GET", "/v1/runtime/events").body
    kinds = {event["kind"] for event in json.loads(found)["events"] if event.get("worker_id") == gone}
    assert kinds == {"worker_created", "worker_input_accepted", "worker_stopped"}
    check = again.call("GET", "/v1/runtime/check").ok("check", "StoreCheck")
    assert check == {"workers": 2, "entries": 2, "events": len(log), "findings": []}
