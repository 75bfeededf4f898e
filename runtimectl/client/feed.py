"""Follow the feed of one Worker or of all: each event exactly once, over as many connections as needed."""

import json
import random
import re
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from runtimectl.client.address import Address
from runtimectl.client.api import Body, Client, feed_path
from runtimectl.errors import (
    ControlError,
    DaemonFailed,
    NotFound,
    Refused,
    TimedOut,
    Unavailable,
    Unreachable,
    error_from_diagnostic,
)

MAX_FRAME_BYTES = 256 << 20
OPEN_TIMEOUT_S = 20.0
CLOSE_TIMEOUT_S = 0.5
FIRST_DELAY_S = 0.1
MAX_DELAY_S = 5.0
MAX_OUTAGE_S = 300.0
"""Seconds of reconnecting after which a feed fails, unless others are given."""

TRANSIENT = (Unreachable, Unavailable, TimedOut)
_DIAGNOSTICS: dict[str, type[ControlError]] = {
    "runtime.upstream_closed": Unavailable,
    "runtime.unavailable": Unavailable,
    "runtime.websocket_error": Unavailable,
    "runtime.worker_not_found": NotFound,
    "runtime.cursor_malformed": Refused,
    "runtime.cursor_unknown_or_expired": Refused,
    "runtime.cursor_expired": Refused,
}
OVER = "worker over"
"""The reason of the close behind the last event of a Worker, of a feed that asked for its end."""

INVALID_FRAME = "unexpected response: the feed sent an invalid frame"
_CURSOR = re.compile(r"wo_[0-9a-f]+", re.ASCII)

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

Envelope = dict[str, Any]
Notify = Callable[[str], None]


class FeedSource(NamedTuple):
    """What a feed is of: one Worker of a Runtime, or all of its Workers with the labels, each as K=V."""

    runtime_id: str
    worker_id: str | None = None
    labels: tuple[str, ...] = ()

    def path(self, cursor: str | None, *, until_over: bool = False) -> str:
        """Return the path of this feed behind a cursor; `until_over` asks for its end once the Worker is over."""
        return feed_path(self.worker_id, self.labels, cursor, until="over" if until_over else None)

    @classmethod
    def worker(cls, worker: Body) -> "FeedSource":
        """Return the source of a Worker.

        Args:
            worker: Any object with a `runtime_id` and a `worker_id`.
        """
        return cls(worker["runtime_id"], worker["worker_id"])


class Feed:
    """Reads the events behind a cursor. It reconnects to the same Runtime and resumes behind the last event.

    Args:
        find: Returns a client of the daemon. It is called for each connection, so that a daemon may move.
        source: The Worker or Workers.
        cursor: The cursor behind which to begin; None begins with the events from now on.
        notify: Receives notes for people about the connection.
        reconnect_for: Seconds without a connection after which the feed fails.
        until_over: End behind the last event of the Worker once it is over.
    """

    def __init__(
        self,
        find: Callable[[], Client],
        source: FeedSource,
        cursor: str | None,
        notify: Notify,
        *,
        reconnect_for: float = MAX_OUTAGE_S,
        until_over: bool = False,
    ) -> None:
        self._find = find
        self._source = source
        self._cursor = cursor
        self._until_over = until_over
        self._is_over = False
        self._has_begun = False
        self._socket: ClientConnection | None = None
        self._outage = Outage(notify, reconnect_for)

    def envelopes(self) -> Generator[Envelope, None, None]:
        """Yield each event when it arrives; for one Worker, a snapshot first.

        Close the iterator to close the connection.

        Raises:
            ControlError: The daemon refused the feed, or could not be reached for `reconnect_for`.
        """
        while not self._is_over:
            try:
                with closing(self._connection()) as connection:
                    for envelope in connection:
                        is_snapshot = envelope["payload"]["event"] == "snapshot"
                        self._outage.end(has_progress=not is_snapshot)
                        if not self._has_begun or not is_snapshot:
                            self._has_begun = True
                            yield envelope
            except TRANSIENT as error:
                self._wait(error)

    def _wait(self, error: ControlError) -> None:
        """Wait before the next connection, unless the feed was ended. Raises the error if the outage is too long."""
        if not self._is_over:
            time.sleep(self._outage.next_delay(error))

    def stop(self) -> None:
        """End the feed. Another thread that waits for its next event gets none."""
        self._is_over = True
        socket = self._socket
        if socket is not None:
            socket.close()

    def _connection(self) -> Generator[Envelope, None, None]:
        from runtimectl.client.feed_socket import connected

        client = self._find()
        if self._outage.is_on:
            self._check_runtime(client)
        path = self._source.path(self._cursor, until_over=self._until_over)
        with connected(client.address, path) as socket:
            self._socket = socket
            for message in () if self._is_over else socket:
                envelope = read_frame(message)
                self._cursor = envelope["cursor"]
                yield envelope
            if self._is_over or socket.close_reason == OVER:
                self._is_over = True
                return
        raise Unavailable("the daemon closed the connection")

    def _check_runtime(self, client: Client) -> None:
        check_runtime(self._source, client.address, client.runtime()["runtime"].get("runtime_id"))


def check_runtime(source: FeedSource, address: Address, found: str | None) -> None:
    """Check that a daemon still serves the Runtime of a feed. Raises Refused if it serves another."""
    if found != source.runtime_id:
        raise Refused(f"{address.url} serves another Runtime now: expected {source.runtime_id}, got {found}")


class Outage:
    """The time without a connection: how long to wait before the next attempt, and when to give up.

    Args:
        notify: Receives notes for people about the connection.
        reconnect_for: Seconds after which to give up.
    """

    def __init__(self, notify: Notify, reconnect_for: float = MAX_OUTAGE_S) -> None:
        self._notify = notify
        self._reconnect_for = reconnect_for
        self._since: float | None = None
        self._reopened: float | None = None
        self._is_notified = False
        self._delay = FIRST_DELAY_S

    @property
    def is_on(self) -> bool:
        """Whether the connection was lost and no event has arrived since."""
        return self._since is not None

    def next_delay(self, error: ControlError) -> float:
        """Return the seconds to wait before the next attempt, more each time.

        Raises:
            ControlError: The error that was given: the outage is too long.
        """
        now = time.monotonic()
        if self._reopened is not None and now - self._reopened > MAX_DELAY_S:
            self._reset()
        self._reopened = None
        if self._since is None:
            self._since = now
            self._notify(f"feed interrupted ({error}); reconnecting")
        if now - self._since >= self._reconnect_for:
            raise error
        delay = self._delay * random.uniform(0.5, 1)  # noqa: S311 jitter, no secret
        self._delay = min(self._delay * 2, MAX_DELAY_S)
        return delay

    def end(self, *, has_progress: bool) -> None:
        """Note that the feed delivers again.

        Args:
            has_progress: A new event arrived. A snapshot alone is none: the next event may end the connection again.
        """
        if self._since is None:
            return
        if self._reopened is None:
            self._reopened = time.monotonic()
        if not self._is_notified:
            self._is_notified = True
            self._notify("feed resumed")
        if has_progress:
            self._reset()

    def _reset(self) -> None:
        self._since, self._reopened, self._is_notified, self._delay = None, None, False, FIRST_DELAY_S


def read_frame(message: str | bytes) -> Envelope:
    """Return the event in a message of a feed.

    Raises:
        ControlError: It is a diagnostic.
        DaemonFailed: It is invalid.
    """
    try:
        frame = json.loads(message)
        if frame["kind"] == "diagnostic":
            raise error_of_diagnostic(frame["diagnostic"])
        return checked_envelope(frame["envelope"])
    except (ValueError, LookupError, TypeError):
        raise DaemonFailed(INVALID_FRAME) from None


def checked_envelope(envelope: Envelope) -> Envelope:
    """Return an envelope that has a cursor and the name of an event. Raises DaemonFailed for any other."""
    if _CURSOR.fullmatch(envelope["cursor"]) and isinstance(envelope["payload"]["event"], str):
        return envelope
    raise DaemonFailed(INVALID_FRAME)


def error_of_diagnostic(diagnostic: dict[str, str]) -> ControlError:
    """Return the error for the diagnostic with which a feed ended."""
    code, message = diagnostic["code"], diagnostic["message"]
    return error_from_diagnostic(_DIAGNOSTICS.get(code, DaemonFailed), code, message)
