"""The model of a Worker: lists of what was said, and what they must add up to. It knows no code of the Runtime."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile

import attrs

from runtimed.core.state.activity import Activity
from runtimed.core.state.change import EncodedEvent
from runtimed.core.state.runtime_items import INPUT_STARTED, PERMISSION_REQUEST, PERMISSION_RESOLVED, SYSTEM_INPUT
from runtimed.model.event import (
    Alert,
    ErrorRaised,
    InFlightBlock,
    InvokeStart,
    Payload,
    RunEnd,
    Shutdown,
    StatusChanged,
    SystemItem,
    TextDelta,
    TextDone,
    ThinkingBlock,
    ThinkingDelta,
    ThinkingDone,
    ThinkingStart,
    ToolCallArgsDelta,
    ToolCallDone,
    ToolCallStart,
    ToolResult,
    Usage,
    UserMessage,
)
from runtimed.model.identity import WorkerId
from runtimed.model.interaction import InteractionAck
from runtimed.wire.converter import restore_payload

SAYINGS: dict[str, Callable[[int], Payload]] = {
    "text": lambda n: TextDelta(f"~{n};"),
    "text_done": lambda n: TextDone(f"#{n};"),
    "thinking_start": lambda n: ThinkingStart(),
    "thinking": lambda n: ThinkingDelta(f"~{n};"),
    "thinking_done": lambda n: ThinkingDone(f"#{n};"),
    "call": lambda n: ToolCallStart(f"call-{n % 2}", f"#{n};"),
    "args": lambda n: ToolCallArgsDelta(f"call-{n % 2}", f"~{n};"),
    "call_done": lambda n: ToolCallDone(f"call-{n % 2}", "tool", f"#{n};"),
    "result": lambda n: ToolResult(f"call-{n % 2}", f"#{n};", is_error=False),
    "status": lambda n: StatusChanged(("idle", "running", "paused")[n % 3]),
    "usage": lambda n: Usage(n, None),
    "alert": lambda n: Alert("warn", "engine", f"#{n};", 0),
    "run_end": lambda n: RunEnd("finished"),
    "run_paused": lambda n: RunEnd("paused"),
    "error": lambda n: ErrorRaised("provider_error", f"#{n};"),
}
"""Numbered payloads that a backend emits: # marks whole texts, ~ pieces of a text."""

decoded = functools.lru_cache(maxsize=4096)(restore_payload)


@attrs.define(eq=False)
class Story:
    """What is known of a Worker.

    Attributes:
        told: All events that the store has made durable.
        said: What its backend has emitted.
        patient: The inputs that may be queued.
        unanswered: The inputs whose outcome is unknown.
        keyed: The inputs that were sent with an idempotency key.
        may_end: The outcome of a stop is unknown.
        may_go: The outcome of a deletion is unknown.
        kept_end: A stop has begun, which a full disk may have put off.
        lost: A crash left only its deletion. What was in the same Change was never published.
        cuts: How many runs were cut by a restart.
    """

    worker_id: WorkerId
    labels: dict[str, str]
    told: list[EncodedEvent]
    status: str = "running"
    connected: bool = False
    deleted: bool = False
    said: list[Payload] = attrs.field(factory=list)
    acked: dict[str, InteractionAck] = attrs.field(factory=dict)
    refused: set[str] = attrs.field(factory=set)
    patient: set[str] = attrs.field(factory=set)
    unanswered: set[str] = attrs.field(factory=set)
    keyed: list[str] = attrs.field(factory=list)
    may_end: bool = False
    may_go: bool = False
    kept_end: bool = False
    lost: bool = False
    cuts: int = 0

    @property
    def payloads(self) -> list[Payload]:
        return [decoded(event.payload) for event in self.told]

    @property
    def head(self) -> int:
        return self.told[-1].sequence if self.told else 0

    def said_and_told(self) -> list[Payload]:
        """Return what the backend said, according to the events, with alerts without the Runtime's times."""
        told = [piece for payload in self.payloads if not of_runtime(payload) for piece in pieces(payload)]
        return [timeless(each) if isinstance(each, Alert) else each for each in told]

    def tells_what_was_said(self) -> bool:
        """Return whether the events have what the backend said, in order, up to some place."""
        return bool(self._places_told())

    def tells_all_that_was_said(self) -> bool:
        """Return whether the events have all that the backend said."""
        return len(self.said) in self._places_told()

    def _places_told(self) -> set[int]:
        """Return how much of what was said the events may have; nothing if they have something else.

        A `run_end` that came after the Runtime had ended the run is replaced by an alert. So is each further one
        until another run begins or ends. The `run_end` of an interrupt may be missing, because it looks like the
        Runtime's own.
        """
        places, is_ended = self._over_interrupts({0}), False
        for payload in self.payloads:
            if isinstance(payload, InvokeStart | RunEnd):
                is_ended = payload == RunEnd("rolled_back")
            for told in () if of_runtime(payload) else pieces(payload):
                shown = timeless(told) if isinstance(told, Alert) else told
                due = [place for place in places if place < len(self.said)]
                next_ = {n + 1 for n in due if shown == self.said[n] or self._is_late(n, shown, is_ended=is_ended)}
                places = self._over_interrupts(next_)
        return places

    def _is_late(self, place: int, shown: Payload, *, is_ended: bool) -> bool:
        return is_ended and shown == LATE and isinstance(self.said[place], RunEnd)

    def _over_interrupts(self, places: set[int]) -> set[int]:
        """Return these places, and those after the ends of interrupted runs that follow them."""
        found = set(places)
        for place in places:
            ends = takewhile(lambda at: self.said[at] == INTERRUPTED, range(place, len(self.said)))
            found |= {at + 1 for at in ends}
        return found

    def alert_times(self) -> list[tuple[int, int]]:
        """Return the time in each alert, with the time of its event."""
        alerts = ((decoded(event.payload), event.timestamp_ms) for event in self.told)
        return [(alert.timestamp_ms, time) for alert, time in alerts if isinstance(alert, Alert)]

    def items(self, kind: str) -> list[SystemItem]:
        """Return the system items of a kind."""
        return [p for p in self.payloads if isinstance(p, SystemItem) and p.item["kind"] == kind]

    def rulings(self) -> dict[str, tuple[str, str | None]]:
        """Return outcome and option of each ruling, by the title of the request."""
        titles = {p.item["request_id"]: p.item["title"] for p in self.items(PERMISSION_REQUEST)}
        told = [p.item for p in self.items(PERMISSION_RESOLVED)]
        return {titles[item["request_id"]]: (item["outcome"], item.get("option_id")) for item in told}

    def inputs(self) -> list[str]:
        return [said for payload in self.payloads if (said := heard(payload)) is not None]

    def transcript(self, upto: int | None = None) -> list[tuple[str, str, int]]:
        """Return role, content and event sequence of each transcript entry."""
        events = (event for event in self.told if upto is None or event.sequence <= upto)
        return [(*said, e.sequence) for e in events if (said := entry(decoded(e.payload))) is not None]

    def activity(self, upto: int | None = None) -> Activity:
        """Return the activity after the events."""
        found = Activity()
        for event in self.told:
            if upto is None or event.sequence <= upto:
                found = found.after(decoded(event.payload))
        return found

    def expect_cut(self) -> None:
        """Expect that the Runtime closes the present run with an error."""
        if self.status == "running":
            self.cuts = self.cuts_told() + (self.busy or self.activity().status == "running")

    def cuts_told(self) -> int:
        return sum(is_cut(payload) for payload in self.payloads)

    def is_open(self) -> bool:
        """Return whether a run, a text, a thought or a tool call is unfinished."""
        activity = self.activity()
        shown = activity.in_flight()
        unfinished = shown and not all(_is_finished(b) for b in shown.blocks)
        return activity.status == "running" or bool(unfinished or activity.permissions)

    @property
    def busy(self) -> bool:
        """Whether no run has ended since the newest input that was not queued."""
        waited = {content for content, ack in self.acked.items() if ack.queued}
        turns = [p for p in self.payloads if begins(p, waited) or isinstance(p, RunEnd | ErrorRaised)]
        return bool(turns) and begins(turns[-1], waited)

    @property
    def doubtful(self) -> bool:
        """Whether it is unknown if some input is queued."""
        return bool(self.patient & self.unanswered)

    def waiting(self) -> list[str]:
        """Return the inputs that were acknowledged as queued and have not started."""
        started = {p.item["cursor"] for p in self.payloads if isinstance(p, SystemItem) and is_turn(p)}
        return [content for content, ack in self.acked.items() if ack.queued and ack.cursor not in started]


def _is_finished(block: InFlightBlock) -> bool:
    return isinstance(block, ThinkingBlock) and block.finished


def is_turn(payload: SystemItem) -> bool:
    """Return whether the item reports the start of a queued input."""
    return bool(payload.item["kind"] == INPUT_STARTED)


def begins(payload: Payload, waited: set[str]) -> bool:
    """Return whether a run begins with the payload."""
    said = heard(payload)
    return (said is not None and said not in waited) or (isinstance(payload, SystemItem) and is_turn(payload))


def is_cut(payload: Payload) -> bool:
    """Return whether the payload reports that the Runtime found a run cut."""
    return isinstance(payload, ErrorRaised) and payload.code == "internal" and not is_refusal(payload)


def is_refusal(payload: Payload) -> bool:
    """Return whether the payload reports that a queued input was refused."""
    return isinstance(payload, ErrorRaised) and payload.message.startswith("the input was refused: ")


def heard(payload: Payload) -> str | None:
    """Return the input that a payload reports, or None."""
    if isinstance(payload, UserMessage):
        return payload.segments[0].content
    if isinstance(payload, SystemItem) and payload.item["kind"] == SYSTEM_INPUT:
        return str(payload.item["content"])
    return None


def entry(payload: Payload) -> tuple[str, str] | None:
    """Return role and content of the transcript entry that a payload makes, or None."""
    if isinstance(payload, TextDone):
        return "assistant", payload.text
    said = heard(payload)
    return None if said is None else ("user" if isinstance(payload, UserMessage) else "system", said)


INTERRUPTED = RunEnd("rolled_back")
"""What a backend says where it is interrupted."""

LATE = Alert("warn", "worker", "a run_end was dropped: the Runtime had ended its run already", 0)
"""The alert that replaces a `run_end` that the Runtime had already added."""


def timeless(alert: Alert) -> Alert:
    """Return an alert without its time."""
    return attrs.evolve(alert, timestamp_ms=0)


def of_runtime(payload: Payload) -> bool:
    """Return whether the payload comes from the Runtime or a client, not from the backend."""
    match payload:
        case UserMessage() | SystemItem() | Shutdown() | RunEnd("rolled_back"):
            return True
        case Alert(source="worker"):
            return timeless(payload) != LATE
        case ErrorRaised(code="internal"):
            return True
        case ErrorRaised():
            return is_refusal(payload)
        case TextDone(text) | ThinkingDone(text) | ToolCallDone(arguments=text) | ToolResult(summary=text):
            return re.fullmatch(r"#\d+;", text) is None
    return False


def pieces(payload: Payload) -> Iterator[Payload]:
    """Yield the texts that the Runtime may have joined."""
    if isinstance(payload, TextDelta):
        yield from map(TextDelta, re.findall(r"~\d+;", payload.text))
    else:
        yield payload


def behind(events: Iterable[EncodedEvent], sequence: int) -> Sequence[EncodedEvent]:
    return [event for event in events if event.sequence > sequence]
