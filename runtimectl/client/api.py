"""A client of the HTTP API, one method a route.

Bodies stay plain dicts: `-o json` prints exactly what the daemon answered.
"""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from runtimectl.client.address import Address
from runtimectl.client.http import NO_HEADERS, TIMEOUT_S, Connection
from runtimectl.client.http_response import Response
from runtimectl.client.paths import given, with_query, worker_path
from runtimectl.errors import DaemonFailed, UsageProblem, error_from_response
from runtimed.wire import routes

CHECK_TIMEOUT_S = 3600.0
"""Seconds that a check of a whole store may take."""

RESTORE_TIMEOUT_S = 120.0
"""Seconds that the restore of a Worker may take."""

SPAWN_TIMEOUT_S = 120.0
"""Seconds that the creation of a Worker may take, its spawn included."""

MAX_WAIT_S = 30.0
"""How long one request waits for a Worker. A longer wait takes several: nginx cuts answers after 60 s of silence."""

WAIT_MARGIN_S = 30.0
"""How much longer than a wait its answer may take."""

WORKSPACE_TIMEOUT_S = 600.0
"""Seconds that git may take over the workspaces of a Worker."""

WAIT_TIMEOUT = 408
IDEMPOTENCY_KEY = "Idempotency-Key"

Body = dict[str, Any]


class Client:
    """Sends requests to the daemon at an address, over one connection where possible.

    Each method returns the body of a successful response and raises the ControlError of any other one.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._connection = Connection(address)

    def close(self) -> None:
        """Close the connection. A later request opens another."""
        self._connection.close()

    def runtime(self, timeout: float = TIMEOUT_S) -> Body:
        """Return the Runtime. The daemon may be silent for `timeout` seconds."""
        return self._ask("runtime", "GET", routes.RUNTIME, timeout=timeout)

    def bundles(self) -> Body:
        """Return the summaries of all config bundles."""
        return self._ask("bundles", "GET", routes.BUNDLES)

    def push_bundle(self, bundle: Body) -> Body:
        """Store a config bundle and return its availability."""
        return self._ask("availability", "POST", routes.BUNDLES, {"bundle": bundle})

    def bundle_availability(self, bundle_id: str, digest: str) -> Body:
        """Return the availability of one version of a config bundle."""
        path = routes.BUNDLE_AVAILABILITY.format(bundle_id=quote(bundle_id, safe=""))
        return self._ask("availability", "GET", f"{path}?{urlencode({'digest': digest})}")

    def check_bundle_on_host(self, bundle_id: str, digest: str) -> Body:
        """Return what the host would do with each declaration of one version of a config bundle."""
        path = routes.BUNDLE_HOST_CHECK.format(bundle_id=quote(bundle_id, safe=""))
        return self._ask("check", "GET", f"{path}?{urlencode({'digest': digest})}")

    def check_store(self) -> Body:
        """Check everything in the store and return the findings."""
        return self._ask("check", "GET", routes.RUNTIME_CHECK, timeout=CHECK_TIMEOUT_S)

    def drain(self) -> Body:
        """Drain the daemon, which ends then, and return the runs that go on."""
        return self._ask("drain", "POST", routes.RUNTIME_DRAIN)

    def sandbox(self) -> Body:
        """Return how Workers are confined, and which mechanisms work on the daemon's host."""
        return self._ask("sandbox", "GET", routes.RUNTIME_SANDBOX)

    def description(self) -> Body:
        """Return the daemon's OpenAPI document."""
        return self._ask("info", "GET", routes.OPENAPI)

    def date(self) -> float | None:
        """Return the daemon's time in seconds since 1970, or None if its answer has no Date header."""
        from email.utils import parsedate_to_datetime

        found = self._connection.request("GET", routes.RUNTIME).headers.get("date")
        return None if found is None else parsedate_to_datetime(found).timestamp()

    def diagnostics(self) -> Body:
        """Return the Runtime's diagnostics."""
        return self._ask("diagnostics", "GET", routes.DIAGNOSTICS)

    def workers(self, status: str | None = None, labels: Sequence[str] = ()) -> Body:
        """Return all Workers, from as many pages as the daemon makes.

        Args:
            status: Only Workers with this status.
            labels: Only Workers with all of these labels, each as K=V.
        """
        query = given(status=status, label=labels)
        body = page = self._ask("workers", "GET", with_query(routes.WORKERS, query))
        while after := page.pop("next_after", None):
            page = self._ask("workers", "GET", with_query(routes.WORKERS, {**query, "after": after}))
            body["workers"] += _checked_page(after, page["workers"])
        return body

    def create_worker(self, request: Body, key: str | None = None) -> Body:
        """Create a Worker and return it. A repeat with the same idempotency key answers with the same Worker."""
        return self._ask("worker", "POST", routes.WORKERS, request, key=key, timeout=creation_timeout_s(request))

    def profiles(self) -> Body:
        """Return the profiles of the host."""
        return self._ask("profiles", "GET", routes.PROFILES)

    def wait(self, worker_id: str, conditions: Sequence[str], cursor: str, timeout_s: float) -> Body | None:
        """Wait until one of the conditions holds for a Worker.

        Args:
            worker_id: The Worker.
            conditions: Some of `idle`, `busy`, `stopped`, `permission` and `error`.
            cursor: Judge the events behind this cursor.
            timeout_s: How long the daemon waits.

        Returns:
            The condition that holds, with the Worker; None if none did in this time.
        """
        query = {"for": ",".join(conditions), "cursor": cursor, "timeout_s": f"{timeout_s:g}"}
        path = with_query(worker_path(routes.WORKER_WAIT, worker_id), query)
        response = self._connection.request("GET", path, timeout=timeout_s + WAIT_MARGIN_S)
        if response.status == WAIT_TIMEOUT:
            return None
        if response.status != 200:
            raise error_from_response(response.status, response.body, self.address.searched)
        return _decoded(response.body, "wait")

    def worker(self, worker_id: str) -> Body:
        """Return a Worker."""
        return self._ask("worker", "GET", worker_path(routes.WORKER, worker_id))

    def delete_worker(self, worker_id: str, *, force: bool = False) -> None:
        """Delete a Worker that is not running; with `force` even if unsaved work in its workspaces is lost."""
        path = with_query(worker_path(routes.WORKER, worker_id), {"force": "true"} if force else {})
        response = self._connection.request("DELETE", path, timeout=WORKSPACE_TIMEOUT_S)
        if response.status != 204:
            raise error_from_response(response.status, response.body, self.address.searched)

    def send_input(
        self, worker_id: str, kind: str, content: str, when_busy: str | None = None, key: str | None = None
    ) -> Body:
        """Send an input and return the acknowledgement.

        Args:
            worker_id: The Worker.
            kind: `user` or `system`.
            content: The text.
            when_busy: What to do during a run: `reject`, `queue` or `interrupt`; None for the daemon's default.
            key: The idempotency key: a repeat with the same one is not given to the Worker again.
        """
        body = {"kind": kind, "content": content, **given(when_busy=when_busy)}
        return self._ask("ack", "POST", worker_path(routes.WORKER_INPUT, worker_id), body, key=key)

    def interrupt(self, worker_id: str, timeout: float = TIMEOUT_S) -> Body:
        """Interrupt the current run and return the acknowledgement. The daemon may be silent for `timeout` s."""
        return self._ask("ack", "POST", worker_path(routes.WORKER_INTERRUPT, worker_id), timeout=timeout)

    def restore(self, worker_id: str) -> Body:
        """Reconnect a Worker to its backend and return it."""
        return self._ask("worker", "POST", worker_path(routes.WORKER_RESTORE, worker_id), timeout=RESTORE_TIMEOUT_S)

    def permissions(self) -> Body:
        """Return the open permission requests of all Workers."""
        return self._ask("permissions", "GET", routes.PERMISSIONS)

    def worker_permissions(self, worker_id: str) -> Body:
        """Return the open permission requests of a Worker."""
        return self._ask("permissions", "GET", worker_path(routes.WORKER_PERMISSIONS, worker_id))

    def answer_permission(self, worker_id: str, request_id: str, answer: Body) -> Body:
        """Answer a permission request and return it."""
        path = f"{worker_path(routes.WORKER_PERMISSIONS, worker_id)}/{quote(request_id, safe='')}"
        return self._ask("permission", "POST", path, answer)

    def stop(self, worker_id: str, reason: str | None = None) -> Body:
        """Stop a Worker and return the acknowledgement."""
        return self._ask("ack", "POST", worker_path(routes.WORKER_STOP, worker_id), given(reason=reason))

    def cancel(self, worker_id: str, reason: str | None = None) -> Body:
        """Cancel a Worker and return the acknowledgement."""
        return self._ask("ack", "POST", worker_path(routes.WORKER_CANCEL, worker_id), given(reason=reason))

    def events(
        self,
        worker_id: str | None = None,
        labels: Sequence[str] = (),
        cursor: str | None = None,
        limit: int | None = None,
    ) -> Body:
        """Return one page of events.

        Args:
            worker_id: The Worker, or None for all Workers.
            labels: With all Workers: only those with these labels, each as K=V.
            cursor: The cursor behind which the page begins; None begins with the oldest event that is kept.
            limit: The most events to return; None for the daemon's limit.
        """
        path = routes.FLEET_EVENTS if worker_id is None else worker_path(routes.WORKER_EVENTS, worker_id)
        return self._ask("events", "GET", with_query(path, given(cursor=cursor, label=labels, limit=limit)))

    def workspaces(self, worker_id: str) -> Body:
        """Return the workspaces of a Worker."""
        path = worker_path(routes.WORKER_WORKSPACES, worker_id)
        return self._ask("workspaces", "GET", path, timeout=WORKSPACE_TIMEOUT_S)

    def workspace_diff(self, worker_id: str, name: str) -> Response:
        """Return the response whose body is the patch of a workspace."""
        path = routes.WORKSPACE_DIFF.format(worker_id=quote(worker_id, safe=""), name=quote(name, safe=""))
        response = self._connection.request("GET", path, timeout=WORKSPACE_TIMEOUT_S)
        if response.status != 200:
            raise error_from_response(response.status, response.body, self.address.searched)
        return response

    def transcript(self, worker_id: str, start: int = 0, limit: int | None = None) -> Body:
        """Return a page of the transcript: at most `limit` entries behind the first `start` ones."""
        query = given(start=start, limit=limit)
        return self._ask("transcript", "GET", with_query(worker_path(routes.WORKER_TRANSCRIPT, worker_id), query))

    def tokens(self) -> Body:
        """Return the tokens that grant no more than the one that is sent."""
        return self._ask("tokens", "GET", routes.TOKENS)

    def create_token(self, request: Body) -> Body:
        """Make a token and return it with its secret."""
        return self._ask("token", "POST", routes.TOKENS, request)

    def revoke_token(self, name: str) -> None:
        """Revoke a token."""
        response = self._connection.request("DELETE", routes.TOKEN.format(name=quote(name, safe="")))
        if response.status != 204:
            raise error_from_response(response.status, response.body, self.address.searched)

    def _ask(
        self,
        member: str,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        key: str | None = None,
        timeout: float = TIMEOUT_S,
    ) -> Body:
        headers = NO_HEADERS if key is None else {IDEMPOTENCY_KEY: key}
        response = self._connection.request(method, path, _encoded(body), headers=headers, timeout=timeout)
        if response.status != 200:
            raise error_from_response(response.status, response.body, self.address.searched)
        return _decoded(response.body, member)


def creation_timeout_s(request: Body) -> float:
    """Return the seconds that the creation of a Worker may take."""
    return WORKSPACE_TIMEOUT_S if request.get("workspace_refs") else SPAWN_TIMEOUT_S


def _encoded(body: Body | None) -> bytes | None:
    try:
        return None if body is None else json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UsageProblem("arguments: expected valid UTF-8") from None


def _decoded(answer: bytes, member: str) -> Body:
    try:
        body = json.loads(answer)
    except ValueError:
        body = None
    if not isinstance(body, dict) or not isinstance(body.get(member), dict | list):
        raise DaemonFailed(f"unexpected response: expected a JSON object with {member!r}, as a runtimed answers")
    return body


def feed_path(
    worker_id: str | None, labels: Sequence[str], cursor: str | None = None, until: str | None = None
) -> str:
    """Return the path of the feed of a Worker, or of all Workers with the labels, behind a cursor."""
    path = routes.FLEET_FEED if worker_id is None else worker_path(routes.WORKER_FEED, worker_id)
    return with_query(path, given(cursor=cursor, label=labels, until=until))


def _checked_page(after: str, workers: list[Body]) -> list[Body]:
    """Return the Workers of a page. Raises DaemonFailed if they do not come after the page before."""
    if not workers or workers[0]["worker_id"] <= after:
        raise DaemonFailed("unexpected response: the daemon returned the same page of Workers twice")
    return workers
