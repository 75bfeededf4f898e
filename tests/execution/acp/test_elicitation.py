"""Forms that an agent asks people to fill."""

import json
from typing import Any

import pytest

from runtimed.execution.acp.elicitation import MAX_SCHEMA_BYTES, OPTIONS
from runtimed.model.permission import Ruling
from tests.execution.acp.conftest import NewHarness, RecordingSink

SCHEMA = {"type": "object", "properties": {"branch": {"type": "string"}}, "required": ["branch"]}
WITH_DEFAULT = {"properties": {"branch": {"type": "string", "default": "main"}}, "required": ["branch"]}


def form(schema: object = None, **more: Any) -> dict[str, Any]:
    """A script whose agent asks with a form, and says what it is answered."""
    asked = {"mode": "form", "message": "Which branch?", "requestedSchema": schema or SCHEMA, **more}
    return {"session/prompt": [[["text", "well "], ["tell", "elicitation/create", asked], ["end"]]]}


def answered(sink: RecordingSink) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sink.text.removeprefix("well "))
    return found


async def test_the_agent_is_told_that_forms_are_shown(new_harness: NewHarness) -> None:
    harness = new_harness()
    await harness.spawn()

    (greeting,) = harness.heard("initialize")

    assert greeting["clientCapabilities"]["elicitation"] == {"form": {}}


@pytest.mark.parametrize(
    ("ruling", "result"),
    [
        (
            Ruling("selected", "accept", content={"branch": "main"}),
            {"action": "accept", "content": {"branch": "main"}},
        ),
        (Ruling("selected", "decline"), {"action": "decline"}),
        (Ruling("selected", "decline", "ask me later"), {"action": "decline", "_meta": {"reason": "ask me later"}}),
        (Ruling("expired"), {"action": "cancel"}),
        (Ruling("cancelled"), {"action": "cancel"}),
    ],
)
async def test_a_form_is_a_permission_request_and_the_ruling_is_what_the_agent_gets(
    new_harness: NewHarness, ruling: Ruling, result: dict[str, Any]
) -> None:
    harness = new_harness(form(), permission_timeout_s=7)
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.questions)
    (question,) = harness.sink.questions
    shown = list(harness.sink.names)

    harness.sink.rule(ruling)
    await harness.sink.until(lambda: harness.sink.ends)

    assert shown == ["invoke_start", "text_delta", "text_done"]
    assert (question.title, question.tool_kind, question.schema) == ("Which branch?", "elicitation", SCHEMA)
    assert (question.options, question.timeout_s, question.ruled) == (OPTIONS, 7, None)
    assert answered(harness.sink) == {"result": result}
    assert harness.sink.ends == ["finished"]


@pytest.mark.parametrize(
    ("policy", "schema", "result"),
    [
        ("allow", WITH_DEFAULT, {"action": "accept", "content": {"branch": "main"}}),
        ("allow", {"properties": {}}, {"action": "accept", "content": {}}),
        ("deny", SCHEMA, {"action": "decline"}),
    ],
)
async def test_a_policy_fills_a_form_with_its_defaults_or_declines_it(
    new_harness: NewHarness, policy: str, schema: dict[str, Any], result: dict[str, Any]
) -> None:
    harness = new_harness(form(schema), permissions=policy)
    await harness.spawn()

    assert answered(await harness.run()) == {"result": result}


async def test_a_form_that_defaults_do_not_fill_is_put_to_people_also_where_all_is_allowed(
    new_harness: NewHarness,
) -> None:
    harness = new_harness(form(), permissions="allow")
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.questions)

    assert harness.sink.questions[0].ruled is None

    await harness.backend.interrupt(harness.worker_id)


@pytest.mark.parametrize(
    "asked",
    [
        {"mode": "url", "url": "https://example.com"},
        {"requestedSchema": "text"},
        {"requestedSchema": {"properties": []}},
        {"requestedSchema": {"properties": {"a": {"type": "string", "title": "x" * MAX_SCHEMA_BYTES}}}},
    ],
)
async def test_a_form_that_cannot_be_shown_is_refused_and_the_run_goes_on(
    new_harness: NewHarness, asked: dict[str, Any]
) -> None:
    harness = new_harness(form(**asked))
    await harness.spawn()

    sink = await harness.run()

    assert "error" in answered(sink)
    assert (sink.questions, sink.ends) == ([], ["finished"])


async def test_a_form_before_the_session_is_open_is_cancelled(new_harness: NewHarness) -> None:
    asked = {"mode": "form", "message": "Your key?", "requestedSchema": SCHEMA, "requestId": 1}
    ask = ["call_python", f"state['told'] = call('elicitation/create', {asked!r})"]
    harness = new_harness({"session/new": [ask, ["answer", {"sessionId": "s"}]]})

    answer = await harness.spawn()

    assert answer.outcome == "accepted"
    assert harness.answers()[0]["result"] == {"action": "cancel"}


async def test_a_form_of_a_tool_call_and_of_another_session_names_it(new_harness: NewHarness) -> None:
    call = {"sessionUpdate": "tool_call", "toolCallId": "c1", "title": "Push"}
    own = {"mode": "form", "message": "One", "requestedSchema": SCHEMA, "toolCallId": "c1"}
    other = {**own, "message": "Two", "sessionId": "sub-1"}
    steps = [["update", call], ["tell", "elicitation/create", own], ["tell", "elicitation/create", other], ["end"]]
    harness = new_harness({"session/prompt": [steps]})
    await harness.spawn()
    await harness.begin()
    await harness.sink.until(lambda: harness.sink.questions)
    harness.sink.rule(Ruling("selected", "decline"))
    await harness.sink.until(lambda: len(harness.sink.questions) == 2)
    harness.sink.rule(Ruling("selected", "decline"))
    await harness.sink.until(lambda: harness.sink.ends)

    one, two = harness.sink.questions

    assert (one.title, one.tool_call_id, one.session_id) == ("One", "c1", None)
    assert (two.title, two.tool_call_id, two.session_id) == ("Two", None, "sub-1")
