"""Who is asked for a permission, and what the agent hears."""

import asyncio
import json
from typing import Any

import pytest

from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.acp import permissions
from runtimed.model.permission import PermissionOption, Ruling
from tests.execution.acp.conftest import NewHarness

CALL = {"toolCallId": "c1", "title": "Remove x", "kind": "delete", "rawInput": {"path": "x"}, "status": "pending"}
YES = {"optionId": "yes", "name": "Yes", "kind": "allow_once"}
ALWAYS = {"optionId": "always", "name": "Always", "kind": "allow_always"}
NO = {"optionId": "no", "name": "No", "kind": "reject_once"}


def asking(options: list[Any], call: Any = CALL, **script: Any) -> dict[str, Any]:
    """A script in which each prompt asks for a permission, says what it was answered, and ends."""
    return {"session/prompt": [[["ask", call, options], ["end"]]], **script}


async def test_the_tool_call_is_shown_before_the_question_and_ended_where_the_agent_does_not(
    new_harness: NewHarness,
) -> None:
    harness = new_harness(asking([YES, NO]), permission_timeout_s=7)
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.questions)
    (question,) = harness.sink.questions
    assert harness.sink.names == ["invoke_start", "tool_call_start", "tool_call_args_delta"]
    assert (question.title, question.tool_call_id, question.timeout_s, question.ruled) == ("Remove x", "c1", 7, None)
    assert question.options == (
        PermissionOption("yes", "Yes", "allow_once"),
        PermissionOption("no", "No", "reject_once"),
    )
    harness.sink.rule(Ruling("selected", "yes"))
    await harness.sink.until(lambda: harness.sink.ends)
    assert '"optionId": "yes"' in harness.sink.text
    assert [result.summary for result in harness.sink.results] == ["the agent reported no result"]


async def test_the_time_of_a_silent_run_rests_while_a_permission_waits(new_harness: NewHarness) -> None:
    harness = new_harness(asking([YES, NO]), max_silence_s=4.0, quiet_alert_s=3.0)
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.questions)
    await asyncio.sleep(4.5)
    harness.sink.rule(Ruling("selected", "yes"))
    await harness.sink.until(lambda: harness.sink.ends)
    assert harness.sink.ends == ["finished"]
    assert harness.sink.alerts == []


@pytest.mark.parametrize(
    ("ruling", "heard", "summary"),
    [
        (Ruling("selected", "no"), '{"outcome": "selected", "optionId": "no"}', "permission denied"),
        (Ruling("expired"), '{"outcome": "selected", "optionId": "no"}', "permission expired"),
        (Ruling("cancelled"), '{"outcome": "cancelled"}', "cancelled"),
    ],
)
async def test_a_denied_tool_has_a_result_that_says_so(
    new_harness: NewHarness, ruling: Ruling, heard: str, summary: str
) -> None:
    harness = new_harness(asking([YES, NO]))
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.questions)
    harness.sink.rule(ruling)
    await harness.sink.until(lambda: harness.sink.ends)
    assert harness.sink.text == heard
    assert [(result.summary, result.is_error) for result in harness.sink.results] == [(summary, True)]


@pytest.mark.parametrize(
    ("policy", "options", "chosen"),
    [
        ("allow", [NO, ALWAYS, YES], "yes"),
        ("allow", [NO, ALWAYS], "always"),
        ("deny", [YES, NO], "no"),
    ],
)
async def test_a_policy_rules_without_anybody(
    new_harness: NewHarness, policy: str, options: list[Any], chosen: str
) -> None:
    harness = new_harness(asking(options), permissions=policy)
    await harness.spawn()
    sink = await harness.run()
    assert [question.ruled for question in sink.questions] == [chosen]
    assert f'"optionId": "{chosen}"' in sink.text


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("allow", [NO]),
        ("deny", [YES]),
        ("ask", []),
        ("ask", None),
        ("ask", [7, {"optionId": 1}, {"kind": "allow_once"}]),
    ],
)
async def test_where_there_is_nothing_to_choose_the_request_is_cancelled(
    new_harness: NewHarness, policy: str, options: Any
) -> None:
    harness = new_harness(asking(options), permissions=policy)
    await harness.spawn()
    sink = await harness.run()
    assert sink.questions == []
    assert sink.text == '{"outcome": "cancelled"}'


@pytest.mark.parametrize(
    ("title", "given", "shown"),
    [
        ("run_command", '{"command": "rm x"}', 'run_command {"command": "rm x"}'),
        ("bash", {"command": "rm x"}, 'bash {"command":"rm x"}'),
        ("bash", {"command": "x" * 1000}, 'bash {"command":"' + "x" * 483),
        ("bash", {}, "bash"),
        ("Remove x", {"path": "x"}, "Remove x"),
    ],
)
async def test_a_title_that_is_the_name_of_a_tool_alone_gets_its_arguments(
    new_harness: NewHarness, title: str, given: Any, shown: str
) -> None:
    call = {**CALL, "title": title, "rawInput": given}
    harness = new_harness(asking([YES], call), permissions="allow")
    await harness.spawn()
    sink = await harness.run()
    assert [question.title for question in sink.questions] == [shown]


@pytest.mark.parametrize("call", [None, {}, {"toolCallId": 5}, []])
async def test_a_request_about_no_tool_call_is_asked_all_the_same(new_harness: NewHarness, call: Any) -> None:
    harness = new_harness(asking([YES], call), permissions="allow")
    await harness.spawn()
    sink = await harness.run()
    assert [(question.title, question.tool_call_id) for question in sink.questions] == [("tool", None)]
    assert sink.results == []


async def test_an_interrupt_cancels_the_question(new_harness: NewHarness) -> None:
    steps = [["ask", CALL, [YES, NO]], ["until_cancel"], ["end", "cancelled"]]
    harness = new_harness({"session/prompt": [steps]}, stop_grace_s=30)
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.questions)
    assert await harness.backend.interrupt(harness.worker_id) == BackendAnswer("accepted")
    assert harness.sink.text == '{"outcome": "cancelled"}'
    assert harness.sink.ends == ["rolled_back"]
    assert [result.summary for result in harness.sink.results] == ["cancelled"]


@pytest.mark.parametrize("call_id", [5, ["c1"], None])
@pytest.mark.parametrize("permissions", ["ask", "deny"])
async def test_a_request_whose_tool_call_has_no_id_that_is_one_is_answered_too(
    new_harness: NewHarness, call_id: object, permissions: str
) -> None:
    harness = new_harness(asking([YES, NO], {**CALL, "toolCallId": call_id}), permissions=permissions)
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.questions)
    if permissions == "ask":
        harness.sink.rule(Ruling("selected", "no"))
    await harness.sink.until(lambda: harness.sink.ends)
    assert harness.sink.text == '{"outcome": "selected", "optionId": "no"}'


async def test_an_option_whose_id_is_too_long_is_left_out(new_harness: NewHarness) -> None:
    longest = "x" * permissions.MAX_OPTION_ID
    harness = new_harness(asking([{**YES, "optionId": f"{longest}x"}, {**YES, "optionId": longest}]))
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.questions)
    (question,) = harness.sink.questions
    assert [option.option_id for option in question.options] == [longest]


@pytest.mark.parametrize(
    ("ruling", "outcome", "summary"),
    [
        (
            Ruling("selected", "no", "not on a Friday"),
            {"outcome": "selected", "optionId": "no", "_meta": {"reason": "not on a Friday"}},
            "permission denied: not on a Friday",
        ),
        (
            Ruling("cancelled", None, "wait"),
            {"outcome": "cancelled", "_meta": {"reason": "wait"}},
            "cancelled: wait",
        ),
    ],
)
async def test_the_reason_of_a_denial_is_handed_on_to_the_agent_and_shown_in_the_result(
    new_harness: NewHarness, ruling: Ruling, outcome: dict[str, Any], summary: str
) -> None:
    harness = new_harness(asking([YES, NO]))
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.questions)

    harness.sink.rule(ruling)
    await harness.sink.until(lambda: harness.sink.ends)

    assert json.loads(harness.sink.text) == outcome
    assert harness.answers()[-1]["result"]["_meta"] == {"reason": ruling.reason}
    assert [result.summary for result in harness.sink.results] == [summary]


@pytest.mark.parametrize(
    ("told", "asked", "kind"),
    [
        ({"kind": "edit"}, {}, "edit"),
        ({"kind": "edit"}, {"kind": "execute"}, "execute"),
        ({}, {}, "other"),
        ({"kind": "of_the_future"}, {}, "other"),
        ({"kind": 7}, {}, "other"),
    ],
)
async def test_a_request_says_of_which_kind_its_tool_is(
    new_harness: NewHarness, told: dict[str, Any], asked: dict[str, Any], kind: str
) -> None:
    steps = [
        ["update", {"sessionUpdate": "tool_call", "toolCallId": "c1", **told}],
        ["ask", {"toolCallId": "c1", **asked}, [YES, NO]],
        ["end"],
    ]
    harness = new_harness({"session/prompt": [steps]}, permissions="allow")
    await harness.spawn()

    sink = await harness.run()

    assert [question.tool_kind for question in sink.questions] == [kind]


SHOWN = {"sessionUpdate": "tool_call", **CALL, "title": "remove the folder build"}


async def test_a_request_that_names_only_its_tool_call_keeps_the_title_that_the_call_was_told_with_last(
    new_harness: NewHarness,
) -> None:
    renamed = {"sessionUpdate": "tool_call_update", "toolCallId": "c1", "title": "remove the folder dist"}
    steps = [["update", SHOWN], ["update", renamed], ["ask", {"toolCallId": "c1"}, [YES, NO]], ["end"]]
    harness = new_harness({"session/prompt": [steps]})
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.questions)

    (question,) = harness.sink.questions

    assert (question.title, question.tool_call_id, question.session_id) == ("remove the folder dist", "c1", None)


async def test_a_request_of_another_session_is_answered_and_shown_with_that_session(
    new_harness: NewHarness,
) -> None:
    told = {"sessionId": "sub-1", "update": {**SHOWN, "title": "read the secrets"}}
    asked = {"sessionId": "sub-1", "toolCall": {"toolCallId": "c1"}, "options": [YES, NO]}
    code = (
        f"write({{'jsonrpc': '2.0', 'method': 'session/update', 'params': {told!r}}})\n"
        f"text(call('session/request_permission', {asked!r})['result']['outcome']['optionId'])"
    )
    harness = new_harness({"session/prompt": [[["update", SHOWN], ["call_python", code], ["end"]]]})
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.questions)

    (question,) = harness.sink.questions
    shown = harness.sink.items[-1]
    harness.sink.rule(Ruling("selected", "no"))
    await harness.sink.until(lambda: harness.sink.ends)

    assert (question.title, question.session_id, question.tool_call_id) == ("read the secrets", "sub-1", None)
    assert (shown["kind"], shown["session_id"]) == ("acp_session_update", "sub-1")
    assert shown["content"] == {"sessionUpdate": "tool_call_update", "toolCallId": "c1"}
    assert harness.sink.text == "no"
    assert [result.summary for result in harness.sink.results] == ["the agent reported no result"]
