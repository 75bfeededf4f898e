"""The routes of the contract, one method each. Bodies stay plain dicts: what the daemon gave is what is shown."""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from runtimectl.address import Address
from runtimectl.errors import DaemonFailed, UsageProblem, from_response
from runtimectl.http import TIMEOUT_S, Exchanges
from runtimed.wire import routes

CHECK_TIMEOUT_S = 3600.0
"""How long a check of everything in a store may take."""

RESTORE_TIMEOUT_S = 120.0
"""How long it may take to bring a Worker back."""

Body = dict[str, Any]


class Client:
    """A daemon at an address. Requests follow each other on one connection.

    Each method returns the body of a success and raises the ControlError of everything else.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._exchanges = Exchanges(address)

    def runtime(self) -> Body:
        return self._ask("runtime", "GET", routes.RUNTIME)

    def bundles(self) -> Body:
        return self._ask("bundles", "GET", routes.BUNDLES)

    def push_bundle(self, bundle: Body) -> Body:
        return self._ask("availability", "POST", routes.BUNDLES, {"bundle": bundle})

    def bundle_availability(self, bundle_id: str, digest: str) -> Body:
        path = routes.BUNDLE_AVAILABILITY.format(bundle_id=quote(bundle_id, safe=""))
        return self._ask("availability", "GET", f"{path}?{urlencode({'digest': digest})}")

    def check_store(self) -> Body:
        return self._ask("check", "GET", routes.RUNTIME_CHECK, timeout=CHECK_TIMEOUT_S)

    def description(self) -> Body:
        """The daemon's own description of its API, as OpenAPI."""
        return self._ask("info", "GET", routes.OPENAPI)

    def date(self) -> float | None:
        """What the daemon's clock says, in seconds since 1970; None where its answer has no date."""
        from email.utils import parsedate_to_datetime

        found = self._exchanges.exchange("GET", routes.RUNTIME).headers.get("date")
        return None if found is None else parsedate_to_datetime(found).timestamp()

    def diagnostics(self) -> Body:
        return self._ask("diagnostics", "GET", routes.DIAGNOSTICS)

    def workers(self, status: str | None = None, labels: Sequence[str] = ()) -> Body:
        """Every Worker, or those of a status and with all the labels, K=V; over as many pages as the daemon makes."""
        query = _given(status=status, label=labels)
        body = page = self._ask("workers", "GET", _with(routes.WORKERS, query))
        while after := page.pop("next_after", None):
            page = self._ask("workers", "GET", _with(routes.WORKERS, {**query, "after": after}))
            body["workers"] += _behind(after, page["workers"])
        return body

    def create_worker(self, request: Body) -> Body:
        return self._ask("worker", "POST", routes.WORKERS, request)

    def worker(self, worker_id: str) -> Body:
        return self._ask("worker", "GET", _path(routes.WORKER, worker_id))

    def delete_worker(self, worker_id: str) -> None:
        response = self._exchanges.exchange("DELETE", _path(routes.WORKER, worker_id))
        if response.status != 204:
            raise from_response(response.status, response.body, self.address.sought)

    def send_input(self, worker_id: str, kind: str, content: str, when_busy: str | None = None) -> Body:
        body = {"kind": kind, "content": content, **_given(when_busy=when_busy)}
        return self._ask("ack", "POST", _path(routes.WORKER_INPUT, worker_id), body)

    def interrupt(self, worker_id: str) -> Body:
        return self._ask("ack", "POST", _path(routes.WORKER_INTERRUPT, worker_id))

    def restore(self, worker_id: str) -> Body:
        return self._ask("worker", "POST", _path(routes.WORKER_RESTORE, worker_id), timeout=RESTORE_TIMEOUT_S)

    def permissions(self) -> Body:
        """The permission requests of all Workers that wait for an answer."""
        return self._ask("permissions", "GET", routes.PERMISSIONS)

    def worker_permissions(self, worker_id: str) -> Body:
        return self._ask("permissions", "GET", _path(routes.WORKER_PERMISSIONS, worker_id))

    def answer_permission(self, worker_id: str, request_id: str, answer: Body) -> Body:
        path = f"{_path(routes.WORKER_PERMISSIONS, worker_id)}/{quote(request_id, safe='')}"
        return self._ask("permission", "POST", path, answer)

    def stop(self, worker_id: str, reason: str | None = None) -> Body:
        return self._ask("ack", "POST", _path(routes.WORKER_STOP, worker_id), _because(reason))

    def cancel(self, worker_id: str, reason: str | None = None) -> Body:
        return self._ask("ack", "POST", _path(routes.WORKER_CANCEL, worker_id), _because(reason))

    def events(
        self,
        worker_id: str | None = None,
        labels: Sequence[str] = (),
        cursor: str | None = None,
        limit: int | None = None,
    ) -> Body:
        """A page of the events of a Worker, or of all with the labels: behind a cursor, else from the oldest kept."""
        path = routes.FLEET_EVENTS if worker_id is None else _path(routes.WORKER_EVENTS, worker_id)
        return self._ask("events", "GET", _with(path, _given(cursor=cursor, label=labels, limit=limit)))

    def transcript(self, worker_id: str, start: int = 0, limit: int | None = None) -> Body:
        query = _given(start=start, limit=limit)
        return self._ask("transcript", "GET", _with(_path(routes.WORKER_TRANSCRIPT, worker_id), query))

    def _ask(
        self, member: str, method: str, path: str, body: Body | None = None, *, timeout: float = TIMEOUT_S
    ) -> Body:
        response = self._exchanges.exchange(method, path, _encoded(body), timeout=timeout)
        if response.status != 200:
            raise from_response(response.status, response.body, self.address.sought)
        return _decoded(response.body, member)


def _encoded(body: Body | None) -> bytes | None:
    try:
        return None if body is None else json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UsageProblem("the text given is not valid UTF-8") from None


def _decoded(answer: bytes, member: str) -> Body:
    try:
        body = json.loads(answer)
    except ValueError:
        body = None
    if not isinstance(body, dict) or not isinstance(body.get(member), dict | list):
        raise DaemonFailed(f"expected an answer with {member!r}; what listens there is no runtimed")
    return body


def feed_path(worker_id: str | None, labels: Sequence[str], cursor: str) -> str:
    """Where the feed of a Worker is, or that of all Workers with the labels, from a cursor on."""
    path = routes.FLEET_FEED if worker_id is None else _path(routes.WORKER_FEED, worker_id)
    return _with(path, _given(cursor=cursor, label=labels))


def _given(**query: Any) -> Body:
    return {name: value for name, value in query.items() if value is not None and value != ()}


def _with(path: str, query: Body) -> str:
    return f"{path}?{urlencode(query, doseq=True)}" if query else path


def _behind(after: str, workers: list[Body]) -> list[Body]:
    """The Workers of a further page. Raises DaemonFailed where it does not lead on."""
    if not workers or workers[0]["worker_id"] <= after:
        raise DaemonFailed("the daemon's pages of Workers lead nowhere")
    return workers


def _path(route: str, worker_id: str) -> str:
    return route.format(worker_id=quote(worker_id, safe=""))


def _because(reason: str | None) -> Body:
    return {} if reason is None else {"reason": reason}
