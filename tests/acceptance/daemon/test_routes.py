"""Contract section 2: twelve routes, each with its answer, key by key."""

import json
from typing import Any

import pytest

from tests.acceptance.conftest import MakeBundle, Shaped
from tests.acceptance.daemon.conftest import Daemon

CREATED = {
    "worker_ref",
    "runtime_id",
    "worker_id",
    "status",
    "execution",
    "intent",
    "profile",
    "transcript_len",
    "last_event_id",
    "last_cursor",
    "created_at_ms",
}


def test_get_runtime_answers_a_runtime_summary(daemon: Daemon) -> None:
    runtime = daemon.curl("GET", "/v1/runtime").ok("runtime", "RuntimeSummary")
    assert runtime["runtime_id"] == daemon.runtime_id
    assert runtime["backend"] == ("memory" if daemon.store == "memory" else "fs_store")
    assert runtime["status"] == "running"
    assert runtime["display_name"] is None
    assert runtime["limits"] == {"max_transcript_projection_items": 256, "max_event_batch_items": 256}


def test_get_config_bundles_answers_summaries_by_id(daemon: Daemon, bundle: MakeBundle, shaped: Shaped) -> None:
    for _ in range(3):
        daemon.call("POST", "/v1/config-bundles", {"bundle": bundle()}).ok("availability")
    bundles = daemon.curl("GET", "/v1/config-bundles").ok("bundles")
    for one in bundles:
        shaped(one, "ConfigBundleSummary")
    assert [one["id"] for one in bundles] == sorted(one["id"] for one in bundles)


def test_post_config_bundles_answers_the_availability(daemon: Daemon, bundle: MakeBundle) -> None:
    profiles = [
        {"selector": {"kind": "runtime_default"}},
        {"selector": {"kind": "named", "value": "a"}, "label": "A"},
    ]
    declarations = [{"kind": "secret_ref", "name": "key", "reference": "vault:key"}]
    made = bundle(profiles=profiles, declarations=declarations, provenance={"source": "s", "detail": "d"})
    found = daemon.curl("POST", "/v1/config-bundles", {"bundle": made}).ok("availability", "Availability")
    metadata = made["metadata"]
    assert found["reference"] == {"id": metadata["id"], "digest": metadata["digest"]}
    counts = {"digest_algorithm": "sha256", "profile_count": 2, "declaration_count": 1}
    assert found["summary"] == metadata | counts


def test_get_availability_answers_what_the_post_answered(daemon: Daemon, bundle: MakeBundle) -> None:
    made = bundle()
    stored = daemon.curl("POST", "/v1/config-bundles", {"bundle": made}).ok("availability")
    path = f"/v1/config-bundles/{made['metadata']['id']}/availability?digest={made['metadata']['digest']}"
    found = daemon.curl("GET", path).ok("availability", "Availability")
    assert found == stored
    assert found["summary"]["provenance"] == {"source": "test"}


def test_get_workers_answers_summaries_by_id(daemon: Daemon, shaped: Shaped) -> None:
    made = [daemon.create() for _ in range(3)]
    workers = daemon.curl("GET", "/v1/workers").ok("workers")
    for one in workers:
        shaped(one, "WorkerSummary")
    ids = [one["worker_id"] for one in workers]
    assert ids == sorted(ids)
    assert set(made) <= set(ids)


def test_post_workers_answers_200_and_the_worker(daemon: Daemon) -> None:
    worker = daemon.curl("POST", "/v1/workers", {}).ok("worker", "WorkerDetail")
    assert set(worker) == CREATED
    assert worker["worker_ref"] == {"runtime_id": daemon.runtime_id, "worker_id": worker["worker_id"]}
    assert worker["runtime_id"] == daemon.runtime_id
    assert worker["status"] == "running"
    assert worker["intent"] == {"kind": "assistant"}
    assert worker["profile"] == {"kind": "runtime_default"}
    assert worker["transcript_len"] == 0


def test_get_worker_answers_what_the_create_answered(daemon: Daemon) -> None:
    made = daemon.curl("POST", "/v1/workers", {"intent": {"kind": "task", "objective": "o"}}).ok("worker")
    assert daemon.curl("GET", f"/v1/workers/{made['worker_id']}").ok("worker", "WorkerDetail") == made


def test_post_input_answers_an_interaction_ack(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    answer = daemon.curl("POST", f"/v1/workers/{worker_id}/input", {"kind": "user", "content": "hello"})
    ack = answer.ok("ack", "InteractionAck")
    assert ack["worker_ref"] == {"runtime_id": daemon.runtime_id, "worker_id": worker_id}
    assert (ack["status"], ack["transcript_sequence"]) == ("running", 1)
    daemon.idle(worker_id)


@pytest.mark.parametrize(("verb", "status"), [("stop", "stopped"), ("cancel", "cancelled")])
@pytest.mark.parametrize("body", [None, b"", {}, {"reason": "enough"}, {"reason": None}])
def test_stop_and_cancel_take_an_empty_body_or_a_reason(daemon: Daemon, verb: str, status: str, body: Any) -> None:
    worker_id = daemon.echo()
    ack = daemon.curl("POST", f"/v1/workers/{worker_id}/{verb}", body).ok("ack", "LifecycleAck")
    assert ack["worker_ref"] == {"runtime_id": daemon.runtime_id, "worker_id": worker_id}
    assert ack["status"] == status
    worker = daemon.worker(worker_id)
    assert (worker["status"], worker["last_cursor"]) == (status, ack["cursor"])
    assert worker["execution"]["run_state"] == "stopped"


@pytest.mark.parametrize(("first", "status"), [("stop", "stopped"), ("cancel", "cancelled")])
@pytest.mark.parametrize("again", ["stop", "cancel"])
def test_stop_and_cancel_of_an_ended_worker_change_nothing(
    daemon: Daemon, first: str, status: str, again: str
) -> None:
    worker_id = daemon.echo()
    ack = daemon.curl("POST", f"/v1/workers/{worker_id}/{first}").ok("ack")
    with daemon.unchanged():
        repeated = daemon.curl("POST", f"/v1/workers/{worker_id}/{again}", {"reason": "again"})
        assert repeated.ok("ack", "LifecycleAck") == ack
    assert ack["status"] == status
    assert ack["cursor"] == daemon.worker(worker_id)["last_cursor"]


@pytest.mark.parametrize("verb", ["stop", "cancel"])
@pytest.mark.parametrize("body", [b"because", b"{", b"[]", b"null", b'{"reason": 1}', b'{"why": "x"}'])
def test_a_body_of_stop_and_cancel_that_is_not_a_reason_is_invalid_json(
    daemon: Daemon, verb: str, body: bytes
) -> None:
    worker_id = daemon.echo()
    with daemon.unchanged():
        daemon.curl("POST", f"/v1/workers/{worker_id}/{verb}", body).refused(400, "invalid_json")


def test_get_transcript_answers_a_projection_from_the_start(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    daemon.run(worker_id, "hello")
    path = f"/v1/workers/{worker_id}/transcript"
    found = daemon.curl("GET", path).ok("transcript", "TranscriptProjection")
    assert (found["start"], found["limit"], found["total_items"], found["next_start"]) == (0, 256, 2, None)
    assert [(one["sequence"], one["role"], one["content"]) for one in found["items"]] == [
        (1, "user", "hello"),
        (2, "assistant", "hello"),
    ]
    assert daemon.curl("GET", f"{path}?start=0&limit=256").ok("transcript") == found


def test_the_feed_is_a_websocket(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    with daemon.observe(worker_id) as observer:
        assert observer.connection.response is not None
        assert observer.connection.response.status_code == 101
        assert observer.envelope()["payload"]["event"] == "snapshot"


ALLOWED = {
    "/v1/runtime": {"GET"},
    "/v1/config-bundles": {"GET", "POST"},
    "/v1/config-bundles/b/availability": {"GET"},
    "/v1/workers": {"GET", "POST"},
    "/v1/workers/worker-00000001": {"GET"},
    "/v1/workers/worker-00000001/input": {"POST"},
    "/v1/workers/worker-00000001/stop": {"POST"},
    "/v1/workers/worker-00000001/cancel": {"POST"},
    "/v1/workers/worker-00000001/transcript": {"GET"},
    "/v1/workers/worker-00000001/events/ws": {"GET"},
}


@pytest.mark.parametrize("path", ALLOWED)
def test_another_method_is_405_and_told_what_is_allowed(daemon: Daemon, path: str) -> None:
    with daemon.unchanged():
        for method in {"GET", "POST", "PUT", "PATCH", "OPTIONS", "TRACE"} - ALLOWED[path]:
            answer = daemon.call(method, path)
            answer.refused(405, "method_not_allowed")
            allowed = answer.header("Allow")
            assert allowed is not None
            assert {name.strip() for name in allowed.split(",")} >= ALLOWED[path]
            assert method not in allowed
        answer = daemon.curl("HEAD", path)
        assert (answer.status == 405) == ("GET" not in ALLOWED[path])
        assert (answer.header("Allow") is None) == ("GET" in ALLOWED[path])


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/runtime", "/v1/runtime/", "/v1/workers//", "//v1/workers", "/v1/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_not_found(daemon: Daemon, path: str, method: str) -> None:
    daemon.curl(method, path).refused(404, "not_found")


@pytest.mark.parametrize(
    "path", ["/v1/workers/..%2f", "/v1/workers/%00", "/v1/workers/../runtime", "/v1/..%2fruntime"]
)
def test_a_traversal_in_a_path_is_refused(daemon: Daemon, path: str) -> None:
    answer = daemon.curl("GET", path)
    assert answer.status in {400, 404}
    assert set(json.loads(answer.body)) == {"error"}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/runtime",
        "/v1/config-bundles",
        "/v1/config-bundles/b/availability",
        "/v1/workers/{}",
        "/v1/workers/{}/transcript",
        "/v1/workers/{}/events/ws",
    ],
)
def test_an_unknown_query_parameter_is_invalid_query_and_named(daemon: Daemon, path: str) -> None:
    answer = daemon.curl("GET", f"{path.format(daemon.echo())}?surprise=1")
    assert "surprise" in answer.refused(400, "invalid_query")
