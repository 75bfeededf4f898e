"""What a Worker's events add up to."""

from hypothesis import given
from hypothesis import strategies as st

from runtimed.core.state.activity import MAX_BLOCKS, Activity
from runtimed.core.state.runtime_items import SYSTEM_INPUT
from runtimed.model.event import (
    ErrorRaised,
    InFlightBlock,
    InvokeStart,
    Payload,
    RunEnd,
    Shutdown,
    StatusChanged,
    SystemItem,
    TextBlock,
    TextDelta,
    TextDone,
    ThinkingBlock,
    ThinkingDelta,
    ThinkingDone,
    ThinkingStart,
    ToolCallArgsDelta,
    ToolCallBlock,
    ToolCallDone,
    ToolCallStart,
    ToolResult,
    Usage,
    UserMessage,
)

WORDS = st.sampled_from(["a", "b", ""])
PAYLOADS = st.one_of(
    st.builds(TextDelta, WORDS),
    st.builds(TextDone, WORDS),
    st.builds(ThinkingStart),
    st.builds(ThinkingDelta, WORDS),
    st.builds(ThinkingDone, WORDS),
    st.builds(ToolCallStart, WORDS, WORDS),
    st.builds(ToolCallArgsDelta, WORDS, WORDS),
    st.builds(ToolCallDone, WORDS, WORDS, WORDS),
    st.builds(ToolResult, WORDS, WORDS, st.booleans()),
    st.builds(InvokeStart, st.just("user_send")),
    st.builds(Usage, st.none(), st.none()),
)


def after(*payloads: Payload) -> Activity:
    activity = Activity()
    for payload in payloads:
        activity = activity.after(payload)
    return activity


def blocks(*payloads: Payload) -> tuple[InFlightBlock, ...]:
    in_flight = after(*payloads).in_flight()
    return in_flight.blocks if in_flight else ()


def test_text_is_in_flight_until_it_is_an_entry() -> None:
    assert blocks(TextDelta("a"), TextDelta("b")) == (TextBlock("ab"),)
    assert blocks(TextDelta("a"), TextDone("a")) == ()


def test_a_thought_stays_until_the_run_ends() -> None:
    thought = (ThinkingStart(), ThinkingDelta("h"), ThinkingDone("hm"))
    assert blocks(*thought[:2]) == (ThinkingBlock("h"),)
    assert blocks(*thought) == (ThinkingBlock("hm", finished=True),)
    assert blocks(*thought, RunEnd("finished")) == ()


def test_a_tool_call_stays_until_its_result() -> None:
    start, args, done = ToolCallStart("1", "look"), ToolCallArgsDelta("1", "{"), ToolCallDone("1", "look", "{}")
    assert blocks(start) == (ToolCallBlock("1", "look", "", "pending"),)
    assert blocks(start, args) == (ToolCallBlock("1", "look", "{", "streaming_args"),)
    assert blocks(start, args, done) == (ToolCallBlock("1", "look", "{}", "done"),)
    assert blocks(start, args, done, ToolResult("1", "seen", is_error=False)) == ()


def test_blocks_keep_the_order_in_which_they_began() -> None:
    kinds = [
        block.kind for block in blocks(ThinkingStart(), ToolCallStart("1", "x"), TextDelta("a"), ThinkingDelta("b"))
    ]
    assert kinds == ["thinking", "tool_call", "text"]


def test_an_input_makes_the_activity_running_and_the_end_of_the_run_idle_or_paused() -> None:
    assert after(UserMessage(())).status == "running"
    assert after(SystemItem({"kind": SYSTEM_INPUT})).status == "running"
    assert after(SystemItem({"kind": "plan"})).quiet
    assert after(UserMessage(()), RunEnd("finished")).quiet
    assert after(UserMessage(()), ErrorRaised("internal", "x")).quiet
    assert after(UserMessage(()), RunEnd("paused")).status == "paused"
    assert after(StatusChanged("paused")).status == "paused"


def test_the_activity_is_bounded() -> None:
    assert len(after(*(ToolCallStart(str(n), "x") for n in range(MAX_BLOCKS + 5))).blocks) == MAX_BLOCKS


def test_a_long_text_of_many_pieces_is_joined_once() -> None:
    assert blocks(*(TextDelta("ab") for _ in range(50_000))) == (TextBlock("ab" * 50_000),)


@given(st.lists(PAYLOADS, max_size=30))
def test_closing_leaves_no_text_no_tool_call_and_no_unfinished_thought(payloads: list[Payload]) -> None:
    activity = after(*payloads)
    for payload in activity.closing("cut"):
        activity = activity.after(payload)
    found = activity.in_flight()
    assert all(isinstance(block, ThinkingBlock) and block.finished for block in (found.blocks if found else ()))


def test_nothing_is_in_flight_after_a_shutdown() -> None:
    thought = Activity().after(ThinkingDone("idle thought"))
    assert thought.in_flight() is not None
    assert thought.after(Shutdown()) == Activity()
