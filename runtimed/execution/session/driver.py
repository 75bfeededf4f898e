"""The port between the run machine and drivers. A driver starts, talks to and ends one kind of program."""

import asyncio
from collections.abc import Sequence
from typing import Literal, Protocol

import attrs

from runtimed.core.ports import Dispatch
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import Entry
from runtimed.model.event import Payload
from runtimed.model.execution import LossReason

Progress = Literal["running", "over", "exited"]
"""The result of a `read`: nothing has ended, the program has ended its run, or the program is gone."""


class DriverError(Exception):
    """An expected failure of a program; the text says what happened, in words that clients may read."""


class SpawnRejected(DriverError):
    """The profile or the Worker asks for something that the program can't do."""


@attrs.define(eq=False)
class Run:
    """One input from its start to the end of its run.

    Attributes:
        dispatch: The input.
        is_interrupted: A request asked to end the run.
        grace_s: How long the program may take to end an interrupted run, in seconds.
        is_killed: The program did not end the run in that time and was killed.
        over: Set once `run_end` was emitted, or the program was reported as lost.
    """

    dispatch: Dispatch
    is_interrupted: bool = False
    grace_s: float = 0.0
    is_killed: bool = False
    over: asyncio.Event = attrs.field(factory=asyncio.Event)


@attrs.frozen
class Exit:
    """How a program came to its end.

    Attributes:
        reason: Which limit ended it, or `exit`.
        message: The same in words, for people.
        ending: Events that end the current run, if any, if the Worker outlives this program. None if the Worker is
            lost with it.
    """

    reason: LossReason
    message: str
    ending: Sequence[Payload] | None = None


class Driver(Protocol):
    """Runs the program of one Worker, one run at a time, and emits its output to the Worker's sink.

    The run machine decides when runs begin and end and emits their first and last event. It calls one method at a
    time from one task, except `wake`, `kill` and `interrupt`, which may be called at any moment, and `close`, which
    is called after that task has ended.
    """

    noun: str
    """What the program is called in messages, such as `shell`."""

    holds_output: bool
    """Whether output that arrives after an input was accepted is held until the input starts, as text of its run."""

    @property
    def received(self) -> int:
        """How many bytes the program has written so far."""

    @property
    def has_open_text(self) -> bool:
        """Whether the program has begun a text that has no end yet."""

    def refusal(self, dispatch: Dispatch) -> BackendAnswer | None:
        """Return why this program cannot take the input, or None if it can."""

    async def start(self, history: Sequence[Entry] | None) -> Sequence[Payload]:
        """Start the program and wait until it is ready.

        Args:
            history: The newest entries of the transcript if the Worker is restored or its program is started again.
                None for a new Worker.

        Returns:
            Alerts about what was lost or found.

        Raises:
            OSError: It cannot be started. Nothing is left of it.
            DriverError: The same, with a message for clients.
        """

    async def restart(self) -> Sequence[Payload]:
        """Start the program again after an exit that the Worker outlived. Returns and raises the same as `start`."""

    async def begin_run(self) -> None:
        """Close what was left open before the run."""

    async def write(self, run: Run) -> None:
        """Send the program its input. `read` emits the output.

        Raises:
            DriverError: The input cannot be run. The run is over, and the Worker continues.
        """

    async def read(self) -> Progress:
        """Wait for output, the end of the program or a `wake`, and emit the output."""

    async def flush(self) -> None:
        """Emit the output that has arrived, without waiting, and close the open text."""

    async def close_text(self) -> None:
        """Close the open text, because the program is silent between two runs."""

    def wake(self) -> None:
        """Make the current or else the next `read` return."""

    async def interrupt(self) -> None:
        """Ask the program to end its run, without waiting until it does."""

    async def kill(self) -> None:
        """Kill the program. Its output can still be read.

        Raises:
            TimeoutError: Processes resist being killed.
        """

    async def end_run(self, run: Run) -> Sequence[Payload]:
        """Return the last events of a run that is `over`, the last of which is a `run_end`."""

    async def reap(self, reason: LossReason | None, run: Run | None) -> Exit:
        """End what is left of the program, emit its last output, and say how it ended.

        Args:
            reason: The limit for which the machine ends it, or None if it ended on its own.
            run: The run that this cuts short, if any.
        """

    async def close(self, grace_s: float) -> None:
        """End the program and everything that it started. May be called again.

        Args:
            grace_s: How long it may take to end on its own, in seconds. With 0 it is killed at once.

        Raises:
            TimeoutError: Processes resist being killed.
        """
