"""Forms of an agent behind `runtimectl acp`: filled in editors that show forms, and elsewhere for the others."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from acp.schema import CreateElicitationRequest
from pydantic import TypeAdapter

from runtimectl import Client
from runtimectl.acp.capabilities import takes_forms
from tests.execution.acp.test_elicitation import SCHEMA, form
from tests.runtimectl.acp.conftest import Editor
from tests.runtimectl.conftest import Ctl, Daemon, wait_until

StartEditor = Callable[..., Editor]
ServeAgent = Callable[..., Daemon]
AGENT = ("--profile", "builtin:agent")
FINISHED = {"stopReason": "end_turn"}
MAIN = {"branch": "main"}


def begin(editor: Editor) -> None:
    editor.call("initialize", protocolVersion=1, clientCapabilities={"elicitation": {"form": {}}})


def result(editor: Editor) -> Any:
    """What the agent was answered to its form: it says that, after other texts."""
    return json.loads("".join(editor.texts()).rpartition("well ")[2])["result"]


@pytest.mark.parametrize(
    ("answer", "received"),
    [
        ({"action": "accept", "content": MAIN}, {"action": "accept", "content": MAIN}),
        ({"action": "decline"}, {"action": "decline"}),
        ({"action": "cancel"}, {"action": "cancel"}),
    ],
)
def test_a_form_is_filled_declined_or_cancelled_in_an_editor_that_shows_forms(
    start_editor: StartEditor, serve_agent: ServeAgent, answer: dict[str, Any], received: dict[str, Any]
) -> None:
    serve_agent(form())
    editor = start_editor(*AGENT)
    begin(editor)
    editor.on_form = lambda _: {"result": answer}
    session = editor.new_session()

    assert editor.prompt(session, "go")()["result"] == FINISHED

    assert editor.forms == [
        {"sessionId": session, "mode": "form", "message": "Which branch?", "requestedSchema": SCHEMA}
    ]
    TypeAdapter(CreateElicitationRequest).validate_python(editor.forms[0])
    assert result(editor) == received


@pytest.mark.parametrize(
    ("is_able", "answer"),
    [
        (False, None),
        (True, {"error": {"code": -32601, "message": "Method not found"}}),
        (True, {"result": {"action": "accept", "content": {"branch": 1}}}),
        (True, {"result": {"action": "accept"}}),
    ],
)
def test_a_form_that_is_not_filled_in_the_editor_is_filled_in_a_terminal_as_a_message_says(
    start_editor: StartEditor, serve_agent: ServeAgent, ctl: Ctl, is_able: bool, answer: dict[str, Any] | None
) -> None:
    serve_agent(form())
    editor = start_editor(*AGENT)
    if is_able:
        begin(editor)
    editor.on_form = lambda _: answer
    session = editor.new_session()
    running = editor.prompt(session, "go")
    wait_until(lambda: any("runtimectl permissions answer" in text for text in editor.texts()), "the message")
    [message] = [text for text in editor.texts() if "runtimectl permissions answer" in text]
    [request] = Client.from_env().worker(session).permissions()

    assert f"runtimectl permissions answer {session} {request.request_id} accept --content '" in message
    assert "Which branch?" in message
    assert (
        ctl("permissions", "answer", session, request.request_id, "accept", "--content", json.dumps(MAIN)).returncode
        == 0
    )

    assert running()["result"] == FINISHED
    assert len(editor.forms) == is_able
    assert not editor.asked


def test_a_form_that_is_filled_elsewhere_is_withdrawn_in_the_editor(
    start_editor: StartEditor, serve_agent: ServeAgent
) -> None:
    serve_agent(form())
    editor = start_editor(*AGENT)
    begin(editor)
    session = editor.new_session()
    running = editor.prompt(session, "go")
    wait_until(lambda: editor.forms, "the form")
    worker = Client.from_env().worker(session)
    [request] = worker.permissions()

    worker.answer(request.request_id, None, content=MAIN)

    assert running()["result"] == FINISHED
    wait_until(lambda: editor.withdrawn, "the request to be withdrawn")
    assert editor.withdrawn[0]["method"] == "$/cancel_request"
    assert result(editor) == {"action": "accept", "content": MAIN}


@pytest.mark.parametrize(
    "params", [{}, {"clientCapabilities": None}, {"clientCapabilities": {"elicitation": {"form": None, "url": {}}}}]
)
def test_an_editor_that_does_not_announce_forms_is_sent_none(params: dict[str, Any]) -> None:
    assert not takes_forms(params)
