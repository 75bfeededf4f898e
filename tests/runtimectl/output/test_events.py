"""Events as lines for people."""

from typing import Any

import pytest

from runtimectl.output.events import event_line

HEAD = {"cursor": "wo_0000000000000001", "worker_id": "worker-00000001"}


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (
            {"event": "user_message", "data": {"segments": [{"content": "a"}, {"content": "b"}]}},
            "user_message  ab",
        ),
        (
            {"event": "system_item", "data": {"item": {"kind": "note", "content": "x", "count": 2}}},
            "system_item  note content=x count=2",
        ),
        (
            {"event": "snapshot", "data": {"status": "idle", "entries": [1, 2], "in_flight": {"blocks": [1]}}},
            "snapshot  idle entries=2 in_flight=1",
        ),
        (
            {"event": "error", "data": {"code": "internal", "message": "it broke"}},
            "error  internal: it broke",
        ),
        (
            {"event": "alert", "data": {"level": "warn", "source": "worker", "message": "slow"}},
            "alert  warn worker: slow",
        ),
        ({"event": "shutdown"}, "shutdown"),
        ({"event": "one_to_come", "data": {"a": "b", "c": [1]}}, "one_to_come  a=b c=[1]"),
    ],
)
def test_a_line_has_the_cursor_the_name_and_what_matters_of_the_data(payload: dict[str, Any], shown: str) -> None:
    assert event_line({**HEAD, "payload": payload}) == f"wo_0000000000000001  {shown}"
