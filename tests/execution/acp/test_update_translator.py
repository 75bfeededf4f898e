"""What the updates of an agent become."""

import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import pytest

from runtimed.execution.acp.system_items import MAX_ITEM, MAX_META_BYTES
from runtimed.execution.acp.tool_calls import MAX_ENDED_CALLS, MAX_ID, MAX_OPEN_CALLS, NESTED
from runtimed.execution.acp.tool_content import MAX_DIFFED, MAX_DIFFS, MAX_OUTPUT
from runtimed.execution.acp.update_translator import UpdateTranslator
from runtimed.execution.session.text_output import MAX_TEXT_BLOCK
from runtimed.model.event import (
    Alert,
    Cost,
    ErrorRaised,
    Payload,
    RunEnd,
    RunResult,
    SystemItem,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingDone,
    ThinkingStart,
    ToolCallArgsDelta,
    ToolCallDone,
    ToolCallStart,
    ToolResult,
    Usage,
)

END = {"stopReason": "end_turn"}


def events_of(
    translator: UpdateTranslator,
    *updates: dict[str, Any],
    end: dict[str, Any] | None = None,
    interrupted: bool = True,
) -> list[Payload]:
    """What a run of these updates becomes; one that is cancelled was interrupted, unless it is said."""
    said = [*translator.begin()]
    for update in updates:
        said += translator.update(update)
    return said + list(translator.end(end, interrupted=interrupted)) if end else said


def text(content: str, **more: Any) -> dict[str, Any]:
    return {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": content}, **more}


def thought(content: str) -> dict[str, Any]:
    return {"sessionUpdate": "agent_thought_chunk", "content": {"type": "text", "text": content}}


def call(call_id: str = "c1", **more: Any) -> dict[str, Any]:
    return {"sessionUpdate": "tool_call", "toolCallId": call_id, **more}


def more(call_id: str = "c1", **more: Any) -> dict[str, Any]:
    return {"sessionUpdate": "tool_call_update", "toolCallId": call_id, **more}


def content(said: str) -> list[dict[str, Any]]:
    return [{"type": "content", "content": {"type": "text", "text": said}}]


def results(said: Iterable[Payload]) -> list[ToolResult]:
    return [payload for payload in said if isinstance(payload, ToolResult)]


def test_text_is_done_when_the_kind_changes_and_when_the_run_ends() -> None:
    said = events_of(UpdateTranslator(), text("Hel"), text("lo"), thought("hm"), text("Bye"), end=END)
    assert said == [
        TextDelta("Hel"),
        TextDelta("lo"),
        TextDone("Hello"),
        ThinkingStart(),
        ThinkingDelta("hm"),
        ThinkingDone("hm"),
        TextDelta("Bye"),
        TextDone("Bye"),
        RunEnd("finished"),
    ]


def test_text_is_done_before_a_tool_call_and_when_another_message_begins() -> None:
    said = events_of(UpdateTranslator(), text("a", messageId="1"), text("b", messageId="2"), call(title="ls"))
    assert said == [TextDelta("a"), TextDone("a"), TextDelta("b"), TextDone("b"), ToolCallStart("c1", "ls")]


def test_a_plan_or_a_command_list_does_not_cut_a_text_in_two() -> None:
    plan = {"sessionUpdate": "plan", "entries": [{"content": "think", "status": "pending"}]}
    said = events_of(UpdateTranslator(), text("a"), plan, text("b"), end=END)
    assert SystemItem({"kind": "plan", "content": {"entries": plan["entries"]}}) in said
    assert [payload.text for payload in said if isinstance(payload, TextDone)] == ["ab"]


def test_a_text_that_grows_too_long_is_cut_into_several() -> None:
    said = events_of(UpdateTranslator(), text("€" * MAX_TEXT_BLOCK), thought("x" * (MAX_TEXT_BLOCK + 1)), end=END)
    entries = [payload.text for payload in said if isinstance(payload, TextDone)]
    assert "".join(entries) == "€" * MAX_TEXT_BLOCK
    assert all(len(entry.encode()) <= MAX_TEXT_BLOCK for entry in entries)
    assert sum(isinstance(payload, ThinkingStart) for payload in said) == 2


def test_a_tool_call_is_started_done_and_answered_once_each() -> None:
    said = events_of(
        UpdateTranslator(),
        call(title="Run ls", kind="execute", status="pending"),
        more(rawInput={"command": "ls"}),
        more(status="in_progress"),
        more(status="in_progress", rawInput={"command": "ls"}),
        more(status="completed", content=content("a\nb")),
        more(status="completed", content=content("a\nb")),
        end=END,
    )
    assert said == [
        ToolCallStart("c1", "Run ls"),
        ToolCallArgsDelta("c1", '{"command":"ls"}'),
        ToolCallDone("c1", "Run ls", '{"command":"ls"}'),
        ToolResult("c1", "a", is_error=False, output="a\nb"),
        RunEnd("finished"),
    ]


@pytest.mark.parametrize("first", [more(title="Edit"), call(kind="edit"), call()])
def test_the_first_sighting_in_whatever_form_starts_a_call(first: dict[str, Any]) -> None:
    (started,) = events_of(UpdateTranslator(), first)
    assert started == ToolCallStart("c1", first.get("title") or first.get("kind") or "tool")


@pytest.mark.parametrize(
    ("first", "name"),
    [
        ({"name": "Bash", "title": "Terminal"}, "Bash"),
        ({"_meta": {"toolName": "run_shell_command"}, "title": "Shell"}, "run_shell_command"),
        ({"_meta": {"claudeCode": {"toolName": "Bash"}}, "title": "Terminal"}, "Bash"),
        ({"_meta": {"claudeCode": None, "toolName": 5}, "name": " ", "title": "ls"}, "ls"),
        ({"_meta": [], "kind": "execute"}, "execute"),
    ],
)
def test_a_tool_has_its_own_name_where_the_agent_tells_that(first: dict[str, Any], name: str) -> None:
    assert events_of(UpdateTranslator(), call(**first)) == [ToolCallStart("c1", name)]


def test_codex_tells_what_a_command_printed_beside_the_call() -> None:
    def printed(piece: object) -> dict[str, Any]:
        return more(_meta={"terminal_output_delta": {"data": piece, "terminal_id": "c1"}})

    said = events_of(
        UpdateTranslator(),
        call(status="in_progress", content=[{"type": "terminal", "terminalId": "c1"}]),
        printed("\none\n"),
        printed(5),
        printed("two\n"),
        more(status="failed", _meta={"terminal_exit": {"exit_code": 3, "signal": None}}),
    )
    assert said[-1] == ToolResult("c1", "one", is_error=True, output="\none\ntwo\n", exit_status=3)


def test_of_what_a_command_printed_the_beginning_is_kept() -> None:
    piece = more(_meta={"terminal_output": {"data": "x" * (MAX_OUTPUT - 1)}})
    said = events_of(UpdateTranslator(), call(), piece, piece, more(status="completed"))
    (result,) = results(said)
    assert result.output == f"{'x' * MAX_OUTPUT}\n[cut: {2 * (MAX_OUTPUT - 1)} characters in all]"


@pytest.mark.parametrize(
    ("ended", "summary"),
    [
        ({"content": content("```console\nout\n```"), "rawOutput": "out"}, "out"),
        ({"rawOutput": "Rejected by the client."}, "Rejected by the client."),
        ({"rawOutput": {"text": "no"}}, "completed"),
        ({"content": content("```\n```")}, "completed"),
    ],
)
def test_the_summary_is_the_first_line_that_says_something(ended: dict[str, Any], summary: str) -> None:
    said = events_of(UpdateTranslator(), call(status="completed", **ended))
    assert results(said)[0].summary == summary


@pytest.mark.parametrize("settling", [more(status="in_progress"), more(status="completed"), more(status="failed")])
def test_arguments_that_are_told_in_parts_or_again_are_one_document(settling: dict[str, Any]) -> None:
    again = (more(rawInput={"command": "ls"}), more(rawInput={"command": "ls", "description": "list"}))
    said = events_of(UpdateTranslator(), call(rawInput={}), *again, settling, more(rawInput={"c": "too late"}))
    assert said[1:3] == [
        ToolCallArgsDelta("c1", '{"command":"ls","description":"list"}'),
        ToolCallDone("c1", "tool", '{"command":"ls","description":"list"}'),
    ]
    assert not [payload for payload in said[3:] if isinstance(payload, ToolCallArgsDelta | ToolCallDone)]


def test_arguments_are_told_before_a_permission_is_asked_and_when_the_run_ends() -> None:
    translator = UpdateTranslator()
    said = [*translator.begin(), *translator.update(call(rawInput={"a": 1}))]
    said += translator.permission({"toolCallId": "c1", "rawInput": {"a": 1, "b": 2}})
    assert said == [ToolCallStart("c1", "tool"), ToolCallArgsDelta("c1", '{"a":1,"b":2}')]
    said = [*translator.update(more(rawInput={"a": 3})), *translator.update(call("c2", rawInput={"c": 4}))]
    assert said == [ToolCallStart("c2", "tool")]
    assert [payload for payload in translator.end(END) if isinstance(payload, ToolCallArgsDelta | ToolCallDone)] == [
        ToolCallDone("c1", "tool", '{"a":3}'),
        ToolCallArgsDelta("c2", '{"c":4}'),
        ToolCallDone("c2", "tool", '{"c":4}'),
    ]


@pytest.mark.parametrize(
    ("given", "arguments"),
    [('{"a": 1}', '{"a": 1}'), ('{"a": ', '"{\\"a\\": "'), (5, "5"), ("", "{}"), ([], "{}"), (None, "{}")],
)
def test_arguments_are_json_whatever_the_agent_gives(given: object, arguments: str) -> None:
    said = events_of(UpdateTranslator(), call(rawInput=given, status="completed"))
    assert ToolCallDone("c1", "tool", arguments) in said


def test_a_failed_tool_is_an_error_with_its_raw_output() -> None:
    said = events_of(UpdateTranslator(), call(status="failed", rawOutput={"code": 1}))
    assert results(said) == [ToolResult("c1", "failed", is_error=True, output='{"code":1}')]


def test_diffs_are_told_before_the_result() -> None:
    diff = {"type": "diff", "path": "/w/a.py", "oldText": None, "newText": "x = 1\n"}
    said = events_of(UpdateTranslator(), call(title="Edit", status="completed", content=[diff]))
    item = {"kind": "diff", "tool_call_id": "c1", "path": "/w/a.py", "old_text": None, "new_text": "x = 1\n"}
    assert said[-2:] == [
        SystemItem(item),
        ToolResult("c1", "completed", is_error=False, output="edited /w/a.py"),
    ]


@pytest.mark.parametrize(("status", "shown"), [("completed", ["x = 1\n"]), ("failed", [])])
def test_a_diff_that_a_permission_request_showed_is_told_once_the_call_is_completed(
    status: str, shown: list[str]
) -> None:
    translator = UpdateTranslator()
    diff = {"type": "diff", "path": "/w/a.py", "oldText": "", "newText": "x = 1\n"}
    result = {"type": "content", "content": {"type": "text", "text": "Wrote file successfully."}}

    said = events_of(translator, call(title="write"), more(content=[diff]), more(status=status, content=[result]))

    items = [payload.item for payload in said if isinstance(payload, SystemItem)]
    assert [item["new_text"] for item in items] == shown
    assert results(said)[0].output == "Wrote file successfully."


def test_paths_in_the_workers_folder_are_told_from_there() -> None:
    translator = UpdateTranslator()
    translator.show_paths_from("/w")
    blocks = [{"type": "diff", "path": path, "newText": ""} for path in ("/w/a.py", "/we/b.py")]
    said = events_of(translator, call(status="completed", content=blocks))
    assert [item.item["path"] for item in said if isinstance(item, SystemItem)] == ["a.py", "/we/b.py"]
    assert results(said)[0].output == "edited a.py\nedited /we/b.py"


def test_gemini_and_qwen_ask_before_they_tell_of_the_call_and_say_nothing_after_a_rejection() -> None:
    translator = UpdateTranslator()
    said = list(translator.begin())
    said += translator.permission({"toolCallId": "c1", "title": "rm", "rawInput": {"path": "x"}, "status": "pending"})
    assert said == [ToolCallStart("c1", "rm"), ToolCallArgsDelta("c1", '{"path":"x"}')]
    translator.deny("c1", "permission denied")
    assert list(translator.end(END)) == [
        ToolCallDone("c1", "rm", '{"path":"x"}'),
        ToolResult("c1", "permission denied", is_error=True),
        RunEnd("finished"),
    ]


def test_claude_tells_no_end_of_cancelled_tools() -> None:
    said = events_of(UpdateTranslator(), call(title="sleep", status="in_progress"), end={"stopReason": "cancelled"})
    assert said[1:3] == [ToolCallDone("c1", "sleep", "{}"), ToolResult("c1", "cancelled", is_error=True)]
    assert isinstance(said[3], Alert)
    assert said[3].level == "warn"
    assert said[4:] == [RunEnd("rolled_back")]


def test_codex_asks_before_the_tool_call_and_the_call_is_started_once() -> None:
    translator = UpdateTranslator()
    said = [*translator.begin(), *translator.permission({"toolCallId": "c1", "title": "ls"})]
    said += translator.update(call(title="ls", status="in_progress"))
    said += translator.update(more(status="completed"))
    assert [payload.event for payload in said].count("tool_call_start") == 1


def test_an_id_that_is_used_again_is_told_apart() -> None:
    said = events_of(UpdateTranslator(), *[call(status="completed")] * 3)
    assert [result.id for result in results(said)] == ["c1", "c1#2", "c1#3"]


def test_an_update_to_a_call_that_ended_in_an_earlier_run_is_a_new_call_and_one_in_this_run_is_late() -> None:
    translator = UpdateTranslator()
    events_of(translator, call(status="completed"), end=END)
    said = events_of(translator, more(status="completed"), more(status="failed"))
    assert [result.id for result in results(said)] == ["c1#2"]


def test_calls_without_an_end_are_bounded() -> None:
    translator = UpdateTranslator()
    said = events_of(translator, *(call(f"c{number}") for number in range(MAX_OPEN_CALLS + 3)))
    assert [result.id for result in results(said)] == ["c0", "c1", "c2"]


def test_long_ids_are_cut_and_told_apart() -> None:
    ids = ["x" * 1_000_000 + end for end in "ab"]
    said = events_of(
        UpdateTranslator(), *(call(long) for long in ids), *(more(long, status="completed") for long in ids)
    )
    first, second = [result.id for result in results(said)]
    assert first != second
    assert len(first) == len(second) == MAX_ID
    assert [payload.event for payload in said].count("tool_call_start") == 2


def test_the_ids_of_ended_calls_are_remembered_for_a_while_and_the_oldest_forgotten() -> None:
    names = [f"c{number}" for number in range(MAX_ENDED_CALLS + 1)]
    said = events_of(UpdateTranslator(), *(call(name, status="completed") for name in (*names, "c0", "c2")))
    assert [result.id for result in results(said)[-2:]] == ["c0", "c2#2"]


@pytest.mark.parametrize(
    "hostile",
    [
        lambda number: call(f"{number}" * 500_000, status="completed"),
        lambda number: call(f"c{number}", content=[{"type": "image", "data": f"{number}" * 500_000}]),
        lambda number: call(f"c{number}", content=[{"type": "diff", "x": f"{number}" * 500_000}]),
    ],
    ids=["ids", "content", "diffs"],
)
def test_what_is_not_told_on_of_calls_is_not_held(hostile: Callable[[int], dict[str, Any]]) -> None:
    translator = UpdateTranslator()
    tracemalloc.start()
    try:
        for number in range(10, 50):
            events_of(translator, hostile(number))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 4_000_000


@pytest.mark.parametrize("size", [1, MAX_OUTPUT])
def test_of_too_many_diffs_the_first_are_told_and_how_many_there_were(size: int) -> None:
    diffs = [{"type": "diff", "path": "a", "newText": "x" * size}] * (MAX_DIFFS + 1)
    said = events_of(UpdateTranslator(), call(content=diffs), more(status="completed"))
    shown = [payload for payload in said if isinstance(payload, SystemItem)]
    assert len(shown) == min(MAX_DIFFS, MAX_DIFFED // size)
    assert str(results(said)[0].output).startswith(f"[cut: {MAX_DIFFS + 1} diffs in all]\nedited a\n")


def test_an_unknown_kind_is_kept_whole() -> None:
    said = events_of(UpdateTranslator(), {"sessionUpdate": "new_thing", "kind": "x", "deep": [1, {"a": None}]})
    assert said == [SystemItem({"kind": "new_thing", "content": {"kind": "x", "deep": [1, {"a": None}]}})]


def test_what_is_nested_too_deeply_is_left_out_and_the_rest_told() -> None:
    deep: dict[str, Any] = {}
    for _ in range(1000):
        deep = {"a": deep}
    (item,) = events_of(UpdateTranslator(), {"sessionUpdate": "new_thing", "deep": deep})
    assert isinstance(item, SystemItem)
    assert "nested too deeply" in item.item["content"]["left_out"]
    said = events_of(UpdateTranslator(), call(rawInput=deep, rawOutput=deep, status="completed"))
    assert said[2:] == [
        ToolCallDone("c1", "tool", NESTED),
        ToolResult("c1", "completed", is_error=False, output=NESTED),
    ]


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("permission_request", "agent_permission_request"), (None, "unknown"), (7, "7"), ("x" * 999, "x" * 100)],
)
def test_an_agent_cannot_say_what_is_for_the_runtime_to_say(kind: str | int | None, shown: str) -> None:
    (item,) = events_of(UpdateTranslator(), {"sessionUpdate": kind})
    assert isinstance(item, SystemItem)
    assert item.item["kind"] == shown


@pytest.mark.parametrize(
    "update",
    [
        {"sessionUpdate": "tool_call"},
        {"sessionUpdate": "tool_call", "toolCallId": 5},
        {"sessionUpdate": "agent_message_chunk"},
        {"sessionUpdate": "agent_message_chunk", "content": {"type": "image", "data": "…"}},
        {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": 5}},
        {"sessionUpdate": ["agent_message_chunk"]},
    ],
)
def test_what_is_not_as_the_protocol_has_it_becomes_a_system_item(update: dict[str, Any]) -> None:
    (item,) = events_of(UpdateTranslator(), update)
    assert isinstance(item, SystemItem)


@pytest.mark.parametrize(
    "odd", [{"title": 5}, {"content": "x"}, {"content": [1, {"type": "content"}]}, {"status": []}]
)
def test_odd_fields_of_a_tool_call_are_passed_over(odd: dict[str, Any]) -> None:
    said = events_of(UpdateTranslator(), call(**odd), more(status="completed"))
    assert [payload.event for payload in said] == ["tool_call_start", "tool_call_done", "tool_result"]


def test_what_is_too_large_is_cut_and_says_so() -> None:
    said = events_of(UpdateTranslator(), call(status="completed", content=content("x" * (MAX_OUTPUT + 9))))
    (result,) = results(said)
    assert result.output is not None
    assert len(result.output) < MAX_OUTPUT + 100
    assert str(MAX_OUTPUT + 9) in result.output
    said = events_of(UpdateTranslator(), call(rawInput={"x": "y" * (MAX_OUTPUT + 9)}), end=END)
    done = next(payload for payload in said if isinstance(payload, ToolCallDone))
    assert "truncated" in orjson.loads(done.arguments)
    (item,) = events_of(UpdateTranslator(), {"sessionUpdate": "plan", "entries": ["x" * MAX_ITEM]})
    assert isinstance(item, SystemItem)
    assert item.item["content"]["truncated"] > MAX_ITEM


@pytest.mark.parametrize(
    ("response", "usage"),
    [
        (END | {"usage": {"inputTokens": 3, "outputTokens": 4, "cachedReadTokens": 2}}, (3, 4, 2)),
        (END | {"_meta": {"quota": {"token_count": {"input_tokens": 3, "output_tokens": 4}}}}, (3, 4, None)),
        (END | {"usage": {"inputTokens": True, "outputTokens": 4}}, (None, 4, None)),
    ],
)
def test_usage_is_taken_from_the_response(
    response: dict[str, Any], usage: tuple[int | None, int | None, int | None]
) -> None:
    assert events_of(UpdateTranslator(), end=response) == [Usage(*usage, source="agent"), RunEnd("finished")]


CACHED = {"cachedReadTokens": 50, "cachedWriteTokens": 20}
CLAUDE = {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 50, "cache_creation_input_tokens": 20}
GEMINI = {"promptTokenCount": 80, "candidatesTokenCount": 5, "thoughtsTokenCount": 3, "cachedContentTokenCount": 50}


@pytest.mark.parametrize(
    "counts",
    [
        {"totalTokens": 88, "inputTokens": 80, "outputTokens": 8, **CACHED},
        {"totalTokens": 88, "inputTokens": 10, "outputTokens": 8, **CACHED},
        {"totalTokens": 88, "inputTokens": 10, "outputTokens": 5, "thoughtTokens": 3, **CACHED},
        {"totalTokens": 88, "inputTokens": 80, "outputTokens": 5, "thoughtTokens": 3, "cachedReadTokens": 50},
        {"totalTokens": 88, "inputTokens": 80, "outputTokens": 8, "thoughtTokens": 3, "cachedReadTokens": 50},
        {"inputTokens": 10, "outputTokens": 8, **CACHED},
        {"inputTokens": 80, "outputTokens": 8, **CACHED},
        {**CLAUDE, "output_tokens": 8},
        GEMINI,
    ],
)
def test_input_counts_what_came_from_a_cache_and_output_the_thoughts_for_every_agent(counts: dict[str, int]) -> None:
    assert events_of(UpdateTranslator(), end=END | {"usage": counts})[0] == Usage(80, 8, 50, source="agent")


def test_usage_is_taken_from_what_updates_count_and_not_from_how_full_the_context_is() -> None:
    window = {"sessionUpdate": "usage_update", "used": 900, "size": 200_000}
    said = events_of(UpdateTranslator(), window, end=END)
    assert said == [
        SystemItem({"kind": "usage_update", "content": {"used": 900, "size": 200_000}}),
        Usage(None, None, source="agent", context_tokens=900, context_window=200_000),
        RunEnd("finished"),
    ]
    said = events_of(UpdateTranslator(), window | {"inputTokens": 7, "outputTokens": 8}, end=END)
    assert said[-2:] == [
        Usage(7, 8, source="agent", context_tokens=900, context_window=200_000),
        RunEnd("finished"),
    ]


def test_usage_tells_the_last_size_of_the_context_and_what_the_session_has_cost() -> None:
    first = {"sessionUpdate": "usage_update", "used": 1, "size": 10, "cost": {"amount": 0.25, "currency": "USD"}}
    later = {"sessionUpdate": "usage_update", "used": 5, "size": 10}
    translator = UpdateTranslator()

    said = events_of(translator, first, later, end=END | {"usage": {"inputTokens": 7, "outputTokens": 8}})
    again = events_of(translator, end=END)

    assert said[-2] == Usage(7, 8, None, "agent", 5, 10, Cost(0.25, "USD"))
    assert again == [RunEnd("finished")]


@pytest.mark.parametrize(
    "odd",
    [
        {"used": -1, "size": "10"},
        {"used": 2**63, "size": True},
        {"cost": {"amount": "1", "currency": "USD"}},
        {"cost": {"amount": -1, "currency": "USD"}},
        {"cost": {"amount": 1}},
        {"cost": 5},
    ],
)
def test_what_is_no_size_and_no_cost_is_left_out_of_the_usage(odd: dict[str, Any]) -> None:
    said = events_of(UpdateTranslator(), {"sessionUpdate": "usage_update", **odd}, end=END)

    assert [type(event) for event in said] == [SystemItem, RunEnd]


@pytest.mark.parametrize(
    ("fields", "level", "message"),
    [
        ({"severity": "error", "title": "MCP server", "description": "is down"}, "error", "MCP server: is down"),
        ({"severity": "warning", "title": "Slow"}, "warn", "Slow"),
        ({"severity": "info", "title": "Update found", "description": " "}, "warn", "Update found"),
        ({"title": "x" * 1000, "description": "y" * 10_000}, "warn", f"{'x' * 500}: {'y' * 4000}"),
    ],
)
def test_a_notice_is_an_alert(fields: dict[str, str], level: str, message: str) -> None:
    (said,) = events_of(UpdateTranslator(), {"sessionUpdate": "notice", **fields})

    assert isinstance(said, Alert)
    assert (said.level, said.source, said.message) == (level, "worker", message)


def test_a_notice_without_a_title_is_an_item() -> None:
    said = events_of(UpdateTranslator(), {"sessionUpdate": "notice", "severity": "error"})

    assert said == [SystemItem({"kind": "notice", "content": {"severity": "error"}})]


def test_the_usage_of_a_run_is_told_once_as_the_sum_of_the_calls_that_its_updates_count() -> None:
    counted = text("", _meta={"usage": {"promptTokens": 5, "completionTokens": 6}})
    translator = UpdateTranslator()

    said = events_of(translator, counted, counted, end=END)
    again = events_of(translator, counted, end=END)

    assert said == [Usage(10, 12, source="agent"), RunEnd("finished")]
    assert again == [Usage(5, 6, source="agent"), RunEnd("finished")]


def test_the_counts_of_the_answer_go_before_those_of_updates() -> None:
    counted = text("", _meta={"usage": {"promptTokens": 5, "completionTokens": 6}})

    said = events_of(UpdateTranslator(), counted, end=END | {"usage": {"inputTokens": 7, "outputTokens": 8}})

    assert said == [Usage(7, 8, source="agent"), RunEnd("finished")]


LARGE = {"docs": "x" * MAX_META_BYTES}


def test_large_meta_of_an_update_is_dropped_wherever_it_is_and_small_meta_kept() -> None:
    commands = [{"name": "plan", "_meta": LARGE}, {"name": "test", "_meta": {"key": "t"}}]
    update = {"sessionUpdate": "available_commands_update", "availableCommands": commands, "_meta": LARGE}

    (item,) = events_of(UpdateTranslator(), update)

    assert isinstance(item, SystemItem)
    kept = [{"name": "plan"}, {"name": "test", "_meta": {"key": "t"}}]
    assert item.item["content"] == {"availableCommands": kept}


def test_meta_in_many_places_is_kept_as_far_as_it_fits_together() -> None:
    commands = [{"name": str(number), "_meta": {"docs": "x" * 100}} for number in range(1000)]

    (item,) = events_of(
        UpdateTranslator(), {"sessionUpdate": "available_commands_update", "availableCommands": commands}
    )

    assert isinstance(item, SystemItem)
    kept = [command["_meta"] for command in item.item["content"]["availableCommands"] if "_meta" in command]
    assert 0 < len(orjson.dumps(kept)) <= MAX_META_BYTES + len(kept) * 2


def test_what_is_dropped_of_meta_does_not_count_against_the_bounds_of_the_rest() -> None:
    deep: Any = "x"
    for _ in range(400):
        deep = {"in": deep}
    update = {"sessionUpdate": "plan", "entries": [], "_meta": {"deep": deep, "many": list(range(20_000))}}

    (item,) = events_of(UpdateTranslator(), update)

    assert item == SystemItem({"kind": "plan", "content": {"entries": []}})


INFO = {"sessionUpdate": "session_info_update"}
STUCK = INFO | {"_meta": {"codex": {"threadStatus": {"type": "systemError"}}}}
ACTIVE = INFO | {"_meta": {"codex": {"threadStatus": {"type": "active"}}}}
RETRIED = INFO | {"_meta": {"codex": {"error": {"message": "Reconnecting", "willRetry": True}}}}
BROKEN = INFO | {"_meta": {"error": {"message": "no credit left"}}}
ERROR = {"sessionUpdate": "error", "message": "no credit left"}
LIMITED = INFO | {"_meta": {"error": {"message": "429: slow down"}}}


@pytest.mark.parametrize(
    ("updates", "response", "words"),
    [
        ([STUCK], END, "the agent reported an error of its model provider"),
        ([RETRIED, STUCK], END, "Reconnecting"),
        (
            [ACTIVE, STUCK, text("High demand")],
            {"stopReason": None},
            "High demand",
        ),
        ([BROKEN], END, "no credit left"),
        ([BROKEN, text("no credit left")], END, "no credit left"),
        ([BROKEN, text("no cre"), text("dit left")], END, "no credit left"),
        ([LIMITED, text("slow down")], END, "429: slow down"),
        ([ERROR], END, "no credit left"),
        ([], END | {"_meta": {"error": "no credit left"}}, "no credit left"),
        ([], END | {"_meta": {"vendor": {"error": {"message": "no credit left"}}}}, "no credit left"),
        ([], END | {"error": {"code": 402, "message": "no credit left"}}, "no credit left"),
        ([], {"stopReason": "error"}, "the run ended with 'error'"),
        ([], {"stopReason": "provider_failure", "error": "no credit left"}, "no credit left"),
    ],
)
def test_an_error_of_the_provider_that_is_told_in_any_known_way_fails_the_run(
    updates: list[dict[str, Any]], response: dict[str, Any], words: str
) -> None:
    *_, error, end = events_of(UpdateTranslator(), *updates, end=response)

    assert (error, end) == (ErrorRaised("provider_error", words), RunEnd("rolled_back"))


@pytest.mark.parametrize(
    "updates",
    [
        [RETRIED],
        [RETRIED, text("done")],
        [STUCK, ACTIVE, text("done")],
        [BROKEN, text("I tried again, and it works.")],
        [ERROR, call(status="completed")],
        [LIMITED, text("4")],
        [LIMITED, text("429"), text(" is prime? No.")],
        [call(), call(status="failed", _meta={"error": "the tool failed"})],
        [call(_meta={"vendor": {"error": {"message": "the tool failed"}}}), call(status="failed")],
        [INFO | {"_meta": {"error": None, "codex": {"error": {}, "threadStatus": "odd"}}}],
    ],
)
def test_an_error_that_the_agent_got_over_fails_no_run(updates: list[dict[str, Any]]) -> None:
    *_, end = events_of(UpdateTranslator(), *updates, end=END)

    assert end == RunEnd("finished")


def test_an_error_of_one_run_does_not_fail_the_next() -> None:
    translator = UpdateTranslator()
    events_of(translator, STUCK, end=END)

    assert events_of(translator, end=END) == [RunEnd("finished")]


@pytest.mark.parametrize("kind", ["acp_session_update", "permission_request", "diff", "network_refused"])
def test_an_agent_can_not_say_what_has_a_meaning_here(kind: str) -> None:
    (item,) = events_of(UpdateTranslator(), {"sessionUpdate": kind, "session_id": "s"})

    assert item == SystemItem({"kind": f"agent_{kind}", "content": {"session_id": "s"}})


@pytest.mark.parametrize(
    ("reason", "result"),
    [
        ("end_turn", "finished"),
        ("max_tokens", "limit_reached"),
        ("max_turn_requests", "limit_reached"),
        ("refusal", "rolled_back"),
        ("cancelled", "rolled_back"),
        ("tea_break", "finished"),
        (None, "finished"),
        (["end_turn"], "finished"),
    ],
)
def test_the_stop_reason_says_how_the_run_ended(reason: Any, result: RunResult) -> None:
    assert events_of(UpdateTranslator(), end={"stopReason": reason})[-1] == RunEnd(result)


def test_an_agent_that_cancels_the_run_by_itself_was_not_interrupted() -> None:
    (alert, end) = events_of(UpdateTranslator(), end={"stopReason": "cancelled"}, interrupted=False)
    assert isinstance(alert, Alert)
    assert alert.message == "the agent cancelled the run on its own"
    assert end == RunEnd("finished")


def test_a_refusal_is_an_error_and_an_unknown_reason_is_named() -> None:
    assert isinstance(events_of(UpdateTranslator(), end={"stopReason": "refusal"})[0], ErrorRaised)
    (alert, _) = events_of(UpdateTranslator(), end={"stopReason": "tea_break"})
    assert isinstance(alert, Alert)
    assert "tea_break" in alert.message


def test_a_prompt_that_failed_is_an_error_behind_the_end_of_what_was_open() -> None:
    translator = UpdateTranslator()
    events_of(translator, text("half a sen"), call())
    assert [payload.event for payload in translator.fail("no credit")] == [
        "tool_call_done",
        "tool_result",
        "error",
        "run_end",
    ]
