"""The routes of the contract, one method each. Bodies stay plain dicts: what the daemon gave is what is shown."""

import json
from typing import Any
from urllib.parse import quote, urlencode

from runtimectl.address import Address
from runtimectl.errors import DaemonFailed, UsageProblem, from_response
from runtimectl.http import exchange
from runtimed.wire import routes

Body = dict[str, Any]


class Client:
    """A daemon at an address; every request has a connection of its own.

    Each method returns the body of a success and raises the ControlError of everything else.
    """

    def __init__(self, address: Address) -> None:
        self.address = address

    def runtime(self) -> Body:
        return self._ask("runtime", "GET", routes.RUNTIME)

    def bundles(self) -> Body:
        return self._ask("bundles", "GET", routes.BUNDLES)

    def push_bundle(self, bundle: Body) -> Body:
        return self._ask("availability", "POST", routes.BUNDLES, {"bundle": bundle})

    def bundle_availability(self, bundle_id: str, digest: str) -> Body:
        path = routes.BUNDLE_AVAILABILITY.format(bundle_id=quote(bundle_id, safe=""))
        return self._ask("availability", "GET", f"{path}?{urlencode({'digest': digest})}")

    def workers(self) -> Body:
        return self._ask("workers", "GET", routes.WORKERS)

    def create_worker(self, request: Body) -> Body:
        return self._ask("worker", "POST", routes.WORKERS, request)

    def worker(self, worker_id: str) -> Body:
        return self._ask("worker", "GET", _path(routes.WORKER, worker_id))

    def send_input(self, worker_id: str, kind: str, content: str) -> Body:
        body = {"kind": kind, "content": content}
        return self._ask("ack", "POST", _path(routes.WORKER_INPUT, worker_id), body)

    def stop(self, worker_id: str, reason: str | None = None) -> Body:
        return self._ask("ack", "POST", _path(routes.WORKER_STOP, worker_id), _because(reason))

    def cancel(self, worker_id: str, reason: str | None = None) -> Body:
        return self._ask("ack", "POST", _path(routes.WORKER_CANCEL, worker_id), _because(reason))

    def transcript(self, worker_id: str, start: int = 0, limit: int | None = None) -> Body:
        query = {"start": start} if limit is None else {"start": start, "limit": limit}
        return self._ask("transcript", "GET", f"{_path(routes.WORKER_TRANSCRIPT, worker_id)}?{urlencode(query)}")

    def _ask(self, member: str, method: str, path: str, body: Body | None = None) -> Body:
        status, answer = exchange(self.address, method, path, _encoded(body))
        if status != 200:
            raise from_response(status, answer)
        return _decoded(answer, member)


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


def feed_path(worker_id: str) -> str:
    """Where a Worker's feed is."""
    return _path(routes.WORKER_FEED, worker_id)


def _path(route: str, worker_id: str) -> str:
    return route.format(worker_id=quote(worker_id, safe=""))


def _because(reason: str | None) -> Body:
    return {} if reason is None else {"reason": reason}
