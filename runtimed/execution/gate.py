"""One input at a time: offered, then started or withdrawn, then finished."""

from runtimed.core.ports import Dispatch
from runtimed.core.state.backend_answer import BackendAnswer

HELD = BackendAnswer("accepted")
BUSY = BackendAnswer("busy", "a run is going on: wait for its run_end")


class Gate:
    """Keeps the two steps of an input for one Worker. It runs nothing."""

    def __init__(self) -> None:
        self._offered: Dispatch | None = None
        self._running = False

    @property
    def running(self) -> bool:
        """Whether an input was started whose run is not over."""
        return self._running

    @property
    def held(self) -> bool:
        """Whether an input was offered that was neither started nor withdrawn yet."""
        return self._offered is not None

    def offer(self, dispatch: Dispatch) -> BackendAnswer:
        """Hold the input until it is started or withdrawn. Busy while another is held or runs."""
        if self._running or self._offered is not None:
            return BUSY
        self._offered = dispatch
        return HELD

    def start(self, input_id: str) -> Dispatch | None:
        """The input that is to run now, or None where another or none is held."""
        started = self._take(input_id)
        self._running = self._running or started is not None
        return started

    def withdraw(self, input_id: str) -> None:
        """Forget the input; harmless where another or none is held."""
        self._take(input_id)

    def finish(self) -> None:
        """The run is over: call it just before `run_end` is said, so that whoever hears that may go on."""
        self._running = False

    def _take(self, input_id: str) -> Dispatch | None:
        held = self._offered
        if held is None or held.input_id != input_id:
            return None
        self._offered = None
        return held
