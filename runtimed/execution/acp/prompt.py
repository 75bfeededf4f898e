"""What is said to an agent."""

from typing import Any

from runtimed.model.interaction import WorkerInput
from runtimed.model.worker import Intent, RoleIntent, TaskIntent

SYSTEM_MARK = "Message of the system, not of the user:"


def introduction(intent: Intent) -> str | None:
    """What a Worker is there for, as context that comes before its first prompt; None where nothing was said."""
    lines = []
    if isinstance(intent, TaskIntent):
        lines.append(f"Your objective: {intent.objective}")
    if isinstance(intent, RoleIntent):
        lines.append(f"Your role: {intent.role}")
    if not isinstance(intent, TaskIntent) and intent.purpose:
        lines.append(f"Your purpose: {intent.purpose}")
    return "\n".join(lines) or None


def blocks(given: WorkerInput, context: str | None) -> list[dict[str, Any]]:
    """The content of a prompt."""
    text = given.content if given.kind == "user" else f"{SYSTEM_MARK}\n\n{given.content}"
    return [{"type": "text", "text": said} for said in (context, text) if said]
