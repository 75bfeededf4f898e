"""The model: lists of what was said, and what they must add up to. It knows nothing of how a Runtime does it."""

import functools
import re
from collections.abc import Iterable, Iterator, Sequence

import attrs

from runtimed.core.state.activity import (
    INPUT_STARTED,
    PERMISSION_REQUEST,
    PERMISSION_RESOLVED,
    SYSTEM_INPUT,
    Activity,
)
from runtimed.core.state.change import EncodedEvent
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

SAYINGS = {
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
"""What a backend says, numbered: # marks what is whole, ~ what is a piece of something."""

decoded = functools.lru_cache(maxsize=4096)(restore_payload)


@attrs.define(eq=False)
class Story:
    """What is known of a Worker: `told` are all events that its store has promised, `said` what its backend said.

    `patient` are inputs that may wait their turn, `unanswered` are inputs of which nobody knows whether they were
    taken; `may_end` and `may_go` say the same of a stop and of a deletion. With `kept_end` a stop has begun,
    which a full disk may have put off. `cuts` counts the runs cut by a restart. A Worker is `lost` of which a crash
    left nothing but that it is deleted: what came in one Change with that nobody has heard.
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
        """What the backend said, as the events have it; the time of an alert is the Runtime's to tell."""
        told = [piece for payload in self.payloads if not of_runtime(payload) for piece in pieces(payload)]
        return [timeless(each) if isinstance(each, Alert) else each for each in told]

    def tells_what_was_said(self) -> bool:
        """Whether the events have what the backend said, in order, up to some place.

        In place of a `run_end` that came after the run was ended without it there is an alert of the Runtime's, and
        of each that follows before another run begins or ends.
        """
        said, is_ended = iter(self.said), False
        for payload in self.payloads:
            if isinstance(payload, InvokeStart | RunEnd):
                is_ended = payload == RunEnd("rolled_back")
            for told in () if of_runtime(payload) else pieces(payload):
                due = next(said, None)
                is_late = isinstance(told, Alert) and timeless(told) == LATE and isinstance(due, RunEnd)
                if is_late and is_ended:
                    continue
                if (timeless(told) if isinstance(told, Alert) else told) != due:
                    return False
        return True

    def tells_all_that_was_said(self) -> bool:
        """Whether the events have all of it."""
        return self.tells_what_was_said() and len(self.said_and_told()) == len(self.said)

    def alert_times(self) -> list[tuple[int, int]]:
        """The time that each alert tells, and the time of its event."""
        alerts = ((decoded(event.payload), event.timestamp_ms) for event in self.told)
        return [(alert.timestamp_ms, time) for alert, time in alerts if isinstance(alert, Alert)]

    def items(self, kind: str) -> list[SystemItem]:
        """The items of a kind."""
        return [p for p in self.payloads if isinstance(p, SystemItem) and p.item["kind"] == kind]

    def rulings(self) -> dict[str, tuple[str, str | None]]:
        """Outcome and option of the permissions that were ruled on, by what was asked for."""
        titles = {p.item["request_id"]: p.item["title"] for p in self.items(PERMISSION_REQUEST)}
        told = [p.item for p in self.items(PERMISSION_RESOLVED)]
        return {titles[item["request_id"]]: (item["outcome"], item.get("option_id")) for item in told}

    def inputs(self) -> list[str]:
        return [said for payload in self.payloads if (said := heard(payload)) is not None]

    def transcript(self, upto: int | None = None) -> list[tuple[str, str, int]]:
        """Role, content and sequence of the event of each entry."""
        events = (event for event in self.told if upto is None or event.sequence <= upto)
        return [(*said, e.sequence) for e in events if (said := entry(decoded(e.payload))) is not None]

    def activity(self, upto: int | None = None) -> Activity:
        """What the events add up to."""
        found = Activity()
        for event in self.told:
            if upto is None or event.sequence <= upto:
                found = found.after(decoded(event.payload))
        return found

    def expect_cut(self) -> None:
        """The run that is going on will be closed, by an error of the Runtime's own."""
        if self.status == "running":
            self.cuts = self.cuts_told() + (self.busy or self.activity().status == "running")

    def cuts_told(self) -> int:
        return sum(is_cut(payload) for payload in self.payloads)

    def is_open(self) -> bool:
        """Whether something is still to come: the end of a run, or of a text, a thought or a call."""
        activity = self.activity()
        shown = activity.in_flight()
        unfinished = shown and not all(_is_finished(b) for b in shown.blocks)
        return activity.status == "running" or bool(unfinished or activity.permissions)

    @property
    def busy(self) -> bool:
        """Whether the newest input that does not wait has not been followed by the end of a run."""
        waited = {content for content, ack in self.acked.items() if ack.queued}
        turns = [p for p in self.payloads if begins(p, waited) or isinstance(p, RunEnd | ErrorRaised)]
        return bool(turns) and begins(turns[-1], waited)

    @property
    def doubtful(self) -> bool:
        """Whether nobody knows of some input whether it waits."""
        return bool(self.patient & self.unanswered)

    def waiting(self) -> list[str]:
        """The inputs that have been acknowledged as waiting and whose turn has not come."""
        started = {p.item["cursor"] for p in self.payloads if isinstance(p, SystemItem) and is_turn(p)}
        return [content for content, ack in self.acked.items() if ack.queued and ack.cursor not in started]


def _is_finished(block: InFlightBlock) -> bool:
    return isinstance(block, ThinkingBlock) and block.finished


def is_turn(payload: SystemItem) -> bool:
    """Whether this tells that it is the turn of an input which has waited."""
    return bool(payload.item["kind"] == INPUT_STARTED)


def begins(payload: Payload, waited: set[str]) -> bool:
    """Whether a run begins with this."""
    said = heard(payload)
    return (said is not None and said not in waited) or (isinstance(payload, SystemItem) and is_turn(payload))


def is_cut(payload: Payload) -> bool:
    """Whether this tells that the Runtime found a run cut."""
    return isinstance(payload, ErrorRaised) and payload.code == "internal" and not is_refusal(payload)


def is_refusal(payload: Payload) -> bool:
    """Whether this tells that an input which has waited was refused."""
    return isinstance(payload, ErrorRaised) and payload.message.startswith("the input was refused: ")


def heard(payload: Payload) -> str | None:
    """The input that an event tells of."""
    if isinstance(payload, UserMessage):
        return payload.segments[0].content
    if isinstance(payload, SystemItem) and payload.item["kind"] == SYSTEM_INPUT:
        return str(payload.item["content"])
    return None


def entry(payload: Payload) -> tuple[str, str] | None:
    """The entry of the transcript that an event tells of."""
    if isinstance(payload, TextDone):
        return "assistant", payload.text
    said = heard(payload)
    return None if said is None else ("user" if isinstance(payload, UserMessage) else "system", said)


LATE = Alert("warn", "worker", "a run_end was dropped: its run had been ended without it", 0)
"""What the Runtime tells in place of a `run_end` that it had added already."""


def timeless(alert: Alert) -> Alert:
    """An alert as the backend says it, without the Runtime's time."""
    return attrs.evolve(alert, timestamp_ms=0)


def of_runtime(payload: Payload) -> bool:
    """Whether the Runtime says this of its own accord, or for a client."""
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
    """What was said, where the Runtime may have joined it."""
    if isinstance(payload, TextDelta):
        yield from map(TextDelta, re.findall(r"~\d+;", payload.text))
    else:
        yield payload


def behind(events: Iterable[EncodedEvent], sequence: int) -> Sequence[EncodedEvent]:
    return [event for event in events if event.sequence > sequence]
