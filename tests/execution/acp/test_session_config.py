"""What is set in a session before its first prompt."""

from typing import Any

import pytest

from runtimed.core.state.backend_answer import BackendAnswer
from tests.execution.acp.conftest import NewHarness

SESSION = "s-1"
MODES = {
    "currentModeId": "auto",
    "availableModes": [{"id": "auto", "name": "Auto"}, {"id": "default", "name": "Ask"}],
}
MODE = {
    "id": "mode",
    "name": "Mode",
    "type": "select",
    "currentValue": "auto",
    "options": [{"value": "auto", "name": "Auto"}, {"value": "default", "name": "Ask"}],
}
MODEL = {
    "id": "model",
    "name": "Model",
    "type": "select",
    "currentValue": "small",
    "options": [{"group": "all", "name": "All", "options": [{"value": "small"}, {"value": "large"}]}],
}
FAST = {"id": "fast", "name": "Fast", "type": "boolean", "currentValue": False}
OPTIONS = {"configOptions": [MODE, MODEL, FAST]}
SET = "session/set_config_option"


def opening(**told: Any) -> dict[str, Any]:
    """A script of an agent that tells this of its new session, and takes whatever is set there."""
    new = [["answer", {"sessionId": SESSION, **told}]]
    return {"session": SESSION, "session/new": new, SET: [["answer", OPTIONS]], "session/set_mode": [["answer", {}]]}


async def test_the_configuration_of_the_profile_is_set_in_a_new_session(new_harness: NewHarness) -> None:
    harness = new_harness(opening(**OPTIONS), session_config={"mode": "default", "model": "large", "fast": "true"})

    assert await harness.spawn() == BackendAnswer("accepted")

    assert harness.heard(SET) == [
        {"sessionId": SESSION, "configId": "mode", "value": "default"},
        {"sessionId": SESSION, "configId": "model", "value": "large"},
        {"sessionId": SESSION, "configId": "fast", "type": "boolean", "value": True},
    ]


async def test_what_a_create_asks_for_goes_before_the_profile_key_by_key(new_harness: NewHarness) -> None:
    harness = new_harness(opening(**OPTIONS), session_config={"mode": "default", "model": "large"})

    await harness.spawn(session_config={"mode": "auto", "fast": "true"})

    assert [(told["configId"], told["value"]) for told in harness.heard(SET)] == [("model", "large"), ("fast", True)]


async def test_an_agent_that_offers_modes_alone_is_told_by_set_mode(new_harness: NewHarness) -> None:
    harness = new_harness(opening(modes=MODES), session_config={"mode": "default"})

    assert await harness.spawn() == BackendAnswer("accepted")

    assert harness.heard("session/set_mode") == [{"sessionId": SESSION, "modeId": "default"}]
    assert harness.heard(SET) == []


async def test_what_is_set_already_is_not_set_again(new_harness: NewHarness) -> None:
    harness = new_harness(opening(**OPTIONS), session_config={"mode": "auto", "model": "small", "fast": "false"})

    assert await harness.spawn() == BackendAnswer("accepted")

    assert harness.heard(SET) == []


@pytest.mark.parametrize("method", ["session/resume", "session/load"])
async def test_a_session_that_goes_on_is_configured_again(new_harness: NewHarness, method: str) -> None:
    able: dict[str, Any] = (
        {"sessionCapabilities": {"resume": {}}} if method == "session/resume" else {"loadSession": True}
    )
    harness = new_harness({**opening(**OPTIONS), "capabilities": able}, session_config={"mode": "default"})
    await harness.spawn()

    assert await harness.restart() == BackendAnswer("accepted")

    assert [told["value"] for told in harness.heard(SET)] == ["default", "default"]


async def test_an_agent_that_tells_nothing_of_its_options_is_asked_for_the_mode_in_both_ways(
    new_harness: NewHarness,
) -> None:
    script = {**opening(), SET: [["error", -32601, "Method not found"]]}
    harness = new_harness(script, session_config={"mode": "default"})

    assert await harness.spawn() == BackendAnswer("accepted")

    assert harness.heard("session/set_mode") == [{"sessionId": SESSION, "modeId": "default"}]


@pytest.mark.parametrize(
    ("told", "config", "problem"),
    [
        (OPTIONS, {"mode": "yolo"}, "session_config.mode: expected one of auto, default, got 'yolo'"),
        (OPTIONS, {"fast": "yes"}, "session_config.fast: expected one of true, false, got 'yes'"),
        (OPTIONS, {"mood": "fine"}, "session_config.mood: the agent offers only mode, model, fast"),
        ({"modes": MODES}, {"mode": "yolo"}, "session_config.mode: expected one of auto, default, got 'yolo'"),
        ({"modes": MODES}, {"model": "large"}, "session_config.model: the agent offers only mode"),
        ({}, {"model": "large"}, "session_config.model: the agent refused 'large': Method not found"),
    ],
)
async def test_what_can_not_be_set_fails_the_spawn_and_names_the_key(
    new_harness: NewHarness, told: dict[str, Any], config: dict[str, str], problem: str
) -> None:
    script = opening(**told) if told else {**opening(), SET: [["error", -32601, "Method not found"]]}
    harness = new_harness(script, session_config=config)

    answer = await harness.spawn()

    assert answer == BackendAnswer("errored", f"the agent could not be started: {problem}")


async def test_an_agent_that_refuses_to_set_something_fails_the_spawn(new_harness: NewHarness) -> None:
    script = {**opening(**OPTIONS), SET: [["error", -32602, "not in this plan"]]}
    harness = new_harness(script, session_config={"model": "large"})

    answer = await harness.spawn()

    assert answer.outcome == "errored"
    assert answer.message == (
        "the agent could not be started: session_config.model: the agent refused 'large': not in this plan"
    )


@pytest.mark.parametrize(
    "odd",
    [
        {"configOptions": 5},
        {"configOptions": [5, {"id": 5}, {"id": "mode", "options": [5, {"options": 5}, {"value": 5}]}]},
        {"modes": {"availableModes": [5, {"id": 5}]}},
        {"modes": {"availableModes": 5}},
        {"modes": 5},
    ],
)
async def test_odd_options_of_an_agent_end_nothing(new_harness: NewHarness, odd: dict[str, Any]) -> None:
    script = {
        **opening(),
        "session/resume": [["answer", odd]],
        "capabilities": {"sessionCapabilities": {"resume": {}}},
    }
    harness = new_harness(script, session_config={"mode": "default"})
    await harness.spawn()

    assert await harness.restart() == BackendAnswer("accepted")


@pytest.mark.parametrize(
    ("offers", "files", "shell"),
    [
        (None, {"readTextFile": True, "writeTextFile": True}, True),
        (("shell",), {"readTextFile": False, "writeTextFile": False}, True),
        (("read",), {"readTextFile": True, "writeTextFile": False}, False),
        ((), {"readTextFile": False, "writeTextFile": False}, False),
    ],
)
async def test_an_agent_is_offered_the_files_and_terminals_of_the_profile_or_else_of_its_capabilities(
    new_harness: NewHarness, offers: Any, files: dict[str, bool], shell: bool
) -> None:
    harness = new_harness(capabilities=("read", "write", "shell"), offers=offers)
    await harness.spawn()

    (greeting,) = harness.heard("initialize")

    offered = greeting["clientCapabilities"]
    assert (offered["fs"], offered["terminal"]) == (files, shell)


async def test_what_is_not_offered_is_refused(new_harness: NewHarness) -> None:
    asked = ["tell", "fs/write_text_file", {"path": "/x", "content": "x"}]
    harness = new_harness({"session/prompt": [[asked, ["end"]]]}, capabilities=("write",), offers=())
    await harness.spawn()

    sink = await harness.run()

    assert "-32601" in sink.text
