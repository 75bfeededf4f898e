"""The prompts of a session that are not answered yet, and the runs that answer them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runtimectl.acp.errors import Failed
from runtimectl.acp.jsonrpc import Id, Request
from runtimed.model.event import ErrorRaised, Payload, RunEnd, Shutdown, SystemItem, UserMessage

STOPPED = "the Worker was stopped"


class Prompt:
    """A prompt whose input the daemon has accepted.

    Attributes:
        request_id: What the editor calls it.
        is_queued: It waits for another run to end.
        is_cancelled: The editor takes it back.
    """

    def __init__(self, request: Request, *, is_queued: bool, is_cancelled: bool) -> None:
        self.request_id = request.id
        self.is_queued = is_queued
        self.is_cancelled = is_cancelled
        self._request = request

    def end(self, stop_reason: str) -> None:
        """Answer the prompt: its run has ended."""
        self._request.succeed({"stopReason": "cancelled" if self.is_cancelled else stop_reason})

    def fail(self, reason: str) -> None:
        """Answer that the run failed."""
        if self.is_cancelled:
            self.end("cancelled")
        else:
            self._request.fail(Failed(reason))


class Prompts:
    """Which prompts wait, and which one runs. The prompts come from one thread, the events from another one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sending: set[Id] = set()
        self._cancelled: set[Id] = set()
        self._waiting: dict[str, Prompt] = {}
        self._current: Prompt | None = None
        self._error: str | None = None
        self._failure: str | None = None

    def begin(self, request: Request) -> None:
        """Take a prompt that `sending` will send: from now on it can be taken back."""
        with self._changed:
            self._sending.add(request.id)

    def begin_events(self) -> None:
        """Note that events come from now on, after `fail` or for the first time."""
        with self._changed:
            self._failure = None

    @contextmanager
    def sending(self, request: Request) -> Iterator[None]:
        """Send the input of a prompt that has begun.

        The event of the next input is held back until then: the answer says whether the event is this prompt's own.
        """
        try:
            yield
        finally:
            with self._changed:
                self._sending.discard(request.id)
                self._cancelled.discard(request.id)
                self._changed.notify_all()

    def is_cancelled(self, request: Request) -> bool:
        """Return whether a prompt that is being sent was taken back."""
        with self._changed:
            return request.id in self._cancelled

    def accept(self, cursor: str, request: Request, *, is_queued: bool) -> bool:
        """Add a prompt whose input was accepted. Returns whether it was cancelled meanwhile.

        If no events come any more, the prompt fails at once.

        Args:
            cursor: The cursor of its input.
            request: The prompt.
            is_queued: The input waits for its turn.
        """
        with self._changed:
            is_cancelled, failure = request.id in self._cancelled, self._failure
            prompt = Prompt(request, is_queued=is_queued, is_cancelled=is_cancelled)
            if failure is None:
                self._waiting[cursor] = prompt
        if failure is not None:
            prompt.fail(failure)
        return is_cancelled

    def cancel(self) -> None:
        """Take back all prompts, those that are being sent too."""
        with self._changed:
            self._cancelled |= self._sending
            for prompt in self._all():
                prompt.is_cancelled = True

    def cancel_one(self, request_id: Id) -> bool:
        """Take back the prompt of a request, if there is one. Returns whether it runs now."""
        with self._changed:
            self._cancelled |= self._sending & {request_id}
            for prompt in self._all():
                prompt.is_cancelled = prompt.is_cancelled or prompt.request_id == request_id
            return self._current is not None and self._current.request_id == request_id

    def record(self, cursor: str, payload: Payload) -> bool:
        """Record an event, and answer the prompt whose run it ends.

        Returns:
            Whether a run begins whose prompt was taken back.
        """
        match payload:
            case UserMessage():
                return self._begin(cursor, is_queued=False)
            case SystemItem(item={"kind": "input_started", "cursor": str(started)}):
                return self._begin(started, is_queued=True)
            case ErrorRaised(code=code, message=message):
                self._error = f"{code}: {message}"
            case RunEnd(result=result):
                self._end(result)
            case Shutdown():
                self.fail(STOPPED)
            case _:
                pass
        return False

    def owns(self, cursor: str) -> bool:
        """Return whether an input is that of a prompt of this session. Waits for the answer if one is being sent."""
        with self._changed:
            self._changed.wait_for(lambda: not self._sending)
            return cursor in self._waiting

    def fail(self, reason: str) -> None:
        """Answer all prompts, those too whose inputs are still accepted: their runs failed, or nobody will know."""
        with self._changed:
            failed, self._waiting, self._current = self._all(), {}, None
            self._failure = reason
        for prompt in failed:
            prompt.fail(reason)

    def _begin(self, cursor: str, *, is_queued: bool) -> bool:
        with self._changed:
            prompt = self._waiting.get(cursor)
            if prompt is None or prompt.is_queued != is_queued:
                return False
            self._current = self._waiting.pop(cursor)
            self._error = None
            return prompt.is_cancelled

    def _end(self, result: str) -> None:
        with self._changed:
            prompt, self._current = self._current, None
            error, self._error = self._error, None
        if prompt is None:
            return
        if error is not None and result != "finished":
            prompt.fail(error)
        elif result == "limit_reached":
            prompt.end("max_turn_requests")
        else:
            prompt.end("cancelled" if result == "rolled_back" else "end_turn")

    def _all(self) -> list[Prompt]:
        return [*self._waiting.values(), *([self._current] if self._current else [])]
