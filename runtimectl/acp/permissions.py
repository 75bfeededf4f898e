"""Permission requests of a Worker, answered in the editor."""

import threading
from collections import deque
from contextlib import suppress
from typing import Any

from runtimectl.acp.background import in_background
from runtimectl.acp.jsonrpc import Id, Peer
from runtimectl.errors import ClientError
from runtimectl.library.worker import Worker
from runtimed.model.permission import Permission

PERMISSION_REQUEST = "permission_request"
PERMISSION_RESOLVED = "permission_resolved"
MAX_RESOLVED = 64
"""How many requests are remembered that have ended: a list of open ones may be older than their ends."""


class PermissionRequests:
    """Asks the editor what the Worker asks, each request once. The first answer counts, whoever gives it."""

    def __init__(self, worker: Worker, peer: Peer) -> None:
        self._worker = worker
        self._peer = peer
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
                if request.schema is None:  # A form is not a choice between options: others may fill it.
                    self._ask(request)

    def _ask(self, request: Permission) -> None:
        with self._lock:
            if request.request_id in self._asked or request.request_id in self._resolved:
                return
            self._asked[request.request_id] = None
        call = {"toolCallId": request.tool_call_id or request.request_id, "title": request.title}
        if request.tool_kind is not None:
            call["kind"] = request.tool_kind
        options = [{"optionId": each.option_id, "name": each.name, "kind": each.kind} for each in request.options]
        number = self._peer.ask(
            "session/request_permission",
            {"sessionId": self._worker.id, "toolCall": call, "options": options},
            lambda result: in_background(lambda: self._answer(request.request_id, result)),
        )
        with self._lock:
            if request.request_id in self._asked:
                self._asked[request.request_id] = number
                return
        self._peer.withdraw(number)

    def _answer(self, request_id: str, result: Any) -> None:
        outcome = result.get("outcome") if isinstance(result, dict) else None
        if not isinstance(outcome, dict):
            return  # The editor cannot answer. Others may, until the request expires.
        option = outcome.get("optionId") if outcome.get("outcome") == "selected" else None
        with suppress(ClientError):  # It may be answered already, or not have this option: it stays open then.
            self._worker.answer(request_id, option if isinstance(option, str) else None)

    def _forget(self, request_id: str) -> None:
        with self._lock:
            self._resolved.append(request_id)
            number = self._asked.pop(request_id, None)
        if number is not None:
            self._peer.withdraw(number)
