"""Contract section 3: what a Worker is asked to be, and how it is told again."""

from typing import Any

import pytest

from tests.acceptance.conftest import MakeBundle
from tests.acceptance.daemon.conftest import Daemon, Launch

INTENTS = [
    {"kind": "assistant"},
    {"kind": "assistant", "purpose": "help"},
    {"kind": "task", "objective": "mend the roof"},
    {"kind": "role", "role": "reviewer"},
    {"kind": "role", "role": "reviewer", "purpose": "read it"},
]


@pytest.mark.parametrize("intent", INTENTS)
def test_an_intent_is_kept_as_it_was_given(daemon: Daemon, intent: Any) -> None:
    worker = daemon.curl("POST", "/v1/workers", {"intent": intent}).ok("worker", "WorkerDetail")
    assert worker["intent"] == intent
    assert daemon.worker(worker["worker_id"])["intent"] == intent


@pytest.mark.parametrize("profile", [{"kind": "runtime_default"}, {"kind": "builtin", "value": "builtin:echo"}])
def test_a_profile_that_passes_without_a_bundle_is_kept_as_it_was_given(daemon: Daemon, profile: Any) -> None:
    worker = daemon.curl("POST", "/v1/workers", {"profile": profile}).ok("worker", "WorkerDetail")
    assert worker["profile"] == profile
    assert worker["execution"]["run_state"] == "idle"
    assert worker["execution"]["backend"] == "connected"
    assert worker["execution"]["last_result"] == {"operation": "spawn", "outcome": "accepted", "run_state": "idle"}


def test_capabilities_and_refs_are_kept_as_they_were_given(daemon: Daemon) -> None:
    request = {
        "requested_capabilities": [{"name": "read"}, {"name": "write", "reason": "to mend"}],
        "workspace_refs": [{"name": "home", "reference": "workspace:1"}],
        "mount_refs": [{"name": "data", "reference": "/anything opaque"}, {"name": "more", "reference": "é"}],
    }
    worker = daemon.curl("POST", "/v1/workers", request).ok("worker", "WorkerDetail")
    assert {name: worker[name] for name in request} == request


def test_empty_lists_and_unset_fields_are_left_out(daemon: Daemon) -> None:
    request: dict[str, Any] = {
        "intent": {"kind": "assistant", "purpose": None},
        "config_bundle": None,
        "requested_capabilities": [],
        "workspace_refs": [],
        "mount_refs": [],
    }
    worker = daemon.curl("POST", "/v1/workers", request).ok("worker", "WorkerDetail")
    assert worker["intent"] == {"kind": "assistant"}
    assert not {"config_bundle", "requested_capabilities", "workspace_refs", "mount_refs"} & set(worker)


def test_a_null_reason_of_a_capability_is_an_unset_one(daemon: Daemon) -> None:
    request = {"requested_capabilities": [{"name": "read", "reason": None}]}
    worker = daemon.curl("POST", "/v1/workers", request).ok("worker", "WorkerDetail")
    assert worker["requested_capabilities"] == [{"name": "read"}]


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"intent": {"kind": "task", "objective": ""}}, "objective"),
        ({"intent": {"kind": "task", "objective": " \t\n"}}, "objective"),
        ({"intent": {"kind": "role", "role": "  "}}, "role"),
        ({"requested_capabilities": [{"name": ""}]}, "requested_capabilities"),
        ({"requested_capabilities": [{"name": "a"}, {"name": " "}]}, "requested_capabilities"),
        ({"workspace_refs": [{"name": " ", "reference": "r"}]}, "workspace_refs"),
        ({"workspace_refs": [{"name": "n", "reference": ""}]}, "workspace_refs"),
        ({"mount_refs": [{"name": "", "reference": "r"}]}, "mount_refs"),
        ({"mount_refs": [{"name": "n", "reference": "  "}]}, "mount_refs"),
    ],
)
def test_a_blank_text_that_must_say_something_is_an_invalid_request(
    daemon: Daemon, request_: Any, named: str
) -> None:
    with daemon.unchanged():
        assert named in daemon.curl("POST", "/v1/workers", request_).refused(400, "invalid_request")


def test_a_summary_counts_capabilities_and_tells_whether_there_is_a_bundle(
    daemon: Daemon, bundle: MakeBundle
) -> None:
    made = bundle(profiles=[{"selector": {"kind": "runtime_default"}}])
    daemon.call("POST", "/v1/config-bundles", {"bundle": made}).ok("availability")
    reference = {name: made["metadata"][name] for name in ("id", "digest")}
    plain = daemon.create()
    full = daemon.create(config_bundle=reference, requested_capabilities=[{"name": "a"}, {"name": "b"}])
    summaries = {one["worker_id"]: one for one in daemon.workers()}
    told = [
        (summaries[one]["requested_capability_count"], summaries[one]["has_config_bundle"]) for one in (plain, full)
    ]
    assert told == [(0, False), (2, True)]
    assert daemon.worker(full)["config_bundle"] == reference


def test_a_summary_tells_the_same_as_the_detail(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    daemon.run(worker_id, "hello")
    detail = daemon.worker(worker_id)
    summary = next(one for one in daemon.workers() if one["worker_id"] == worker_id)
    assert {name: summary[name] for name in detail} == detail


def test_the_runtime_counts_its_workers_by_status(launch: Launch, store: str) -> None:
    daemon = launch(store=store).ready()
    stopped, cancelled, *_ = [daemon.create() for _ in range(5)]
    daemon.call("POST", f"/v1/workers/{stopped}/stop").ok("ack")
    daemon.call("POST", f"/v1/workers/{cancelled}/cancel").ok("ack")
    runtime = daemon.runtime()
    counts = [runtime[f"{name}worker_count"] for name in ("", "active_", "stopped_", "cancelled_")]
    assert counts == [5, 3, 1, 1]


@pytest.mark.parametrize(
    ("with_bundle", "with_capability"), [(False, False), (False, True), (True, False), (True, True)]
)
def test_a_create_without_bundle_or_capabilities_adds_a_diagnostic_for_each(
    daemon: Daemon, bundle: MakeBundle, with_bundle: bool, with_capability: bool
) -> None:
    made = bundle(profiles=[{"selector": {"kind": "runtime_default"}}])
    daemon.call("POST", "/v1/config-bundles", {"bundle": made}).ok("availability")
    request: dict[str, Any] = {}
    if with_bundle:
        request["config_bundle"] = {name: made["metadata"][name] for name in ("id", "digest")}
    if with_capability:
        request["requested_capabilities"] = [{"name": "read"}]
    before = daemon.runtime()["diagnostic_count"]
    daemon.create(**request)
    assert daemon.runtime()["diagnostic_count"] - before == 2 - with_bundle - with_capability


def test_transcript_length_and_last_event_follow_the_worker(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    assert daemon.worker(worker_id)["transcript_len"] == 0
    events = daemon.run(worker_id, "one")
    worker = daemon.worker(worker_id)
    assert worker["transcript_len"] == 2
    assert worker["last_cursor"] == events[-1]["event_id"]
