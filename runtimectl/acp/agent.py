"""The methods that an editor calls, and the sessions that it has open."""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

from runtimectl.acp.background import in_background
from runtimectl.acp.capabilities import INITIALIZED, takes_forms
from runtimectl.acp.errors import Failed, InvalidParams, RpcError, SessionNotFound
from runtimectl.acp.jsonrpc import CANCEL_REQUEST, Params, Peer, Request, unknown_method
from runtimectl.errors import ApiError, ClientError

if TYPE_CHECKING:
    from runtimectl.acp.session import Session
    from runtimectl.acp.workers import NewWorker
    from runtimectl.library.worker import Worker
    from runtimed.model.worker import WorkerDetail

MAX_SESSIONS = 64
"""How many sessions one editor may have open."""

STOP_WAIT_S = 10.0
"""How long the end of the editor waits for Workers that are being created, and then for their ends, if it stops them.
"""


class Workers(Protocol):
    """Makes and finds the Workers of sessions."""

    def create(self, cwd: str, directories: tuple[str, ...], mcp_servers: list[Any]) -> "NewWorker":
        """Create a Worker that works in a folder. Raises RpcError or ClientError if it is refused."""

    def sessions(self, cwd: str | None, cursor: str | None) -> dict[str, Any]:
        """Return a page of the sessions that run in a folder, or in any, as `session/list` answers it."""

    def find(self, worker_id: str) -> "Worker":
        """Return the Worker with this id. Sends no request."""


class Agent:
    """An agent of the protocol whose sessions are Workers. It is the handler of one editor's messages.

    Args:
        peer: The editor.
        connect: Returns what makes and finds the Workers. It is called with the first session.
    """

    def __init__(self, peer: Peer, connect: Callable[[], Workers]) -> None:
        self._peer = peer
        self._connect = connect
        self._sessions: dict[str, Session] = {}
        self._created: dict[str, Worker] = {}
        self._creations: list[threading.Thread] = []
        self._takes_forms = False
        self._lock = threading.Lock()
        self._methods: dict[str, Callable[[Request], None]] = {
            "initialize": self._initialize,
            "authenticate": lambda request: request.succeed({}),
            "session/new": self._new,
            "session/load": lambda request: self._open(request, replays=True),
            "session/resume": lambda request: self._open(request, replays=False),
            "session/list": self._list,
            "session/prompt": lambda request: self._session(request.params).prompt(request),
            "session/close": self._close,
            "session/delete": self._delete,
        }

    @cached_property
    def _workers(self) -> Workers:
        return self._connect()

    def request(self, request: Request) -> None:
        act = self._methods.get(request.method)
        if act is None:
            raise unknown_method(request.method)
        act(request)

    def notification(self, method: str, params: Params) -> None:
        if method == "session/cancel":
            session = self._sessions.get(str(params.get("sessionId")))
            if session is not None:
                session.cancel()
        elif method == CANCEL_REQUEST and isinstance(request_id := params.get("requestId"), int | str):
            for session in self._open_sessions():
                session.cancel_prompt(request_id)

    def stop_workers(self) -> None:
        """Stop the Workers that this agent created, also those that it creates now.

        Those that cannot be stopped within STOP_WAIT_S live on.
        """
        _join(self._creations)
        _join([in_background(partial(_stop, worker)) for worker in self._created.values()])

    def _initialize(self, request: Request) -> None:
        self._takes_forms = takes_forms(request.params)
        request.succeed(INITIALIZED)

    def _new(self, request: Request) -> None:
        cwd, servers = _folder(request.params, "cwd"), _list(request.params, "mcpServers")
        directories = tuple(map(str, _list(request.params, "additionalDirectories")))
        creation = _answer(request, lambda: self._create(request, cwd, directories, servers))
        self._creations = [*(one for one in self._creations if one.is_alive()), creation]

    def _create(self, request: Request, cwd: str, directories: tuple[str, ...], servers: list[Any]) -> None:
        worker, remark = self._workers.create(cwd, directories, servers)
        try:
            session = self._add(worker)
        except Failed:
            discard(worker)
            raise
        self._created[worker.id] = worker
        request.succeed({"sessionId": worker.id})
        if remark is not None:
            session.say(remark)
        session.follow("wo_0000000000000000")

    def _open(self, request: Request, *, replays: bool) -> None:
        worker_id = _session_id(request.params)
        _answer(request, lambda: self._show(request, worker_id, replays=replays))

    def _show(self, request: Request, worker_id: str, *, replays: bool) -> None:
        worker = self._workers.find(worker_id)
        detail = worker.detail()
        session = self._add(worker)
        if replays:
            self._replay(session, detail)
        request.succeed({})
        cursor = None if replays else _cursor(request.params)
        session.follow(detail.last_cursor if cursor is None else cursor)

    def _replay(self, session: "Session", detail: "WorkerDetail") -> None:
        try:
            session.replay(detail)
        except ClientError:
            with self._lock:
                if self._sessions.get(session.worker.id) is session:
                    del self._sessions[session.worker.id]
            session.close()  # Its prompts would wait for ever.
            raise

    def _add(self, worker: "Worker") -> "Session":
        from runtimectl.acp.session import Session

        session = Session(worker, self._peer, takes_forms=self._takes_forms)
        with self._lock:
            earlier = self._sessions.pop(worker.id, None)
            if earlier is None and len(self._sessions) >= MAX_SESSIONS:
                raise Failed(f"expected at most {MAX_SESSIONS} open sessions: close one")
            self._sessions[worker.id] = session
        if earlier is not None:
            earlier.close()
        return session

    def _list(self, request: Request) -> None:
        cwd, cursor = request.params.get("cwd"), request.params.get("cursor")
        if cwd is not None:
            cwd = _folder(request.params, "cwd")
        if not isinstance(cursor, str | None):
            raise InvalidParams("cursor: expected a text")
        _answer(request, lambda: request.succeed(self._workers.sessions(cwd, cursor)))

    def _open_sessions(self) -> "list[Session]":
        with self._lock:
            return list(self._sessions.values())

    def _close(self, request: Request) -> None:
        session = self._session(request.params)
        self._sessions.pop(session.worker.id, None)
        session.cancel()
        session.close()
        request.succeed({})

    def _delete(self, request: Request) -> None:
        worker_id = _session_id(request.params)
        _answer(request, lambda: self._delete_worker(request, worker_id))

    def _delete_worker(self, request: Request, worker_id: str) -> None:
        discard(self._workers.find(worker_id))
        self._created.pop(worker_id, None)
        session = self._sessions.pop(worker_id, None)
        if session is not None:
            session.close()
        request.succeed({})

    def _session(self, params: Params) -> "Session":
        session_id = _session_id(params)
        session = self._sessions.get(session_id)
        if session is None:
            raise SessionNotFound(f"session {session_id} is not open: load or resume it first")
        return session


def _answer(request: Request, act: Callable[[], None]) -> threading.Thread:
    """Do what waits for the daemon, and answer with its error if it fails. Returns the thread that does it."""

    def attempt() -> None:
        try:
            act()
        except RpcError as error:
            request.fail(error)
        except ClientError as error:
            request.fail(_rpc_error(error))

    return in_background(attempt)


def _join(threads: Iterable[threading.Thread]) -> None:
    """Wait for the ends of threads, for at most STOP_WAIT_S."""
    deadline = time.monotonic() + STOP_WAIT_S
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))


def _stop(worker: "Worker") -> None:
    with suppress(ClientError):
        worker.stop("the editor has ended")


def discard(worker: "Worker") -> None:
    """Stop a Worker and delete it. Raises ClientError if the daemon refuses that."""
    worker.stop("its session was ended in the editor")
    worker.delete()


def _rpc_error(error: ClientError) -> RpcError:
    is_unknown = isinstance(error, ApiError) and error.code == "worker_not_found"
    return SessionNotFound(str(error)) if is_unknown else Failed(str(error))


def _session_id(params: Params) -> str:
    value = params.get("sessionId")
    if not isinstance(value, str) or not value:
        raise InvalidParams("sessionId: expected a text")
    return value


def _folder(params: Params, name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not value.startswith("/"):
        raise InvalidParams(f"{name}: expected an absolute path")
    return value


def _list(params: Params, name: str) -> list[Any]:
    value = params.get(name)
    if not isinstance(value, list | None):
        raise InvalidParams(f"{name}: expected a list")
    return value or []


def _cursor(params: Params) -> str | None:
    """Return the cursor that a client gives to resume behind it, in `_meta`."""
    meta = params.get("_meta")
    cursor = meta.get("cursor") if isinstance(meta, dict) else None
    return cursor if isinstance(cursor, str) else None
