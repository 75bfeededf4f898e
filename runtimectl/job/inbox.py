"""What a job waits for: the answers and events of the daemon, and signals, in one queue."""

import threading
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from runtimectl.errors import ControlError

MAX_WAITING_EVENTS = 1000
"""How many events may wait until they are printed. The feed is not read any further then."""


class Created(NamedTuple):
    """The Worker was created."""

    worker: dict[str, Any]


class Accepted(NamedTuple):
    """The daemon has accepted the input."""


class Event(NamedTuple):
    """An event of the Worker."""

    envelope: dict[str, Any]


class Note(NamedTuple):
    """A note for people about the connection."""

    text: str


class Failed(NamedTuple):
    """The daemon refused something, or is gone for good."""

    error: ControlError


class Stopped(NamedTuple):
    """A signal asks the command to end."""

    number: int


class OutputClosed(NamedTuple):
    """The reader of stdout is gone."""


Item = Created | Accepted | Event | Note | Failed | Stopped | OutputClosed


class Inbox:
    """A queue that threads and signal handlers put items into. Only events wait for room."""

    def __init__(self) -> None:
        self._items: SimpleQueue[Item] = SimpleQueue()
        self._room = threading.Semaphore(MAX_WAITING_EVENTS)

    def put(self, item: Item) -> None:
        """Add an item. An event waits for room; a signal handler may add anything else."""
        if isinstance(item, Event):
            self._room.acquire()
        self._items.put(item)

    def get(self, timeout_s: float) -> Item | None:
        """Return the next item, or None after `timeout_s` seconds without one."""
        try:
            item = self._items.get(timeout=max(timeout_s, 0))
        except Empty:
            return None
        if isinstance(item, Event):
            self._room.release()
        return item
