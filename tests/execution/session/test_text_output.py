"""How streamed text becomes deltas and entries."""

from runtimed.execution.session.text_output import MAX_TEXT_BLOCK, TextOutput
from runtimed.model.event import TextDelta, TextDone
from tests.execution.conftest import RecordingSink


async def test_a_closed_text_is_the_sum_of_its_deltas(recorder: RecordingSink) -> None:
    text = TextOutput(recorder)
    await text.write("one ")
    await text.write("two")
    await text.close()
    assert recorder.events == [TextDelta("one "), TextDelta("two"), TextDone("one two")]


async def test_closing_without_a_text_says_nothing(recorder: RecordingSink) -> None:
    text = TextOutput(recorder)
    await text.write("")
    await text.close()
    await text.write("a")
    await text.close()
    await text.close()
    assert recorder.events == [TextDelta("a"), TextDone("a")]


async def test_a_text_without_end_is_cut_before_it_passes_the_limit(recorder: RecordingSink) -> None:
    text = TextOutput(recorder)
    whole = "€" * MAX_TEXT_BLOCK
    await text.write(whole)
    await text.close()
    entries = [event.text for event in recorder.events if isinstance(event, TextDone)]
    assert "".join(entries) == whole
    assert len(entries) >= 3
    assert all(len(entry.encode()) <= MAX_TEXT_BLOCK for entry in entries)


async def test_a_character_cut_in_two_survives_and_a_lost_half_does_not(recorder: RecordingSink) -> None:
    text = TextOutput(recorder)
    await text.feed(b"\xe2\x82")
    await text.feed(b"\xac \xff")
    await text.feed(b"\xc3")
    await text.close()
    assert recorder.events[-1] == TextDone("€ \ufffd\ufffd")
