"""Each prompt is answered once, by the end of the run of its own input."""

import json
import threading
from contextlib import AbstractContextManager
from typing import Any

import pytest

from runtimectl.acp.jsonrpc import Peer, Request
from runtimectl.acp.prompts import Prompts
from runtimed.model.event import (
    ErrorRaised,
    Payload,
    RunEnd,
    RunResult,
    Shutdown,
    SystemItem,
    TextSegment,
    UserMessage,
)

INPUT = UserMessage((TextSegment("go"),))
ERROR = ErrorRaised("provider_error", "the model is down")


class Editor:
    """Prompts of an editor, and how they were answered."""

    def __init__(self) -> None:
        self.prompts = Prompts()
        self.answers: dict[Any, Any] = {}
        self._peer = Peer(self._take)

    def accept(self, cursor: str, *, is_queued: bool = False) -> bool:
        """Accept the input of a prompt whose id is its cursor."""
        return self.prompts.accept(cursor, self._request(cursor), is_queued=is_queued)

    def sending(self, cursor: str) -> AbstractContextManager[None]:
        """Send the input of such a prompt."""
        self.prompts.begin(self._request(cursor))
        return self.prompts.sending(self._request(cursor))

    def record(self, *events: tuple[str, Payload]) -> list[bool]:
        return [self.prompts.record(cursor, payload) for cursor, payload in events]

    def _request(self, cursor: str) -> Request:
        return Request(self._peer, cursor, "session/prompt", {})

    def _take(self, message: bytes) -> None:
        body = json.loads(message)
        assert body["id"] not in self.answers
        self.answers[body["id"]] = body["result"]["stopReason"] if "result" in body else body["error"]["message"]


@pytest.mark.parametrize(
    ("payloads", "answer"),
    [
        ([RunEnd("finished")], "end_turn"),
        ([RunEnd("paused")], "end_turn"),
        ([RunEnd("limit_reached")], "max_turn_requests"),
        ([RunEnd("rolled_back")], "cancelled"),
        ([ERROR, RunEnd("rolled_back")], "provider_error: the model is down"),
        ([ERROR, RunEnd("finished")], "end_turn"),
        ([Shutdown()], "the Worker was stopped"),
    ],
)
def test_a_prompt_is_answered_with_how_its_run_ended(payloads: list[Payload], answer: str) -> None:
    editor = Editor()
    editor.accept("c1")

    editor.record(("c1", INPUT), *(("c2", payload) for payload in payloads))

    assert editor.answers == {"c1": answer}


def test_runs_of_others_answer_nothing_and_a_queued_prompt_waits_for_its_own() -> None:
    editor = Editor()
    editor.accept("c2", is_queued=True)

    editor.record(("c1", INPUT), ("c2", INPUT), ("c3", RunEnd("finished")))
    assert editor.answers == {}
    editor.record(("c4", SystemItem({"kind": "input_started", "cursor": "c2"})), ("c5", RunEnd("finished")))

    assert editor.answers == {"c2": "end_turn"}


@pytest.mark.parametrize("result", ["finished", "rolled_back"])
def test_a_prompt_that_was_taken_back_is_cancelled_and_its_run_is_to_be_interrupted(result: RunResult) -> None:
    editor = Editor()
    editor.accept("c1", is_queued=True)
    editor.prompts.cancel()

    [begins, _, _] = editor.record(
        ("c2", SystemItem({"kind": "input_started", "cursor": "c1"})), ("c3", ERROR), ("c4", RunEnd(result))
    )

    assert begins is True
    assert editor.answers == {"c1": "cancelled"}


def test_a_prompt_that_is_taken_back_while_it_is_sent_is_cancelled_and_the_next_one_is_not() -> None:
    editor = Editor()

    with editor.sending("c1"):
        editor.prompts.cancel()
        assert editor.accept("c1") is True
    with editor.sending("c2"):
        assert editor.accept("c2") is False


def test_a_prompt_can_be_taken_back_before_its_input_is_sent() -> None:
    editor = Editor()
    request = Request(Peer(lambda _: None), "c1", "session/prompt", {})
    editor.prompts.begin(request)
    before = editor.prompts.is_cancelled(request)

    editor.prompts.cancel()

    assert (before, editor.prompts.is_cancelled(request)) == (False, True)


def test_one_prompt_is_taken_back_and_the_others_are_not() -> None:
    editor = Editor()
    editor.accept("c1")
    editor.accept("c2", is_queued=True)
    editor.record(("c1", INPUT))

    assert editor.prompts.cancel_one("c2") is False
    with editor.sending("c3"):
        assert editor.prompts.cancel_one("c3") is False
        assert editor.accept("c3") is True
    editor.record(("c4", RunEnd("finished")))
    [begins] = editor.record(("c5", SystemItem({"kind": "input_started", "cursor": "c2"})))

    assert begins is True
    assert editor.answers == {"c1": "end_turn"}
    assert editor.prompts.cancel_one("c2") is True


def test_whose_input_an_event_is_waits_for_the_answer_that_says_so() -> None:
    editor, found = Editor(), list[bool]()
    asking = threading.Thread(target=lambda: found.append(editor.prompts.owns("c1")))

    with editor.sending("c1"):
        asking.start()
        editor.accept("c1")
    asking.join()

    assert found == [True]


def test_prompts_fail_when_the_events_end() -> None:
    editor = Editor()
    editor.accept("c1")
    editor.accept("c2", is_queued=True)
    editor.record(("c1", INPUT))

    editor.prompts.fail("the daemon is gone")

    assert editor.answers == {"c1": "the daemon is gone", "c2": "the daemon is gone"}


def test_a_prompt_whose_input_is_accepted_after_the_events_have_ended_fails_until_they_come_again() -> None:
    editor = Editor()
    editor.prompts.fail("the daemon is gone")

    editor.accept("c1")
    editor.prompts.begin_events()
    editor.accept("c2")

    assert editor.answers == {"c1": "the daemon is gone"}
