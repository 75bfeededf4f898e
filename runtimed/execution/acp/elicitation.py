"""Forms that an agent asks people to fill: elicitations of ACP as permission requests."""

from collections.abc import Mapping
from typing import Any

import orjson

from runtimed.core.state.form import defaults
from runtimed.execution.acp.tool_calls import MAX_TITLE
from runtimed.execution.acp.tool_content import as_text
from runtimed.execution.profile import Profile
from runtimed.model.permission import ELICITATION, PermissionOption, Question, Ruling

MAX_SCHEMA_BYTES = 16 << 10
"""The largest form, in bytes of JSON; a larger one is refused."""

ACCEPT = "accept"
DECLINE = "decline"
OPTIONS = (PermissionOption(ACCEPT, "Accept", "allow_once"), PermissionOption(DECLINE, "Decline", "reject_once"))


class FormRefused(Exception):
    """A form can't be shown; the text is for the agent."""


def check_form(schema: object) -> None:
    """Raise FormRefused if a form can't be shown."""
    if not isinstance(schema, dict) or not isinstance(schema.get("properties", {}), dict):
        raise FormRefused("requestedSchema: expected the schema of an object")
    try:
        size = len(orjson.dumps(schema))
    except orjson.JSONEncodeError:
        raise FormRefused("requestedSchema: it is nested too deeply") from None
    if size > MAX_SCHEMA_BYTES:
        raise FormRefused(f"requestedSchema: expected at most {MAX_SCHEMA_BYTES} bytes of JSON")


def form_question(params: Mapping[str, Any], profile: Profile, call_id: str | None, other: str | None) -> Question:
    """Return the permission request of a form.

    Args:
        params: The parameters of the agent's request, with a schema that `check_form` accepts.
        profile: Whose policy may rule on it.
        call_id: The tool call that it belongs to, as events show it.
        other: The session that asks, if that is not the Worker's own.
    """
    schema: dict[str, Any] = params["requestedSchema"]
    content = defaults(schema) if profile.permissions == "allow" else None
    ruled = DECLINE if profile.permissions == "deny" else None if content is None else ACCEPT
    title = as_text(params.get("message"), "the agent asks for input")[:MAX_TITLE]
    timeout_s = profile.permission_timeout_s
    return Question(title, call_id, OPTIONS, timeout_s, ruled, other, ELICITATION, schema, content)


def form_answer(ruling: Ruling) -> dict[str, Any]:
    """Return what the agent is answered."""
    if ruling.outcome != "selected":
        return {"action": "cancel"}
    if ruling.option_id == ACCEPT:
        return {"action": "accept", "content": ruling.content or {}}
    reason = {} if ruling.reason is None else {"_meta": {"reason": ruling.reason}}
    return {"action": "decline", **reason}
