"""The trial of the agents, as far as it goes without them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TRIAL = Path(__file__).parents[2] / "contrib" / "agents" / "trial"
SPEAK = """
import json, sys
from providers import DIALECTS
dialect, request = json.load(sys.stdin)
speak = next(speak for end, speak in DIALECTS if end == dialect)
print(json.dumps(list(speak(request))))
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
