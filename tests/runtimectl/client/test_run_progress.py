"""A run's events are folded into its outcome, its text and what became of its permissions."""

from typing import Any

import pytest

from runtimectl.client import run_progress
from runtimectl.client.run_progress import End, RunProgress, refusal_text
from runtimectl.client.run_result import exit_code

SCRIPT = ("tool_call_done", {"id": "c1", "name": "shell", "arguments": '{"script":"make"}'})
OPTIONS = [
    {"option_id": "yes", "name": "Yes", "kind": "allow_once"},
    {"option_id": "no", "name": "No", "kind": "reject_once"},
]
REQUEST = (
    "system_item",
    {"item": {"kind": "permission_request", "request_id": "r1", "title": "edit a", "options": OPTIONS}},
)

Event = tuple[str, dict[str, Any]]


def resolved(outcome: str, by: str = "token:default", **fields: str) -> Event:
    return "system_item", {
        "item": {"kind": "permission_resolved", "request_id": "r1", "outcome": outcome, "by": by, **fields}
    }


def fold(*events: Event) -> RunProgress:
    progress = RunProgress()
    for number, (name, data) in enumerate(events, 1):
        progress.record({"cursor": f"wo_{number:016x}", "payload": {"event": name, "data": data}})
    return progress


def failed(code: str = "internal", message: str = "broken", **fields: str) -> list[Event]:
    return [("error", {"code": code, "message": message, **fields}), ("run_end", {"result": "rolled_back"})]


ANSWER = ("text_done", {"text": "hello"})
FINISHED = ("run_end", {"result": "finished"})


@pytest.mark.parametrize(
    ("events", "outcome", "code"),
    [
        ([ANSWER, FINISHED], "finished", 0),
        ([SCRIPT, ("tool_result", {"id": "c1", "exit_status": 7}), FINISHED], "finished", 7),
        ([FINISHED], "failed", 1),
        ([("system_item", {"item": {"kind": "network_refused"}}), FINISHED], "failed", 1),
        ([("text_done", {"text": " \n"}), FINISHED], "failed", 1),
        ([("tool_call_done", {"id": "t", "name": "edit", "arguments": "{}"}), FINISHED], "finished", 0),
        ([("error", {"code": "provider_error", "message": "429"}), ANSWER, FINISHED], "finished", 0),
        (failed("provider_error"), "failed", 1),
        (failed(reason="exit"), "lost", 1),
        (failed(reason="protocol"), "lost", 1),
        (failed(message="the run was cut: the daemon was started anew"), "lost", 1),
        (failed(reason="oom"), "limit_reached", 1),
        (failed(reason="timeout"), "limit_reached", 1),
        ([ANSWER, ("run_end", {"result": "limit_reached"})], "limit_reached", 1),
        ([ANSWER, ("run_end", {"result": "paused"})], "failed", 1),
        (
            [("alert", {"message": "the run was interrupted"}), ("run_end", {"result": "rolled_back"})],
            "interrupted",
            130,
        ),
        ([("shutdown", {})], "interrupted", 130),
    ],
)
def test_the_events_of_a_run_decide_its_outcome_and_the_exit_code(
    events: list[Event], outcome: str, code: int
) -> None:
    progress = fold(*events)

    assert progress.end is not None
    assert (progress.end.outcome, exit_code(progress.end, progress.exit_status)) == (outcome, code)


def test_an_error_alone_does_not_end_a_run() -> None:
    assert fold(("error", {"code": "provider_error", "message": "retrying"})).end is None


def test_the_first_end_of_a_run_counts() -> None:
    progress = fold(ANSWER, FINISHED, ("shutdown", {}))
    assert (progress.end, progress.is_over) == (End("finished"), True)


def test_the_text_of_a_script_is_joined_as_it_was_printed() -> None:
    progress = fold(
        SCRIPT, ("text_delta", {"text": "a"}), ("text_done", {"text": "ab"}), ("text_done", {"text": "c"})
    )
    assert str(progress.text) == "abc"


def test_each_text_of_an_agent_begins_on_a_line_of_its_own() -> None:
    progress = fold(
        ("text_delta", {"text": "a"}), ("text_done", {"text": "ab"}), ("text_done", {"text": "c\n"}), ANSWER
    )
    assert str(progress.text) == "ab\nc\nhello"


def test_of_a_text_that_is_too_long_the_newest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_progress, "MAX_TEXT_CHARACTERS", 5)
    progress = fold(SCRIPT, ("text_done", {"text": "1234"}), ("text_done", {"text": "5678"}))
    assert (str(progress.text), progress.text.is_cut) == ("5678", True)
    progress = fold(SCRIPT, ("text_done", {"text": "123456789"}))
    assert (str(progress.text), progress.text.is_cut) == ("56789", True)


@pytest.mark.parametrize(
    ("resolution", "denied", "expired"),
    [
        (resolved("selected", option_id="yes"), 0, 0),
        (resolved("selected", option_id="no"), 1, 0),
        (resolved("selected", by="profile", option_id="no"), 1, 0),
        (resolved("cancelled"), 1, 0),
        (resolved("cancelled", by="runtime"), 0, 0),
        (resolved("expired", by="deadline"), 0, 1),
    ],
)
def test_permissions_are_counted_by_what_became_of_them(resolution: Event, denied: int, expired: int) -> None:
    progress = fold(REQUEST, resolution)
    assert (progress.asked, progress.denied, progress.expired) == (1, denied, expired)
    assert (progress.denial is not None) == bool(denied or expired)
    assert not progress.requests


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"host": "a.example", "port": 443}, "network: connection to a.example:443 refused: no rule allows it"),
        (
            {"host": "fd00::1", "port": 80, "left_out": 3},
            "network: connection to [fd00::1]:80 refused: no rule allows it (3 more were refused before)",
        ),
    ],
)
def test_a_refused_connection_is_one_line(item: dict[str, Any], text: str) -> None:
    assert refusal_text({"kind": "network_refused", "reason": "no rule allows it", **item}) == text


def test_the_newest_usage_and_cursor_are_kept_and_a_snapshot_is_no_event() -> None:
    progress = fold(("usage", {"input_tokens": 1}), ("usage", {"input_tokens": 2}))
    progress.record({"cursor": "wo_00000000000000ff", "payload": {"event": "snapshot", "data": {}}})
    assert (progress.usage, progress.cursor) == ({"input_tokens": 2}, "wo_0000000000000002")
