"""Admit one input at a time: offered, then started or withdrawn, then finished."""

from runtimed.core.ports import Dispatch
from runtimed.core.state.backend_answer import BackendAnswer

ACCEPTED = BackendAnswer("accepted")
BUSY = BackendAnswer("busy", "a run is active: wait for its run_end")


class RunSlot:
    """Holds the input of one Worker from its offer to the end of its run. It runs nothing itself."""

    __slots__ = ("_offered", "_running")

    def __init__(self) -> None:
        self._offered: Dispatch | None = None
        self._running = False

    @property
    def is_running(self) -> bool:
        """Whether a run is active."""
        return self._running

    @property
    def has_offer(self) -> bool:
        """Whether an offered input waits to be started or withdrawn."""
        return self._offered is not None

    def offer(self, dispatch: Dispatch) -> BackendAnswer:
        """Hold an input until it is started or withdrawn.

        Returns:
            `accepted`, or `busy` while another input is held or runs.
        """
        if self._running or self._offered is not None:
            return BUSY
        self._offered = dispatch
        return ACCEPTED

    def start(self, input_id: str) -> Dispatch | None:
        """Take the held input to run it.

        Returns:
            The input, or None when no input with this id is held.
        """
        started = self._take(input_id)
        self._running = self._running or started is not None
        return started

    def withdraw(self, input_id: str) -> None:
        """Drop the held input. Does nothing when no input with this id is held."""
        self._take(input_id)

    def finish(self) -> None:
        """Free the slot. Call this just before `run_end` is emitted, so that its reader can send the next input."""
        self._running = False

    def _take(self, input_id: str) -> Dispatch | None:
        held = self._offered
        if held is None or held.input_id != input_id:
            return None
        self._offered = None
        return held
