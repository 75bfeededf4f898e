"""How output is paced: slow output is committed at once, fast output is collected."""

REST = 3
"""A Change with output begins a rest: REST times the processor time of a Change, times the square of the number of
pieces of output in it.

The pieces of a slow stream arrive after the rest and are never collected. In a fast stream each rest collects more
pieces than the one before, until rests are MAX_REST_S long. A stream that was delayed once soon
has short rests again.
"""

MAX_REST_S = 0.02
"""The longest rest. A fast stream of events becomes fifty Changes a second instead of one for each event."""

USUAL_COST_S = 0.0002
"""The assumed processor time of a Change, in seconds, until one is measured."""

MAX_RISE = 1.5
"""The largest accepted ratio of a measured cost to the last one. Anything above may be a garbage collection."""


class OutputPace:
    """The rest after each Change with output of one Worker. During a rest, output is collected.

    Times are those of the event loop, in seconds.
    """

    __slots__ = ("_cost_s", "_pieces", "rests_until")

    def __init__(self) -> None:
        self.rests_until = 0.0
        self._cost_s = USUAL_COST_S
        self._pieces = 0

    def begin_rest(self, now: float, pieces: int) -> None:
        """Begin the rest of a Change with this many pieces of output. Its commit counts as part of the rest.

        At least half of the pieces of the Change before are counted: a fast stream that pauses is fast again.
        """
        if pieces:
            self._pieces = max(pieces, self._pieces // 2)
            self.rests_until = now + min(REST * self._cost_s * self._pieces**2, MAX_REST_S)

    def measured(self, cost_s: float) -> None:
        """Take over the measured processor time of a Change."""
        self._cost_s = min(cost_s, MAX_RISE * max(self._cost_s, USUAL_COST_S))
