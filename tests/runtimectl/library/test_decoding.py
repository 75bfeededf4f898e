"""Answers of a newer daemon are read, and those of something else are refused."""

import json
from typing import Any

import pytest

from runtimectl.errors import DaemonFailed
from runtimectl.library.decoding import decoded, encoded, event
from runtimed.model.event import Snapshot, TextBlock, UserMessage
from runtimed.model.worker import BuiltinProfile, CreateWorkerRequest, NamedReference, TaskIntent

NEW = {"new_field": {"any": "thing"}}
ENVELOPE: dict[str, Any] = {
    "cursor": "wo_0000000000000001",
    "event_id": "wo_0000000000000001",
    "worker_id": "worker-00000001",
    "timestamp_ms": 1,
}
GREETING = {
    "worker_name": "",
    "cwd": "",
    "provider": "",
    "model": "",
    "scope_summary": "",
    "tools": [],
    "context_window": 0,
    "context_tokens": 0,
}


def test_fields_that_a_newer_daemon_adds_are_ignored_at_every_level() -> None:
    segments = [{"kind": "text", "content": "hello", **NEW}]
    message = {**ENVELOPE, **NEW, "payload": {"event": "user_message", "data": {"segments": segments, **NEW}, **NEW}}
    blocks = [{"kind": "text", "text": "open", **NEW}]
    state = {"entries": [], "greeting": {**GREETING, **NEW}, "status": "idle", "in_flight": {"blocks": blocks}}

    assert isinstance(event(message).payload, UserMessage)
    snapshot = event({**ENVELOPE, "payload": {"event": "snapshot", "data": state}}).payload
    assert isinstance(snapshot, Snapshot)
    assert snapshot.in_flight is not None
    assert snapshot.in_flight.blocks == (TextBlock("open"),)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "expected JSON"),
        (b"[]", "the body: expected an object, got an array"),
        (b"{}", "runtime: required, but missing"),
        (b'{"runtime": {"runtime_id": 7}}', "runtime"),
    ],
)
def test_an_answer_that_does_not_fit_the_contract_names_the_field(body: bytes, message: str) -> None:
    with pytest.raises(DaemonFailed) as failed:
        decoded(body, "RuntimeResponse")

    assert message in str(failed.value)


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(DaemonFailed, match=r"payload\.event: expected one of"):
        event({**ENVELOPE, "payload": {"event": "telepathy"}})


def test_a_request_is_encoded_with_the_tags_of_its_unions() -> None:
    request = CreateWorkerRequest(
        TaskIntent("count"), BuiltinProfile("builtin:shell"), workspace_refs=(NamedReference("cwd", "dir:/srv"),)
    )

    assert json.loads(json.dumps(encoded(request))) == {
        "intent": {"kind": "task", "objective": "count"},
        "profile": {"kind": "builtin", "value": "builtin:shell"},
        "workspace_refs": [{"name": "cwd", "reference": "dir:/srv"}],
    }
