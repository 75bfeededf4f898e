"""Forms that a Worker asks people to fill, as elicitations of the protocol. Pure."""

import json
import shlex
from typing import Any, NamedTuple

from runtimectl.acp.jsonrpc import Params
from runtimed.model.permission import Permission

ACCEPT = "accept"
DECLINE = "decline"
CANCEL = "cancel"


class FormAnswer(NamedTuple):
    """How an editor answers a form: it selects an option, fills the form, or cancels it with neither."""

    option_id: str | None = None
    content: dict[str, Any] | None = None


def form_params(worker_id: str, request: Permission) -> Params:
    """Return the parameters of `elicitation/create` for a request with a form."""
    call = {} if request.tool_call_id is None else {"toolCallId": request.tool_call_id}
    shown = {"mode": "form", "message": request.title, "requestedSchema": request.schema}
    return {"sessionId": worker_id, **call, **shown}


def read_form_answer(result: Any) -> FormAnswer | None:
    """Return what an editor answers, or None if it cannot show the form."""
    action = result.get("action") if isinstance(result, dict) else None
    if action == ACCEPT:
        content = result.get("content")
        return FormAnswer(content=content if isinstance(content, dict) else {})
    return {DECLINE: FormAnswer(DECLINE), CANCEL: FormAnswer()}.get(str(action))


def elsewhere(worker_id: str, request: Permission) -> str:
    """Return how to fill a form elsewhere."""
    names = (request.schema or {}).get("properties")
    values = json.dumps(dict.fromkeys(names, "…") if isinstance(names, dict) else {}, ensure_ascii=False)
    command = f"runtimectl permissions answer {worker_id} {request.request_id} {ACCEPT}"
    how = f"Fill its form in a terminal: {command} --content {shlex.quote(values)}"
    return f"The agent asks for input: {request.title}\n{how}\n"
