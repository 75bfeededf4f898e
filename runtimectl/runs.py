"""What the events of a Worker say about how its run goes."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from runtimectl.errors import RunFailed
from runtimectl.text import one_line, shortened

BEGINNINGS = {"user_message", "invoke_start"}
STARTED = "input_started"
"""The kind of the item that tells whose turn it is."""

ASKED = "permission_request"

MAX_REASON = 200
"""Characters that are told of why a run ended."""


class Run:
    """The run that is going or was the last to go; `failure` says why it did not end well, or is None."""

    failure: str | None = None
    going = False
    _alert: str | None = None

    def see(self, payload: dict[str, Any]) -> bool:
        """Take in one more event; whether it ends the run."""
        name, data = payload["event"], payload.get("data") or {}
        if name == "snapshot":
            self.going = data.get("status") == "running"
        elif name in BEGINNINGS:
            self.failure, self._alert, self.going = None, None, True
        elif name == "alert":
            self._alert = data.get("message")
        elif name == "error":
            self.failure = f"the run ended in an error: {data.get('code')}: {data.get('message')}"
        elif name == "run_end" and data.get("result") != "finished":
            self.failure = self.failure or f"the run ended as {data.get('result')}{self.why()}"
        elif name == "shutdown" and self.going:
            self.failure = self.failure or "the Worker was stopped before its run ended"
        ended = name in {"run_end", "error", "shutdown"}
        self.going = self.going and not ended
        return ended

    def why(self) -> str:
        """What the last alert tells, as the end of a sentence."""
        return f": {shortened(one_line(self._alert), MAX_REASON)}" if self._alert else ""

    def check(self) -> None:
        """Raises RunFailed where there is a failure."""
        if self.failure:
            raise RunFailed(self.failure)


def watched(envelopes: Iterable[dict[str, Any]], asked: Callable[[dict[str, Any]], None]) -> Iterator[dict[str, Any]]:
    """The same events; `asked` is told of each permission request among them."""
    for envelope in envelopes:
        item = _item(envelope)
        if item.get("kind") == ASKED:
            asked(item)
        yield envelope


def wait_for_end(envelopes: Iterable[dict[str, Any]], turn: str | None = None) -> None:
    """Read up to the end of the run that these events belong to, or to which the input with the cursor `turn` leads.

    Raises RunFailed when it does not end well, or never begins.
    """
    run = Run()
    for envelope in envelopes if turn is None else _from_turn(iter(envelopes), turn):
        if run.see(envelope["payload"]):
            run.check()
            return


def _from_turn(envelopes: Iterator[dict[str, Any]], turn: str) -> Iterator[dict[str, Any]]:
    """The events behind the one that tells that it is the turn of an input which has waited. Raises RunFailed."""
    before = Run()
    for envelope in envelopes:
        item = _item(envelope)
        before.see(envelope["payload"])
        if envelope["payload"]["event"] == "shutdown":
            raise RunFailed(f"the turn of the input never came{before.why()}")
        if item.get("kind") == STARTED and item.get("cursor") == turn:
            yield from envelopes


def _item(envelope: dict[str, Any]) -> dict[str, Any]:
    return (envelope["payload"].get("data") or {}).get("item") or {}
