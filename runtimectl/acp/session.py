"""One session: a Worker, its events as updates, and the prompts of the editor."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import suppress

from runtimectl.acp.background import in_background
from runtimectl.acp.errors import Failed
from runtimectl.acp.jsonrpc import Id, Peer, Request
from runtimectl.acp.permissions import PermissionRequests
from runtimectl.acp.prompt import PromptInput, read_prompt
from runtimectl.acp.prompts import Prompts
from runtimectl.acp.updates import ChunkKind, Update, UpdateTranslator, chunk, joined
from runtimectl.errors import ApiError, ClientError
from runtimectl.library.events import Events
from runtimectl.library.worker import Worker
from runtimed.model.event import Payload, Snapshot, SystemItem, UserMessage
from runtimed.model.interaction import InteractionAck
from runtimed.model.worker import WorkerDetail

CLOSED = "the session was closed"
START = "wo_0000000000000000"
"""The cursor before all events."""

UNAVAILABLE = "worker_execution_unavailable"
"""The code of an input's refusal if nothing runs the Worker: the daemon or its program ended."""


class Session:
    """A session of an editor. Several sessions, of several faces, may show one Worker.

    Args:
        worker: The Worker.
        peer: The editor.
        takes_forms: The editor shows forms.
    """

    def __init__(self, worker: Worker, peer: Peer, *, takes_forms: bool) -> None:
        self.worker = worker
        self._peer = peer
        self._translator = UpdateTranslator()
        self._prompts = Prompts()
        self._permissions = PermissionRequests(worker, peer, self.say, takes_forms=takes_forms)
        self._said = itertools.count(1)
        self._events: Events | None = None
        self._is_open = threading.Event()
        self._is_closed = False
        self._starting = threading.Lock()
        self._lock = threading.Lock()

    def replay(self, detail: WorkerDetail) -> None:
        """Show what was said and done so far, up to the newest event of the detail."""
        for update in joined(self._past(detail)):
            self._show(update)

    def follow(self, cursor: str) -> None:
        """Show what happens behind a cursor, from now on, unless the session was closed."""
        with self._lock:
            if self._is_closed:
                return
            self._events = events = self.worker.events(cursor)
            self._prompts.begin_events()
        self._is_open.set()
        in_background(lambda: self._follow(events))
        self._permissions.ask_open()

    def prompt(self, request: Request) -> None:
        """Give a prompt to the Worker; it is answered when its run has ended. A second one waits for its turn.

        Raises:
            InvalidParams: The prompt is invalid.
        """
        given = read_prompt(request.params.get("prompt"))
        self._prompts.begin(request)
        in_background(lambda: self._give(given, request))

    def cancel(self) -> None:
        """Interrupt the run, and those of the prompts that wait."""
        self._prompts.cancel()
        in_background(self._interrupt)

    def cancel_prompt(self, request_id: Id) -> None:
        """Take back one prompt, if it is of this session: interrupt its run, now or when it begins."""
        if self._prompts.cancel_one(request_id):
            in_background(self._interrupt)

    def say(self, text: str) -> None:
        """Show a text of the face itself, as a message of its own."""
        self._show(chunk("agent_message_chunk", text, f"runtimectl-{next(self._said)}"))

    def close(self) -> None:
        """Show nothing more, and answer the prompts that wait. The Worker lives on."""
        with self._lock:
            self._is_closed = True
            events, self._events = self._events, None
            self._prompts.fail(CLOSED)
        self._is_open.set()
        if events is not None:
            events.close()

    def _past(self, detail: WorkerDetail) -> Iterator[Update]:
        begin = detail.oldest_cursor or START
        for entry in self.worker.transcript() if detail.oldest_cursor else ():
            if entry.cursor <= begin:
                kind: ChunkKind = "user_message_chunk" if entry.role == "user" else "agent_message_chunk"
                yield chunk(kind, entry.content, entry.cursor)
        if detail.last_cursor <= begin:
            return
        with self.worker.events(begin) as events:
            for event in events:
                yield from self._translator.translate(event.cursor, event.payload)
                if event.cursor >= detail.last_cursor:
                    return

    def _follow(self, events: Events) -> None:
        try:
            for event in events:
                self._take(event.cursor, event.payload)
            reason = "the Worker is over"
        except ClientError as error:
            reason = str(error)
        with self._lock:
            if self._events is events:
                self._events = None
                self._prompts.fail(reason)

    def _take(self, cursor: str, payload: Payload) -> None:
        if isinstance(payload, Snapshot):
            return
        is_own = isinstance(payload, UserMessage) and self._prompts.owns(cursor)
        for update in () if is_own else self._translator.translate(cursor, payload):
            self._show(update)
        if isinstance(payload, SystemItem):
            self._permissions.record(payload.item)
        if self._prompts.record(cursor, payload):
            in_background(self._interrupt)

    def _give(self, given: PromptInput, request: Request) -> None:
        with self._prompts.sending(request):
            try:
                self._ensure_following()
                if self._is_taken_back(request):
                    return
                ack = self._send(given)
            except ClientError as error:
                request.fail(Failed(str(error)))
                return
            is_cancelled = self._prompts.accept(ack.cursor, request, is_queued=ack.queued)
        if is_cancelled and not ack.queued:  # The run of a queued one is interrupted when it begins.
            self._interrupt()

    def _is_taken_back(self, request: Request) -> bool:
        """Return whether a prompt is not needed any more. It is answered then."""
        if self._prompts.is_cancelled(request):
            request.succeed({"stopReason": "cancelled"})
        elif self._is_closed:
            request.fail(Failed(CLOSED))
        else:
            return False
        return True

    def _send(self, given: PromptInput) -> InteractionAck:
        """Send the input once; a Worker that nothing runs is restored first."""
        try:
            return self._input(given)
        except ApiError as error:
            if error.code != UNAVAILABLE:
                raise
        self.worker.restore()
        return self._input(given)

    def _input(self, given: PromptInput) -> InteractionAck:
        return self.worker.input(given.text, when_busy="queue", attachments=given.attachments)

    def _ensure_following(self) -> None:
        """Follow from now on if the events ended: the daemon was away for too long."""
        self._is_open.wait()
        with self._starting:
            if self._events is None and not self._is_closed:
                self.follow(self.worker.detail().last_cursor)

    def _interrupt(self) -> None:
        with suppress(ClientError):  # There may be no run any more.
            self.worker.interrupt()

    def _show(self, update: Update) -> None:
        self._peer.notify("session/update", {"sessionId": self.worker.id, "update": update})
