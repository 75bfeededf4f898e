"""The trial of the agents, as far as it goes without them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from runtimed.settings import load

AGENTS = Path(__file__).parents[2] / "contrib" / "agents"
TRIAL = AGENTS / "trial"
SPEAK = """
import json, sys
from providers import DIALECTS
dialect, request = json.load(sys.stdin)
speak = next(speak for end, speak in DIALECTS if end == dialect)
print(json.dumps(list(speak(request))))
"""
INSERT = """
import json, sys
from page import insert
print(insert(**json.load(sys.stdin)), end="")
"""
ASK = """
import json, sys, urllib.error, urllib.request
from providers import KEY, serving
with serving() as url:
    for headers in ({}, {"x-api-key": "another"}, {"x-api-key": KEY}, {"Authorization": f"Bearer {KEY}"}):
        request = urllib.request.Request(f"{url}/v1/messages", b'{"messages": []}', headers)
        try:
            print(urllib.request.urlopen(request).status)
        except urllib.error.HTTPError as error:
            print(error.code)
"""
CONFIGURE = """
import sys
from pathlib import Path
from agents import AGENTS
from daemon import Daemon
folder = Path(sys.argv[1])
for agent in AGENTS:
    found = agent.configuration(folder / "program", "http://127.0.0.1:9", folder / "key")
    print(Daemon(folder / agent.name, found, folder / "key").config)
"""
TABLE = """
import json, runpy
COLUMNS = runpy.run_path('__main__.py')['COLUMNS']
from page import PAGE, TABLE
lines = TABLE.search(PAGE.read_text())[1].splitlines()
print(json.dumps([COLUMNS, [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]]))
"""

RUN = "RUN echo hi"
SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
TOOL = {"name": "bash", "description": "run"}


def run(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=TRIAL, input=given, capture_output=True, text=True, timeout=60, check=False)


def events(dialect: str, request: dict[str, Any]) -> list[Any]:
    done = run("-c", SPEAK, given=json.dumps([dialect, request]))
    assert done.returncode == 0, done.stderr
    return [data for _, data in json.loads(done.stdout)]


def test_an_agent_that_is_none_is_refused_with_the_names_of_those_that_are() -> None:
    done = run(str(TRIAL), "nobody")

    assert done.returncode == 2
    assert "'nobody': expected claude, codex, gemini, opencode, pydantic, qwen" in done.stderr


@pytest.mark.parametrize(
    ("dialect", "request_", "call"),
    [
        (
            "/chat/completions",
            {
                "messages": [{"role": "user", "content": RUN}],
                "tools": [{"type": "function", "function": {**TOOL, "parameters": SCHEMA}}],
            },
            '"name": "bash", "arguments": "{\\"command\\": \\"echo hi\\"}"',
        ),
        (
            "/responses",
            {"input": [{"role": "user", "content": RUN}], "tools": [{**TOOL, "parameters": SCHEMA}]},
            '"name": "bash", "arguments": "{\\"command\\": \\"echo hi\\"}"',
        ),
        (
            "/messages",
            {"messages": [{"role": "user", "content": RUN}], "tools": [{**TOOL, "input_schema": SCHEMA}]},
            '"partial_json": "{\\"command\\": \\"echo hi\\"}"',
        ),
        (
            ":streamGenerateContent",
            {
                "contents": [{"role": "user", "parts": [{"text": RUN}]}],
                "tools": [{"functionDeclarations": [{**TOOL, "parameters": SCHEMA}]}],
            },
            '{"functionCall": {"name": "bash", "args": {"command": "echo hi"}}}',
        ),
    ],
)
def test_the_model_calls_the_tool_for_commands_in_each_dialect(
    dialect: str, request_: dict[str, Any], call: str
) -> None:
    assert call in json.dumps(events(dialect, request_))


def test_the_model_ends_once_a_tool_has_answered() -> None:
    conversation = [{"role": "user", "content": RUN}, {"role": "tool", "content": "hi"}]

    said = events("/chat/completions", {"messages": conversation, "tools": []})

    assert said[0]["choices"][0]["delta"]["content"] == "That is all."


@pytest.mark.parametrize(
    ("dialect", "conversation"),
    [
        (
            "/messages",
            [
                {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "Bash", "input": {}}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "1", "content": "SAY too early"},
                        {"type": "text", "text": "SAY hello"},
                    ],
                },
                {"role": "system", "content": "<system-reminder>a date</system-reminder>"},
            ],
        ),
        (
            ":streamGenerateContent",
            [
                {"role": "model", "parts": [{"functionCall": {"name": "run", "args": {}}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "run", "response": {}}}]},
                {"role": "user", "parts": [{"text": "SAY hello"}]},
            ],
        ),
        (
            "/responses",
            [
                {"type": "function_call", "name": "shell", "arguments": "{}", "call_id": "1"},
                {"type": "function_call_output", "call_id": "1", "output": "SAY too early"},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "SAY hello"}]},
                {"role": "user", "content": [{"type": "input_text", "text": "<environment_context>"}]},
            ],
        ),
        (
            "/chat/completions",
            [
                {"role": "assistant", "content": None, "tool_calls": []},
                {"role": "tool", "content": "SAY too early"},
                {"role": "user", "content": "SAY hello"},
            ],
        ),
    ],
)
def test_the_model_does_what_is_said_after_its_last_turn_in_whichever_of_the_messages(
    dialect: str, conversation: list[dict[str, Any]]
) -> None:
    key = {":streamGenerateContent": "contents", "/responses": "input"}.get(dialect, "messages")

    said = json.dumps(events(dialect, {key: conversation}))

    assert '"hello"' in said
    assert "too early" not in said


@pytest.mark.parametrize(("words", "answer"), [("SAY hello", "You said so before."), ("", "You never said so.")])
def test_the_model_recalls_only_what_the_conversation_has(words: str, answer: str) -> None:
    before = [{"role": "user", "content": words}, {"role": "assistant", "content": "I see."}]
    conversation = [*before, {"role": "user", "content": "RECALL hello"}]

    said = events("/chat/completions", {"messages": conversation})

    assert said[0]["choices"][0]["delta"]["content"] == answer


def test_the_provider_answers_only_to_its_key() -> None:
    done = run("-c", ASK)

    assert done.stdout.split() == ["401", "401", "200", "200"], done.stderr


def test_a_trial_runs_the_recipe_with_its_own_program_provider_and_key(tmp_path: Path) -> None:
    done = run("-c", CONFIGURE, str(tmp_path))

    assert done.stderr == ""
    for config in map(Path, done.stdout.splitlines()):
        name, configured = config.parent.name, load({}, str(config))
        recipe = load({}, str(AGENTS / f"{name}.toml")).profile_table()[f"builtin:{name}"]
        profile = configured.profile_table()["builtin:trial"]
        [gateway] = configured.host_resources().gateways.values()
        [secret] = configured.host_resources().secrets.values()
        assert profile.env.keys() >= recipe.env.keys()
        assert attrs.evolve(profile, env={}, command=()) == attrs.evolve(recipe, env={}, command=())
        assert gateway.upstream.startswith("http://127.0.0.1:9")
        assert secret.file == tmp_path / "key"


def test_a_trial_replaces_the_rows_of_its_agents_in_the_page_and_no_others() -> None:
    page = "before\n<!-- table of agents -->\n\n| agent | text |\n| --- | --- |\n{}\n<!-- end -->\nafter\n"
    given = {"page": page.format("| codex | no |\n| qwen | yes |\n"), "columns": ["agent", "text"]}

    done = run("-c", INSERT, given=json.dumps({**given, "rows": [["codex", "yes"], ["claude", "yes"]]}))

    assert done.stderr == ""
    assert done.stdout == page.format("| claude | yes |\n| codex | yes |\n| qwen | yes |\n")


def test_the_page_has_a_row_for_each_recipe_with_the_version_it_names_and_a_cell_for_each_check() -> None:
    columns, (head, _, *rows) = json.loads(run("-c", TABLE).stdout)
    recipes = {recipe.stem: recipe.read_text() for recipe in AGENTS.glob("*.toml")}

    assert head == columns
    checks = ["text", "confined", "tool", "permission", "denied", "interrupt", "restart", "diff"]
    assert columns[2:] == [*checks, "warm/cold"]
    assert [row[0] for row in rows] == sorted(recipes)
    assert all(len(row) == len(columns) and all(row) for row in rows)
    assert all(f" {version}" in recipes[name] for name, version, *_ in rows)
