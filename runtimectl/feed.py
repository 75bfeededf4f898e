"""The events of a Worker, or of all, each exactly once, over as many connections as that takes."""

import gc
import json
import logging
import random
import re
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.frames import CloseCode
from websockets.sync.client import ClientConnection, connect

from runtimectl.address import Address
from runtimectl.client import Body, Client, feed_path
from runtimectl.errors import (
    ControlError,
    DaemonFailed,
    Missing,
    Refused,
    TimedOut,
    Unavailable,
    Unreachable,
    from_response,
)
from runtimectl.http import check_there

MAX_FRAME_BYTES = 256 << 20
OPEN_TIMEOUT_S = 20.0
CLOSE_TIMEOUT_S = 0.5
FIRST_DELAY_S = 0.1
MAX_DELAY_S = 5.0
MAX_OUTAGE_S = 300.0

_PASSING = (Unreachable, Unavailable, TimedOut)
_DIAGNOSTICS: dict[str, type[ControlError]] = {
    "runtime.upstream_closed": Unavailable,
    "runtime.unavailable": Unavailable,
    "runtime.websocket_error": Unavailable,
    "runtime.worker_not_found": Missing,
    "runtime.cursor_malformed": Refused,
    "runtime.cursor_unknown_or_expired": Refused,
    "runtime.cursor_expired": Refused,
}
_BROKEN = {CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG}
_CURSOR = re.compile(r"wo_[0-9a-f]+", re.ASCII)
_SILENT = logging.getLogger("runtimectl.websockets")
_SILENT.disabled = True

Envelope = dict[str, Any]
Tell = Callable[[str], None]


class Observed(NamedTuple):
    """What a feed is of: all Workers of a Runtime that have some labels, each as K=V, or one of its Workers."""

    runtime_id: str
    worker_id: str | None = None
    labels: tuple[str, ...] = ()

    @classmethod
    def worker(cls, worker: Body) -> "Observed":
        """The Worker that an object with both ids names."""
        return cls(worker["runtime_id"], worker["worker_id"])


class Feed:
    """Reads behind a cursor; after a break it goes on at the last one seen, with the same Runtime wherever that is.

    `find` gives a client of the daemon, looked up anew for each connection; `tell` takes a line for people. An outage
    longer than MAX_OUTAGE_S ends the feed with its ControlError.
    """

    def __init__(self, find: Callable[[], Client], observed: Observed, cursor: str, tell: Tell) -> None:
        self._find = find
        self._observed = observed
        self._cursor = cursor
        self._begun = False
        self._outage = _Outage(tell)

    def envelopes(self) -> Generator[Envelope, None, None]:
        """Every event as it comes; of one Worker a snapshot first. Close the iterator to end the connection."""
        gc.enable()
        while True:
            try:
                with closing(self._connection()) as connection:
                    for envelope in connection:
                        is_snapshot = envelope["payload"]["event"] == "snapshot"
                        self._outage.over(for_good=not is_snapshot)
                        if not self._begun or not is_snapshot:
                            self._begun = True
                            yield envelope
            except _PASSING as error:
                self._outage.wait(error)

    def _connection(self) -> Generator[Envelope, None, None]:
        client = self._find()
        if self._outage.lasts:
            self._check_runtime(client)
        path = feed_path(self._observed.worker_id, self._observed.labels, self._cursor)
        with _opened(client.address, path) as socket:
            for message in socket:
                envelope = _envelope(message)
                self._cursor = envelope["cursor"]
                yield envelope
        raise Unavailable("the daemon closed the feed")

    def _check_runtime(self, client: Client) -> None:
        found = client.runtime()["runtime"].get("runtime_id")
        if found != self._observed.runtime_id:
            raise Refused(f"another Runtime, {found}, answers at {client.address.url} by now")


class _Outage:
    """The time since a feed broke off: how long to wait before the next try, and when to give up."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._since: float | None = None
        self._reopened: float | None = None
        self._told = False
        self._delay = FIRST_DELAY_S

    @property
    def lasts(self) -> bool:
        """Whether the feed is broken off."""
        return self._since is not None

    def wait(self, error: ControlError) -> None:
        """Wait a little longer than the last time. Raises the error given once the outage is too long."""
        now = time.monotonic()
        if self._reopened is not None and now - self._reopened > MAX_DELAY_S:
            self._end()
        self._reopened = None
        if self._since is None:
            self._since = now
            self._tell(f"the feed broke off ({error}); reconnecting")
        if now - self._since > MAX_OUTAGE_S:
            raise error
        time.sleep(self._delay * random.uniform(0.5, 1))  # noqa: S311 jitter, no secret
        self._delay = min(self._delay * 2, MAX_DELAY_S)

    def over(self, *, for_good: bool) -> None:
        """The feed goes on; a snapshot alone does not say that it will get any further than the last time."""
        if self._since is None:
            return
        if self._reopened is None:
            self._reopened = time.monotonic()
        if not self._told:
            self._told = True
            self._tell("the feed goes on")
        if for_good:
            self._end()

    def _end(self) -> None:
        self._since, self._reopened, self._told, self._delay = None, None, False, FIRST_DELAY_S


@contextmanager
def _opened(address: Address, path: str) -> Iterator[ClientConnection]:
    check_there(address)
    try:
        with connect(
            f"ws://{address.authority}{address.prefix}{path}",
            sock=address.open(OPEN_TIMEOUT_S),
            additional_headers=address.headers,
            compression=None,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=MAX_FRAME_BYTES,
            proxy=None,
            logger=_SILENT,
        ) as socket:
            try:
                yield socket
            finally:
                socket.close()
    except InvalidStatus as error:
        body = bytes(error.response.body or b"")
        raise from_response(error.response.status_code, body, address.sought) from None
    except InvalidHandshake as error:
        cut = isinstance(error.__cause__, EOFError | OSError)
        raise (Unreachable if cut else DaemonFailed)(f"{address.url} opened no feed: {error}") from None
    except ConnectionClosed as error:
        broken = error.sent is not None and error.sent.code in _BROKEN
        raise (DaemonFailed if broken else Unavailable)(f"the connection was lost: {error}") from None
    except TimeoutError:
        raise TimedOut(f"{address.url} did not open the feed within {OPEN_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise Unreachable(f"cannot reach {address.url}: {error.strerror or error}") from None


def _envelope(message: str | bytes) -> Envelope:
    try:
        frame = json.loads(message)
        if frame["kind"] == "diagnostic":
            raise _diagnosed(frame["diagnostic"])
        envelope: Envelope = frame["envelope"]
        if _CURSOR.fullmatch(envelope["cursor"]) and isinstance(envelope["payload"]["event"], str):
            return envelope
    except (ValueError, LookupError, TypeError):
        pass
    raise DaemonFailed("the feed sent something that is no frame")


def _diagnosed(diagnostic: dict[str, str]) -> ControlError:
    code, message = diagnostic["code"], diagnostic["message"]
    return _DIAGNOSTICS.get(code, DaemonFailed)(f"{code}: {message}")
