"""Talk to the daemon for a job, in a thread: create the Worker, send the input, follow the events."""

import gc
import os
import threading
from contextlib import closing
from typing import Any

from runtimectl.client.event_stream import EventStreamFeed
from runtimectl.client.feed import FeedSource
from runtimectl.client.history import OLDEST_CURSOR
from runtimectl.client.repetition import Repetition
from runtimectl.client.session import Session
from runtimectl.errors import ControlError, unexpected_response
from runtimectl.job.inbox import Accepted, Created, Event, Failed, Inbox, Note

Body = dict[str, Any]


class Conversation:
    """The requests of a job and its one feed connection, from the first event of the Worker on.

    Args:
        session: The invocation.
        request: The request that creates the Worker.
        text: The input.
        inbox: Receives the answers and the events, or the error that ends the conversation.
        patience_s: How long to wait for a daemon that is gone.

    Attributes:
        may_have_created: The request that creates the Worker may have been sent.
        may_have_given: The input may have been sent.
    """

    may_have_created = False
    may_have_given = False

    def __init__(self, session: Session, request: Body, text: str, inbox: Inbox, patience_s: float) -> None:
        self._session = session.another()
        self._request = request
        self._text = text
        self._inbox = inbox
        self._patience_s = patience_s
        self._sending = threading.Lock()
        self._is_cancelled = False

    def start(self) -> None:
        """Begin, in a thread that ends with the process."""
        threading.Thread(target=self._run, daemon=True).start()

    def cancel(self) -> None:
        """Keep the Worker from being created, and the input from being sent, unless that has begun already."""
        with self._sending:
            self._is_cancelled = True

    def _begin_creation(self) -> bool:
        with self._sending:
            self.may_have_created = not self._is_cancelled
            return self.may_have_created

    def _begin_input(self) -> bool:
        with self._sending:
            self.may_have_given = not self._is_cancelled
            return self.may_have_given

    def _run(self) -> None:
        try:
            repetition = Repetition(self._patience_s)
            request = complete(self._session, self._request, repetition)
            if not self._begin_creation():
                return
            worker = create(self._session, request, repetition)
            self._inbox.put(Created(worker))
            if refusal(worker) is not None:
                return
            if self._begin_input():
                send(self._session, worker, self._text, repetition)
                self._inbox.put(Accepted())
            self._follow(worker)
        except ControlError as error:
            self._inbox.put(Failed(error))
        except Exception as error:  # noqa: BLE001 the job would wait for ever for a thread that has ended
            self._inbox.put(Failed(unexpected_response(error)))

    def _follow(self, worker: Body) -> None:
        gc.enable()  # A run may last for days.
        feed = EventStreamFeed(
            lambda: self._session.client(worker["runtime_id"]),
            FeedSource.worker(worker),
            OLDEST_CURSOR,
            lambda text: self._inbox.put(Note(text)),
            reconnect_for=self._patience_s,
        )
        with closing(feed.envelopes()) as envelopes:
            for envelope in envelopes:
                self._inbox.put(Event(envelope))
                if envelope["payload"]["event"] == "shutdown":
                    return


def complete(session: Session, request: Body, repetition: Repetition) -> Body:
    """Return the request of a Worker with the capabilities that its profile needs. Raises ControlError."""
    return with_capabilities(request, repetition.send(lambda: session.client().profiles())["profiles"])


def create(session: Session, request: Body, repetition: Repetition) -> Body:
    """Create a Worker and return it. Raises ControlError."""
    key = os.urandom(16).hex()
    worker: Body = repetition.send(lambda: session.client().create_worker(request, key))["worker"]
    return worker


def send(session: Session, worker: Body, text: str, repetition: Repetition) -> None:
    """Send the input of a job. Raises ControlError."""
    key, worker_id = os.urandom(16).hex(), worker["worker_id"]
    repetition.send(lambda: session.client(worker["runtime_id"]).send_input(worker_id, "user", text, key=key))


def with_capabilities(request: Body, profiles: list[Body]) -> Body:
    """Return the request of a Worker with the capabilities that its profile needs."""
    selector = request.get("profile", {}).get("value")
    selected = (known for known in profiles if (known["selector"] == selector if selector else known.get("default")))
    needed: list[str] = next((known["capabilities"] for known in selected), [])
    requested = request.get("requested_capabilities", [])
    missing = [{"name": name} for name in needed if all(name != one["name"] for one in requested)]
    return {**request, "requested_capabilities": [*requested, *missing]} if missing else request


def refusal(worker: Body) -> str | None:
    """Return why the backend of a new Worker refused to run it, or None if it runs."""
    result = worker["execution"].get("last_result") or {}
    outcome = result.get("outcome")
    return None if outcome in {None, "accepted"} else str(result.get("message") or outcome)
