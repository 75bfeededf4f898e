"""The outcome of a run, read from the events of its Worker."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from runtimectl.client.run_progress import PERMISSION_REQUEST, PERMISSION_RESOLVED, denial_of, is_script
from runtimectl.errors import NotPermitted, WorkerFailed
from runtimectl.output.text import one_line, shortened

FIRST_EVENTS = {"user_message", "invoke_start"}
INPUT_STARTED = "input_started"
"""The kind of the item that says which queued input runs now."""

MAX_REASON = 200
"""How many characters of the reason of a failure are shown."""

Payload = dict[str, Any]
Envelope = dict[str, Any]
Item = dict[str, Any]


class Run:
    """The current run of a Worker, or its last one.

    Attributes:
        failure: Why the run failed, or None.
        is_running: The run has begun and not ended.
    """

    failure: str | None = None
    is_running = False
    _alert: str | None = None

    def record(self, payload: Payload) -> bool:
        """Record an event. Returns True if it ends the run."""
        name, data = payload["event"], payload.get("data") or {}
        if name == "snapshot":
            self.is_running = data.get("status") == "running"
        elif name in FIRST_EVENTS:
            self.failure, self._alert, self.is_running = None, None, True
        elif name == "alert":
            self._alert = data.get("message")
        elif name == "error":
            self.failure = f"the run ended in an error: {data.get('code')}: {data.get('message')}"
        elif name == "run_end" and data.get("result") != "finished":
            self.failure = self.failure or f"the run ended as {data.get('result')}{self.reason()}"
        elif name == "shutdown" and self.is_running:
            self.failure = self.failure or "the Worker was stopped before its run ended"
        is_end = name in {"run_end", "error", "shutdown"}
        self.is_running = self.is_running and not is_end
        return is_end

    def reason(self) -> str:
        """Return the message of the last alert, to be appended to a sentence; empty without an alert."""
        return f": {shortened(one_line(self._alert), MAX_REASON)}" if self._alert else ""

    def raise_for_failure(self) -> None:
        """Raise WorkerFailed if the run failed."""
        if self.failure:
            raise WorkerFailed(self.failure)


def with_requests(envelopes: Iterable[Envelope], on_request: Callable[[Item], None]) -> Iterator[Envelope]:
    """Yield the same events, and call `on_request` with each permission request among them."""
    for envelope in envelopes:
        item = _item(envelope["payload"])
        if item.get("kind") == PERMISSION_REQUEST:
            on_request(item)
        yield envelope


class AwaitedRun(Run):
    """The run of an input that a command waits for.

    Attributes:
        exit_status: The exit status of its script, or None if no shell ran one.
    """

    exit_status: int | None = None
    _script: str | None = None
    _denial: str | None = None

    def __init__(self) -> None:
        self._requests: dict[str, Item] = {}

    def record(self, payload: Payload) -> bool:
        name, data = payload["event"], payload.get("data") or {}
        if name == "system_item":
            self._record_item(_item(payload))
        elif name == "tool_call_done" and self._script is None and is_script(data):
            self._script = data["id"]
        elif name == "tool_result" and data.get("id") == self._script:
            self.exit_status = data.get("exit_status")
        return super().record(payload)

    def _record_item(self, item: Item) -> None:
        if item.get("kind") == PERMISSION_REQUEST:
            self._requests[item["request_id"]] = item
        elif item.get("kind") == PERMISSION_RESOLVED:
            request = self._requests.pop(item["request_id"], {})
            denial = denial_of(request, item)
            if denial:
                self._denial = f"a permission {denial}: {shortened(one_line(request.get('title', '')), MAX_REASON)}"

    def raise_for_failure(self) -> None:
        """Raise NotPermitted if a permission was not granted, or WorkerFailed if the run or its script failed."""
        if self._denial:
            raise NotPermitted("; ".join(filter(None, (self._denial, self.failure))))
        super().raise_for_failure()
        if self.exit_status:
            raise WorkerFailed(f"the script ended with exit status {self.exit_status}")


def follow_run(
    run: Run,
    envelopes: Iterable[Envelope],
    queued: str | None = None,
    on_event: Callable[[Payload], None] = lambda _: None,
) -> None:
    """Read events until the run ends.

    Args:
        run: Records the events of the run.
        envelopes: The events behind the input.
        queued: The cursor of the input if it was queued: its run begins when the events say that it started.
        on_event: Called with the payload of each event of the run.

    Raises:
        WorkerFailed: The Worker ended before the queued input started.
    """
    for envelope in envelopes if queued is None else _behind_start(iter(envelopes), queued):
        on_event(envelope["payload"])
        if run.record(envelope["payload"]):
            return


def _behind_start(envelopes: Iterator[Envelope], queued: str) -> Iterator[Envelope]:
    """Yield the events behind the start of a queued input. Raises WorkerFailed if the Worker ends before."""
    before = Run()
    for envelope in envelopes:
        item = _item(envelope["payload"])
        before.record(envelope["payload"])
        if envelope["payload"]["event"] == "shutdown":
            raise WorkerFailed(f"the queued input was not started{before.reason()}")
        if item.get("kind") == INPUT_STARTED and item.get("cursor") == queued:
            yield from envelopes


def _item(payload: Payload) -> Item:
    return (payload.get("data") or {}).get("item") or {}
