"""The ledger: what clients requested and observers saw, and what a Runtime must show afterwards."""

import contextlib
import http.client
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import WebSocketException

from tests.acceptance.daemon.conftest import DEADLINE_S, ZERO, Daemon, NoEvent, Observer

PATIENCE_S = 5.0
"""How long an observer waits for an event that exists."""

REFUSALS = {400, 409, 503, 507}
GONE = (OSError, EOFError, http.client.HTTPException, WebSocketException)
"""The errors of a client or an observer whose daemon ends."""

Events = Sequence[dict[str, Any]]


class Broken(AssertionError):
    """The daemon broke a promise."""


def promised(kept: bool, promise: str) -> None:
    """Raise Broken with the promise unless it was kept."""
    if not kept:
        raise Broken(promise)


def up(daemon: Daemon) -> Daemon:
    """Wait until a daemon serves, and return it. Raises Broken if it exits."""
    try:
        return daemon.ready()
    except AssertionError as error:
        raise Broken(f"the daemon starts on what is there: {daemon.errors}") from error


@dataclass
class Input:
    """One input that was sent. Without an ack or a refusal it may be stored once or not at all."""

    worker_id: str
    content: str
    ack: dict[str, Any] | None = None
    refused: bool = False


@dataclass
class History:
    """What one observer has seen of a Worker over all its connections."""

    worker_id: str
    events: list[dict[str, Any]] = field(default_factory=list)
    looked_at: bool = False

    @property
    def cursor(self) -> str:
        return self.events[-1]["cursor"] if self.events else ZERO

    def follow(self, daemon: Daemon, upto: str | None = None) -> None:
        """Resume observing, up to a cursor or until the daemon is gone."""
        if upto == self.cursor:
            return
        with daemon.observe(self.worker_id, self.cursor) as observer:
            try:
                at = observer.envelope()["cursor"]
            except NoEvent as told:
                promised(upto is None, f"{self.worker_id}: an observer resumes at {self.cursor}: {told}")
                return
            promised(at == self.cursor, f"{self.worker_id}: the snapshot is where the observer was: {at}")
            while self.cursor != upto:
                frame = self._next(observer, DEADLINE_S if upto is None else PATIENCE_S)
                if frame["kind"] == "diagnostic":
                    promised(upto is None, f"{self.worker_id}: an observer resumes at {self.cursor}: {frame}")
                    return
                self.events.append(frame["envelope"])

    def _next(self, observer: Observer, patience_s: float) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(observer.connection.recv(timeout=patience_s))
        except TimeoutError as error:
            raise Broken(f"{self.worker_id}: an observer at {self.cursor} gets what comes behind it") from error
        return found

    def follow_to_the_end(self, daemon: Daemon) -> None:
        """Observe until the daemon is gone, in any state of the connection."""
        with contextlib.suppress(*GONE):
            self.follow(daemon)


class Ledger:
    """Every input that was tried and every observer, with the check that all of it is as promised.

    `seen` counts the events that observers had seen when their Worker was first looked at.
    """

    def __init__(self) -> None:
        self.seen = 0
        self.inputs: list[Input] = []
        self.histories: dict[str, History] = {}

    def observer(self, worker_id: str) -> History:
        """Return the observer of a Worker."""
        return self.histories.setdefault(worker_id, History(worker_id))

    def send(self, daemon: Daemon, worker_id: str, content: str) -> int | None:
        """Send one input. Returns the status of the response, or None if there was none."""
        given = Input(worker_id, content)
        self.inputs.append(given)
        try:
            path, body = f"/v1/workers/{worker_id}/input", {"kind": "user", "content": content}
            answer = daemon.call("POST", path, body)
        except GONE:
            return None
        if answer.status == 200:
            given.ack = answer.ok("ack", "InteractionAck")
        given.refused = answer.status in REFUSALS
        return answer.status

    @property
    def acked(self) -> list[Input]:
        return [one for one in self.inputs if one.ack]

    def check(self, daemon: Daemon, workers: Iterable[str] | None = None) -> None:
        """Raise Broken for the first broken promise of these Workers, by default of all that were used."""
        for worker_id in {one.worker_id for one in self.inputs} if workers is None else workers:
            self.check_worker(daemon, worker_id)

    def check_worker(self, daemon: Daemon, worker_id: str) -> None:
        """Check one Worker."""
        entries, log = transcript(daemon, worker_id), events(daemon, worker_id)
        check_whole(worker_id, entries, log)
        self.check_inputs(worker_id, entries)
        history = self.histories.get(worker_id)
        if history:
            check_prefix(worker_id, history.events, log)
            self.seen += 0 if history.looked_at else len(history.events)
            history.looked_at = True
            history.follow(daemon, log[-1]["cursor"] if log else ZERO)
            promised(history.events == log, f"{worker_id}: the observer saw every event once, in order")

    def check_inputs(self, worker_id: str, entries: Events) -> None:
        """Check that acked inputs are stored once at the acked place, refused ones not, others at most once."""
        users = [one for one in entries if one["role"] == "user"]
        found = Counter(one["content"] for one in users)
        places = {(one["content"], one["sequence"], one["cursor"]) for one in users}
        tried = [one for one in self.inputs if one.worker_id == worker_id]
        for one in tried:
            name = f"{worker_id}: the input {one.content[:40]!r}"
            promised(found[one.content] <= 1, f"{name} is there at most once")
            promised(not one.refused or not found[one.content], f"{name} was refused and is not there")
            if one.ack:
                promised(found[one.content] == 1, f"{name} was acknowledged and is there")
                place = (one.content, one.ack["transcript_sequence"], one.ack["cursor"])
                promised(place in places, f"{name} is where its ack says")
        promised(found.keys() <= {one.content for one in tried}, f"{worker_id}: only what was sent is there")


def events(daemon: Daemon, worker_id: str) -> Events:
    """Return all events of a Worker from its feed."""
    try:
        return daemon.log(worker_id)
    except NoEvent as told:
        raise Broken(f"{worker_id}: its events can be read: {told}") from told


def check_whole(worker_id: str, entries: Events, log: Events) -> None:
    """Check that the transcript has no gap, agrees with the events, and that each run ends once."""
    promised([one["sequence"] for one in entries] == [*range(1, len(entries) + 1)], f"{worker_id}: no gap")
    cursors = [one["cursor"] for one in log]
    promised(cursors == sorted(set(cursors)), f"{worker_id}: the events rise strictly")
    told = [pair for one in log for pair in _entry(one)]
    kept = [(one["role"], one["content"], one["cursor"]) for one in entries]
    promised(told == kept, f"{worker_id}: the transcript and the log tell the same")
    marks = [name for one in log if (name := one["payload"]["event"]) in {"user_message", "run_end"}]
    promised(marks == ["user_message", "run_end"] * (len(marks) // 2), f"{worker_id}: each run has one end: {marks}")


def check_prefix(worker_id: str, seen: Events, log: Events) -> None:
    """Check that the events begin with what was seen."""
    promised(list(seen) == list(log[: len(seen)]), f"{worker_id}: what an observer saw was not taken back")


def _entry(event: dict[str, Any]) -> list[tuple[str, str, str]]:
    payload = event["payload"]
    if payload["event"] == "user_message":
        return [("user", segment["content"], event["cursor"]) for segment in payload["data"]["segments"]]
    if payload["event"] == "text_done":
        return [("assistant", payload["data"]["text"], event["cursor"])]
    return []


def transcript(daemon: Daemon, worker_id: str) -> Events:
    """Return the whole transcript."""
    found: list[dict[str, Any]] = []
    start: int | None = 0
    while start is not None:
        answer = daemon.call("GET", f"/v1/workers/{worker_id}/transcript?start={start}")
        promised(answer.status == 200, f"{worker_id}: its transcript can be read: {answer.body!r}")
        page = answer.ok("transcript", "TranscriptProjection")
        found += page["items"]
        start = page["next_start"]
    promised(len(found) == page["total_items"], f"{worker_id}: the transcript has its {page['total_items']} entries")
    return found
