"""What a Worker's items say about its session: a title, and the commands that its agent offers.

The items have the kinds and the content of the Agent Client Protocol. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runtimed.model.worker import SlashCommand

SESSION_INFO = "session_info_update"
COMMANDS = "available_commands_update"

MAX_TITLE = 200
"""The most characters of a title; the rest is cut off."""

MAX_COMMANDS = 128
"""The most commands that are kept of a Worker."""

MAX_COMMAND_NAME = 100
"""The most characters of the name of a command; one with a longer name is left out."""

MAX_DESCRIPTION = 300
"""The most characters of the description and the hint of a command."""


def title_after(item: Mapping[str, Any], before: str | None) -> str | None:
    """Return the title of a Worker after an item. Null takes it away; without the field it stays."""
    content = item.get("content")
    if item.get("kind") != SESSION_INFO or not isinstance(content, Mapping) or "title" not in content:
        return before
    return _cut(content["title"], MAX_TITLE) or None


def commands_after(item: Mapping[str, Any], before: tuple[SlashCommand, ...]) -> tuple[SlashCommand, ...]:
    """Return the commands of a Worker after an item: a list replaces the one before."""
    content = item.get("content")
    if item.get("kind") != COMMANDS or not isinstance(content, Mapping):
        return before
    given = content.get("availableCommands")
    return tuple(_commands(given[:MAX_COMMANDS])) if isinstance(given, list) else before


def _commands(given: Iterable[object]) -> Iterator[SlashCommand]:
    for command in given:
        name = command.get("name") if isinstance(command, Mapping) else None
        if not isinstance(command, Mapping) or not isinstance(name, str) or not 0 < len(name) <= MAX_COMMAND_NAME:
            continue
        expected = command.get("input")
        hint = expected.get("hint") if isinstance(expected, Mapping) else None
        yield SlashCommand(
            name, _cut(command.get("description"), MAX_DESCRIPTION), _cut(hint, MAX_DESCRIPTION) or None
        )


def _cut(text: object, most: int) -> str:
    """Return a text on one line; empty if it is none."""
    return " ".join(text.split())[:most] if isinstance(text, str) else ""
