"""The prompts that an agent is sent."""

from typing import Any

from runtimed.model.interaction import WorkerInput
from runtimed.model.worker import Intent, RoleIntent, TaskIntent

SYSTEM_MARK = "Message of the system, not of the user:"


def introduction(intent: Intent) -> str | None:
    """Return the intent of a Worker as context for its first prompt; None if it has none."""
    lines = []
    if isinstance(intent, TaskIntent):
        lines.append(f"Your objective: {intent.objective}")
    if isinstance(intent, RoleIntent):
        lines.append(f"Your role: {intent.role}")
    if not isinstance(intent, TaskIntent) and intent.purpose:
        lines.append(f"Your purpose: {intent.purpose}")
    return "\n".join(lines) or None


def blocks(given: WorkerInput, context: str | None) -> list[dict[str, Any]]:
    """Return the content blocks of a prompt.

    Args:
        given: The input.
        context: Text to put in front of it, if any.
    """
    text = given.content if given.kind == "user" else f"{SYSTEM_MARK}\n\n{given.content}"
    return [{"type": "text", "text": part} for part in (context, text) if part]
