"""Permission requests of a Worker, answered in the editor."""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from runtimectl.acp.background import in_background
from runtimectl.acp.forms import elsewhere, form_params, read_form_answer
from runtimectl.acp.jsonrpc import Id, Params, Peer
from runtimectl.errors import ClientError
from runtimectl.library.worker import Worker
from runtimed.model.permission import Permission

PERMISSION_REQUEST = "permission_request"
PERMISSION_RESOLVED = "permission_resolved"
ANSWERED = "permission_not_found"
"""The code of the refusal of an answer that comes second."""

MAX_RESOLVED = 64
"""How many requests are remembered that have ended: a list of open ones may be older than their ends."""


class PermissionRequests:
    """Asks the editor what the Worker asks, each request once. The first answer counts, whoever gives it.

    Args:
        worker: The Worker.
        peer: The editor.
        takes_forms: The editor shows forms.
        say: Shows a text in the session.
    """

    def __init__(self, worker: Worker, peer: Peer, say: Callable[[str], None], *, takes_forms: bool) -> None:
        self._worker = worker
        self._peer = peer
        self._say = say
        self._takes_forms = takes_forms
        self._lock = threading.Lock()
        self._asked: dict[str, Id | None] = {}
        self._resolved: deque[str] = deque(maxlen=MAX_RESOLVED)

    def ask_open(self) -> None:
        """Ask about the requests that are open and were not asked yet. Does not wait for the daemon."""
        in_background(self._ask_open)

    def record(self, item: dict[str, Any]) -> None:
        """Take an item of the Worker: a new request, or the end of one."""
        if item.get("kind") == PERMISSION_REQUEST:
            self.ask_open()  # The profile may have answered it already; then it is not open.
        elif item.get("kind") == PERMISSION_RESOLVED:
            self._forget(str(item.get("request_id")))

    def _ask_open(self) -> None:
        with suppress(ClientError):
            for request in self._worker.permissions():
                if self._add(request.request_id):
                    self._ask(request)

    def _add(self, request_id: str) -> bool:
        """Return whether a request is new here."""
        with self._lock:
            if request_id in self._asked or request_id in self._resolved:
                return False
            self._asked[request_id] = None
        return True

    def _ask(self, request: Permission) -> None:
        if request.schema is None:
            self._send(request, "session/request_permission", self._choice(request), self._choose)
        elif self._takes_forms:
            self._send(request, "elicitation/create", form_params(self._worker.id, request), self._fill)
        else:
            self._say(elsewhere(self._worker.id, request))

    def _send(
        self, request: Permission, method: str, params: Params, answer: Callable[[Permission, Any], None]
    ) -> None:
        number = self._peer.ask(method, params, lambda result: in_background(lambda: answer(request, result)))
        with self._lock:
            if request.request_id in self._asked:
                self._asked[request.request_id] = number
                return
        self._peer.withdraw(number)

    def _choice(self, request: Permission) -> Params:
        call = {"toolCallId": request.tool_call_id or request.request_id, "title": request.title}
        if request.tool_kind is not None:
            call["kind"] = request.tool_kind
        options = [{"optionId": each.option_id, "name": each.name, "kind": each.kind} for each in request.options]
        return {"sessionId": self._worker.id, "toolCall": call, "options": options}

    def _choose(self, request: Permission, result: Any) -> None:
        outcome = result.get("outcome") if isinstance(result, dict) else None
        if not isinstance(outcome, dict):
            return  # The editor cannot answer. Others may, until the request expires.
        option = outcome.get("optionId") if outcome.get("outcome") == "selected" else None
        with suppress(ClientError):  # It may be answered already, or not have this option: it stays open then.
            self._worker.answer(request.request_id, option if isinstance(option, str) else None)

    def _fill(self, request: Permission, result: Any) -> None:
        answer = read_form_answer(result)
        if answer is None:
            self._say(elsewhere(self._worker.id, request))
            return
        try:
            self._worker.answer(request.request_id, answer.option_id, content=answer.content)
        except ClientError as error:
            if getattr(error, "code", "") != ANSWERED:
                self._say(f"{error}\n{elsewhere(self._worker.id, request)}")

    def _forget(self, request_id: str) -> None:
        with self._lock:
            self._resolved.append(request_id)
            number = self._asked.pop(request_id, None)
        if number is not None:
            self._peer.withdraw(number)
