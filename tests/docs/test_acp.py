"""The page on ACP says what the code does."""

import pytest

from runtimed.core.state import mcp_server_rules, session_info
from runtimed.execution.acp import (
    client,
    elicitation,
    files,
    inbox,
    outbox,
    permissions,
    system_items,
    terminals,
    tool_calls,
    tool_content,
    transport,
    update_reader,
    update_throttle,
)
from runtimed.execution.acp.update_translator import UpdateTranslator
from runtimed.model.event import RunEnd
from tests.docs.conftest import ReadPage

BOUNDS = {
    "a message of the agent": f"{transport.MAX_MESSAGE_BYTES >> 20} MiB",
    "a file that is read": f"{files.MAX_FILE_BYTES >> 20} MiB, of which {files.MAX_TEXT_CHARACTERS >> 20} Mi",
    "a text that is written": f"{files.MAX_TEXT_CHARACTERS >> 20} Mi characters",
    "output of a terminal": f"the newest {terminals.MAX_TERMINAL_OUTPUT >> 20} MiB",
    "terminals": f"{terminals.MAX_TERMINALS} that",
    "released terminals with something left in the background": f"{terminals.MAX_LEFT};",
    "requests at once": f"{client.MAX_REQUESTS}",
    "the arguments and the output of a tool call, and each text of a diff": f"{tool_content.MAX_OUTPUT >> 20} Mi",
    "a `system_item`": f"{system_items.MAX_ITEM >> 20} MiB",
    "all `_meta` of an update": f"{system_items.MAX_META_BYTES >> 10} KiB;",
    "a permission request": (
        f"{permissions.MAX_OPTIONS} options, whose ids have at most {permissions.MAX_OPTION_ID:,} "
    ),
    "the form of a request": f"{elicitation.MAX_SCHEMA_BYTES >> 10} KiB of JSON;",
    "the commands of a Worker": (
        f"{session_info.MAX_COMMANDS}; the name of one has at most {session_info.MAX_COMMAND_NAME} characters, its "
        f"description and hint {session_info.MAX_DESCRIPTION}"
    ),
    "the MCP servers of a request": (
        f"{mcp_server_rules.MAX_MCP_SERVERS}, whose texts have at most "
        f"{mcp_server_rules.MAX_MCP_SERVERS_BYTES >> 10} KiB together"
    ),
    "open tool calls": f"{tool_calls.MAX_OPEN_CALLS};",
    "messages that wait for the store": f"{inbox.MAX_WAITING}, or {inbox.MAX_WAITING_BYTES >> 20} MiB;",
    "answers that the agent has not taken": f"{outbox.MAX_UNTAKEN_BYTES >> 20} MiB;",
}


@pytest.fixture
def told(page: ReadPage) -> dict[str, str]:
    return {row.cells[0]: row.cells[1] for row in page("reference/acp.md").section("Bounds").rows}


@pytest.mark.parametrize("name", BOUNDS)
def test_each_bound_is_told_as_it_is(told: dict[str, str], name: str) -> None:
    assert told[name].startswith(BOUNDS[name])


def test_the_table_has_no_other_bounds(told: dict[str, str]) -> None:
    methods = {name for name in told if name in {"`read`", "`write`", "`shell`"}}
    assert set(told) - methods == set(BOUNDS)


def test_times_are_told_as_they_are(page: ReadPage) -> None:
    text = page("reference/acp.md").text
    assert f"until nothing has come for {update_reader.SETTLE_S * 1000:g} ms" in text
    assert "stored at most once a second" in text
    assert update_throttle.INTERVAL_S == 1
    assert all(f"`{kind}`" in text for kind in update_throttle.REPLACING)


def test_each_stop_reason_ends_a_run_as_the_table_says(page: ReadPage) -> None:
    rows = page("reference/acp.md").section("How an agent's messages become events").rows
    told = {reason: row.codes(1) for row in rows for reason in row.codes() if row.cells[0].startswith("`")}
    assert set(told) == {"end_turn", "cancelled", "max_tokens", "max_turn_requests", "refusal"}
    for reason, codes in told.items():
        *_, end = UpdateTranslator().end({"stopReason": reason})
        assert isinstance(end, RunEnd)
        assert codes[-2:] == ["run_end", end.result]
