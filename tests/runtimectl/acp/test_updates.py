"""Events become session updates: each piece of a text once."""

import pytest

from runtimectl.acp.updates import MAX_CHUNK_CHARACTERS, Update, UpdateTranslator, chunk, joined
from runtimed.model.event import Alert, Payload, RunEnd, SystemItem, TextDelta, TextDone, ToolCallDone, ToolResult


def updates(*payloads: Payload) -> list[Update]:
    translator = UpdateTranslator()
    return [update for n, payload in enumerate(payloads) for update in translator.translate(f"c{n}", payload)]


def texts(found: list[Update]) -> list[tuple[str, str]]:
    return [(update["messageId"], update["content"]["text"]) for update in found]


def test_a_text_that_was_streamed_is_not_shown_again_when_it_is_whole() -> None:
    found = updates(TextDelta("a"), TextDelta("b"), TextDone("abc"), TextDone("whole"), TextDelta("next"))

    assert texts(found) == [("c0", "a"), ("c0", "b"), ("c0", "c"), ("c3", "whole"), ("c4", "next")]


def test_a_text_that_an_interrupted_run_has_left_open_hides_nothing_of_the_next_one() -> None:
    found = updates(TextDelta("left open"), RunEnd("rolled_back"), TextDone("whole"))

    assert texts(found) == [("c0", "left open"), ("c2", "whole")]


def test_arguments_that_are_no_json_stay_a_text() -> None:
    [found] = updates(ToolCallDone("call-1", "look", "{broken"))

    assert (found["rawInput"], "title" in found) == ("{broken", False)


def test_a_failed_call_is_failed_and_has_its_output() -> None:
    [found] = updates(ToolResult("call-1", "it broke", is_error=True, output="long\noutput"))

    assert found["status"] == "failed"
    assert found["content"] == [{"type": "content", "content": {"type": "text", "text": "long\noutput"}}]


@pytest.mark.parametrize("item", [{"kind": "diff"}, {"kind": "plan", "content": "none"}, {"kind": 7}, {}])
def test_an_item_that_is_no_update_shows_nothing(item: dict[str, object]) -> None:
    assert updates(SystemItem(item), RunEnd("finished")) == []


def test_an_alert_is_a_thought() -> None:
    [found] = updates(Alert("warn", "engine", "the memory is lost", 1))

    assert found == chunk("agent_thought_chunk", "the memory is lost", "c0")


def test_a_replay_joins_the_pieces_of_one_message_up_to_a_limit() -> None:
    pieces = updates(
        TextDelta("a"), TextDelta("b"), TextDone("ab"), TextDelta("x" * MAX_CHUNK_CHARACTERS), TextDelta("y")
    )

    found = list(joined(pieces))

    assert [len(update["content"]["text"]) for update in found] == [2, MAX_CHUNK_CHARACTERS, 1]
