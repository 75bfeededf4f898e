"""One side of a JSON-RPC connection. Messages come in and go out as bytes; how they travel is somebody else's."""

import json
import threading
from collections.abc import Callable
from typing import Any, Protocol

from runtimectl.acp.errors import INVALID_REQUEST, PARSE_ERROR, MethodNotFound, RpcError

MAX_MESSAGE_BYTES = 32 << 20
MAX_PENDING_REQUESTS = 256
"""How many requests of ours may wait for their answers. The oldest is given up for one more."""

CANCEL_REQUEST = "$/cancel_request"
"""The notification that the answer to a request is not needed any more."""

Params = dict[str, Any]
Id = int | str
Answered = Callable[[Any], object]
"""Called with the result of a request of ours; with None if it was answered with an error."""


class Handler(Protocol):
    """What the other side asks for."""

    def request(self, request: "Request") -> None:
        """Take a request. It is answered now or later, from any thread."""

    def notification(self, method: str, params: Params) -> None:
        """Take a notification."""


class Request:
    """A request of the other side. Only its first answer counts.

    Attributes:
        id: What the other side calls it.
        method: The name of the method.
        params: Its parameters by name.
    """

    def __init__(self, peer: "Peer", request_id: Id, method: str, params: Params) -> None:
        self.id = request_id
        self.method = method
        self.params = params
        self._peer = peer
        self._open = threading.Lock()

    def succeed(self, result: Any) -> None:
        """Answer with a result."""
        self._answer({"result": result})

    def fail(self, error: RpcError) -> None:
        """Answer with an error."""
        self._answer({"error": {"code": error.code, "message": str(error)}})

    def _answer(self, fields: Params) -> None:
        if self._open.acquire(blocking=False):
            self._peer.send({"id": self.id, **fields})


class Peer:
    """Reads messages, and writes answers, notifications and requests of ours. Several threads may write.

    Args:
        write: Writes one message, whole.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._writing = threading.Lock()
        self._asking = threading.Lock()
        self._number = 0
        self._pending: dict[Id, Answered] = {}

    def receive(self, message: bytes, handler: Handler) -> None:
        """Take one message of the other side."""
        try:
            body = json.loads(message)
        except (ValueError, RecursionError):
            self._refuse(None, PARSE_ERROR, "expected JSON in UTF-8")
            return
        if not isinstance(body, dict):
            self._refuse(None, INVALID_REQUEST, "expected one object")
            return
        request_id, method, params = body.get("id"), body.get("method"), body.get("params")
        if method is None and ("result" in body or "error" in body):
            self._take_answer(request_id, body.get("result"))
        elif not isinstance(method, str) or not isinstance(params, dict | None) or not _is_id(request_id):
            self._refuse(
                request_id if _is_id(request_id) else None, INVALID_REQUEST, "expected a method and an object"
            )
        elif request_id is None:
            handler.notification(method, params or {})
        else:
            _dispatch(handler, Request(self, request_id, method, params or {}))

    def notify(self, method: str, params: Params) -> None:
        """Send a notification."""
        self.send({"method": method, "params": params})

    def ask(self, method: str, params: Params, answered: Answered) -> Id:
        """Send a request. Returns its id."""
        with self._asking:
            self._number += 1
            number = self._number
            self._pending[number] = answered
            if len(self._pending) > MAX_PENDING_REQUESTS:
                del self._pending[next(iter(self._pending))]
        self.send({"id": number, "method": method, "params": params})
        return number

    def withdraw(self, request_id: Id) -> None:
        """Tell the other side that the answer to a request of ours is not needed any more."""
        if self._take(request_id) is not None:
            self.notify(CANCEL_REQUEST, {"requestId": request_id})

    def send(self, fields: Params) -> None:
        """Send a message."""
        message = json.dumps({"jsonrpc": "2.0", **fields}, ensure_ascii=False, separators=(",", ":"))
        data = message.encode("utf-8", "replace")
        with self._writing:
            self._write(data)

    def _take_answer(self, request_id: Any, result: Any) -> None:
        answered = self._take(request_id) if _is_id(request_id) else None
        if answered is not None:
            answered(result)

    def _take(self, request_id: Id) -> Answered | None:
        with self._asking:
            return self._pending.pop(request_id, None)

    def _refuse(self, request_id: Id | None, code: int, message: str) -> None:
        self.send({"id": request_id, "error": {"code": code, "message": message}})


def _dispatch(handler: Handler, request: Request) -> None:
    try:
        handler.request(request)
    except RpcError as error:
        request.fail(error)


def _is_id(value: Any) -> bool:
    return value is None or (isinstance(value, int | str) and not isinstance(value, bool))


def unknown_method(method: str) -> MethodNotFound:
    """Return the error for a method that is not known."""
    return MethodNotFound(f"method not found: {method}")
