"""The events of a Worker or of all, as an iterator."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from runtimectl.client.api import Client as Requests
from runtimectl.library.transport import Transport

if TYPE_CHECKING:
    from runtimectl.client.feed import Feed
    from runtimed.model.event import EventEnvelope


class Events:
    """Events in their order, each once, also across a restart of the daemon. It connects when the first is asked for.

    Without a cursor the events of a Worker begin with a Snapshot of its state now, and go on with what happens from
    now on; with a cursor they are those behind it. They end where the Worker is over. Close it, or leave it as a
    context, to close its connection.
    """

    def __init__(self, following: "Following", *, with_snapshot: bool) -> None:
        self._following = following
        self._envelopes = following.envelopes()
        self._with_snapshot = with_snapshot

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> "EventEnvelope":
        from runtimectl.library.decoding import event

        envelope = next(self._envelopes)
        while is_snapshot(envelope) and not self._with_snapshot:
            envelope = next(self._envelopes)
        return event(envelope)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The iterator is at its end then, also for another thread that waits for an event."""
        self._following.stop()
        with suppress(ValueError):  # Another thread is in it, and leaves it now.
            self._envelopes.close()


class Following:
    """The feed behind an iterator: opened when the first event is asked for.

    Args:
        transport: Finds the daemon.
        worker_id: The Worker, or None for all Workers with the labels.
        labels: Labels, each as K=V.
        find_cursor: Returns the cursor to begin behind; None for the newest event of a Worker.
    """

    def __init__(
        self,
        transport: Transport,
        worker_id: str | None,
        labels: Sequence[str],
        find_cursor: Callable[[], str | None],
    ) -> None:
        self._transport = transport
        self._worker_id = worker_id
        self._labels = tuple(labels)
        self._find_cursor = find_cursor
        self._clients: list[Requests] = []
        self._feed: Feed | None = None
        self._is_stopped = False

    def envelopes(self) -> Generator[dict[str, Any], None, None]:
        """Yield the events, a snapshot first for one Worker. Raises ControlError."""
        from runtimectl.client.feed import Feed, FeedSource

        source = FeedSource(self._transport.runtime_id(), self._worker_id, self._labels)
        self._feed = feed = Feed(
            self._find,
            source,
            self._find_cursor(),
            _ignore,
            reconnect_for=self._transport.reconnect_for,
            until_over=self._worker_id is not None,
        )
        try:
            if not self._is_stopped:
                with closing(feed.envelopes()) as envelopes:
                    yield from envelopes
        finally:
            self._close_clients()

    def stop(self) -> None:
        """End the feed. Any thread may call this."""
        self._is_stopped = True
        if self._feed is not None:
            self._feed.stop()

    def _find(self) -> Requests:
        """Return a client of the daemon where it is now, in place of that of the last connection."""
        self._close_clients()
        self._clients.append(Requests(self._transport.find()))
        return self._clients[0]

    def _close_clients(self) -> None:
        while self._clients:
            self._clients.pop().close()


def is_snapshot(envelope: dict[str, Any]) -> bool:
    """Return whether an event of a feed is a snapshot."""
    return bool(envelope["payload"]["event"] == "snapshot")


def _ignore(_note: str) -> None:
    """Drop a note for people: a library has nobody to tell."""
