"""What the scripted model says: the last words of the user decide, and no state is kept.

`SAY words` is answered with the words, `RUN command` with a call of the agent's tool for commands, `WRITE file` with
one of its tool for files. `RECALL words` is answered with whether the words came earlier in the conversation. Once a
tool has answered, the model says DONE.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DONE = "That is all."
WRITTEN = "written by the model\n"
REMEMBERED = "You said so before."
FORGOTTEN = "You never said so."
ORDER = re.compile(r"\b(SAY|RUN|WRITE|RECALL) ([^\n<]+)")

COMMANDS = ("Bash", "bash", "run_shell_command", "exec_command", "shell_command", "shell", "run_command", "execute")
FILES = ("Write", "write", "write_file", "edit_file")
PATCH = """apply_patch <<'END'
*** Begin Patch
*** Add File: {file}
+{text}
*** End Patch
END"""
"""How an agent without a tool for files, Codex, is told to write one."""

BEYOND_SANDBOX = {"with_escalated_permissions": True, "sandbox_permissions": "require_escalated"}
"""Arguments with which a model wants a command outside of the sandbox of its agent, so that the agent asks."""


@dataclass(frozen=True)
class Tool:
    """A tool that the agent offers its model: its name, and the JSON Schema of its arguments."""

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Call:
    """A call of a tool."""

    tool: str
    arguments: dict[str, Any]


def answer(said: str, tools: Sequence[Tool], earlier: str = "") -> str | Call:
    """Return what the model says.

    Args:
        said: What the user said after the model's last message; an empty text after the result of a tool.
        tools: The tools that the agent offers.
        earlier: The conversation up to the model's last message.
    """
    orders = ORDER.findall(said)
    if not orders:
        return DONE
    verb, rest = orders[-1]
    if verb == "SAY":
        return str(rest)
    if verb == "RECALL":
        return REMEMBERED if rest in earlier else FORGOTTEN
    names = COMMANDS if verb == "RUN" else FILES
    found = next((tool for name in names for tool in tools if tool.name == name), None)
    if found is None and verb == "WRITE":
        rest, verb = PATCH.format(file=rest.rpartition("/")[2], text=WRITTEN.rstrip()), "RUN"
        found = next((tool for name in COMMANDS for tool in tools if tool.name == name), None)
    if found is None:
        return f"I have no tool for that, only {', '.join(tool.name for tool in tools) or 'none'}."
    return Call(found.name, dict(_arguments(found, rest, is_command=verb == "RUN")))


def _arguments(tool: Tool, rest: str, *, is_command: bool) -> Iterator[tuple[str, Any]]:
    """Yield the arguments that a tool requires, by what they are called in its schema."""
    properties: Mapping[str, Any] = tool.schema.get("properties", {})
    for name, schema in properties.items():
        if is_command and name in BEYOND_SANDBOX:
            yield name, BEYOND_SANDBOX[name]
        elif is_command and name in {"command", "cmd"}:
            yield name, ["bash", "-lc", rest] if schema.get("type") == "array" else rest
        elif not is_command and name in {"file_path", "filePath", "path", "absolute_path"}:
            yield name, rest
        elif not is_command and name in {"content", "contents", "text"}:
            yield name, WRITTEN
        elif name in tool.schema.get("required", ()):
            yield name, _filler(schema)


def _filler(schema: Mapping[str, Any]) -> Any:
    """Return a value for an argument that does not matter here."""
    if choices := schema.get("enum"):
        return choices[0]
    return {"boolean": False, "integer": 1, "number": 1, "array": [], "object": {}}.get(
        schema.get("type", ""), "trial"
    )


def as_json(call: Call) -> str:
    """Return the arguments of a call as JSON."""
    return json.dumps(call.arguments)
