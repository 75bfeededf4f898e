"""The main loop of a job: from the creation of its Worker to its result."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from runtimectl.client.api import Client
from runtimectl.client.repetition import LOST_ANSWER_S, Repetition
from runtimectl.client.run_progress import End, RunProgress
from runtimectl.client.run_result import EXIT_CODES, SIGNALED, Result, exit_code
from runtimectl.client.session import Session
from runtimectl.errors import ControlError, NotFound, Refused
from runtimectl.job.conversation import Conversation, refusal
from runtimectl.job.files import FileProblem
from runtimectl.job.inbox import Accepted, Created, Event, Failed, Inbox, Item, Note, OutputClosed, Stopped
from runtimectl.job.records import Records
from runtimectl.job.stdout import Stdout
from runtimectl.job.views import View
from runtimectl.result import Outcome

TICK_S = 0.1
SETTLE_S = 30.0
"""How long a command that ends waits for its Worker: for its creation, and for its last events."""

OUTPUT_CLOSED = 141

Body = dict[str, Any]


class JobOptions(NamedTuple):
    """The options of a job; times are in seconds.

    Attributes:
        timeout_s: The most time for the whole job, or None.
        no_output_for_s: The most time without an event of the Worker, or None.
        allow: The kinds of permissions to answer with yes; `all` for every kind.
        continues_on_denied: A permission that is denied does not end the run.
        keep: Do not stop the Worker.
        keep_on_failure: Do not stop it if the exit code is not 0.
        delete: Delete the Worker at the end.
    """

    timeout_s: float | None = None
    no_output_for_s: float | None = None
    allow: tuple[str, ...] = ()
    continues_on_denied: bool = False
    keep: bool = False
    keep_on_failure: bool = False
    delete: bool = False


class Job:
    """One run of a new Worker.

    Args:
        session: The invocation.
        options: What to do when.
        inbox: Where the answers, the events and signals arrive.
        conversation: Talks to the daemon; not started yet.
        view: Prints what happens.
        stdout: Where the view prints.
        records: The files to write.
    """

    def __init__(
        self,
        session: Session,
        options: JobOptions,
        inbox: Inbox,
        conversation: Conversation,
        view: View,
        stdout: Stdout,
        records: Records,
    ) -> None:
        self._session = session
        self._options = options
        self._inbox = inbox
        self._conversation = conversation
        self._view = view
        self._stdout = stdout
        self._records = records
        self._progress = RunProgress()
        self._began = self._heard = time.monotonic()
        self._worker: Body | None = None
        self._is_connected = True
        self._is_accepted = False
        self._end: End | None = None
        self._exit_code = self._duration_ms = 0

    def run(self) -> Result:
        """Run the job and return its result. Raises OSError if the output or a file cannot be written."""
        self._conversation.start()
        while self._end is None:
            self._handle(self._inbox.get(TICK_S))
            self._check_times()
        self._wind_down()
        result = Result(self._end, self._progress, self._worker_id, self._duration_ms, self._exit_code)
        self._records.close(result.body())
        self._view.result(result)
        return result

    @property
    def _worker_id(self) -> str | None:
        return None if self._worker is None else str(self._worker["worker_id"])

    def _finish(self, end: End, code: int) -> None:
        if self._end is None:
            self._conversation.cancel()
            self._end, self._exit_code = end, code
            self._duration_ms = round((time.monotonic() - self._began) * 1000)

    def _handle(self, item: Item | None) -> None:
        match item:
            case None:
                self._view.tick()
            case Created(worker):
                self._begin(worker)
            case Accepted():
                self._is_accepted = True
            case Event(envelope):
                self._record(envelope)
            case Note(text):
                self._heard = time.monotonic()
                self._view.note(text)
            case Failed(error):
                self._fail(error)
            case Stopped(number):
                self._finish(End("interrupted", f"stopped by signal {number}"), SIGNALED + number)
                self._view.note("ending the run; a second signal ends this command at once")
            case OutputClosed():
                self._stdout.is_closed = True
                self._finish(End("interrupted", "nobody reads stdout any more"), OUTPUT_CLOSED)

    def _begin(self, worker: Body) -> None:
        self._worker = worker
        self._heard = time.monotonic()
        refused = refusal(worker)
        if refused is not None:
            self._is_connected = False
            self._finish(End("refused", f"the spawn was refused: {refused}"), EXIT_CODES["refused"])

    def _record(self, envelope: Body) -> None:
        text = self._progress.record(envelope)
        self._show(envelope, text)
        self._answer_permissions()
        if envelope["payload"]["event"] != "alert":  # The daemon itself reports that a run is silent.
            self._heard = time.monotonic()  # What was shown may have waited for its reader.
        denial = self._progress.denial
        if denial is not None and not self._options.continues_on_denied:
            self._finish(End("denied", denial), EXIT_CODES["denied"])
        elif self._progress.end is not None:
            self._finish(self._progress.end, exit_code(self._progress.end, self._progress.exit_status))

    def _show(self, envelope: Body, text: str) -> None:
        for write in (self._records.event, self._view.event):
            try:
                write(envelope, text)
            except OSError as error:
                self._finish(End("interrupted", problem_of_output(error)), EXIT_CODES["refused"])

    def _fail(self, error: ControlError) -> None:
        """End the job with the daemon's refusal, or because the daemon is gone."""
        self._is_connected = False
        outcome: Outcome = "refused" if self._progress.cursor is None else "lost"
        self._finish(End(outcome, str(error)), EXIT_CODES["refused"])

    def _check_times(self) -> None:
        now, options = time.monotonic(), self._options
        if options.timeout_s is not None and now - self._began > options.timeout_s:
            self._finish(End("timed_out", f"not done within {options.timeout_s:g} s"), EXIT_CODES["timed_out"])
        silence_s = options.no_output_for_s
        is_silent = silence_s is not None and self._worker is not None and now - self._heard > silence_s
        if is_silent and not self._progress.requests:
            self._finish(End("timed_out", f"no output for {silence_s:g} s"), EXIT_CODES["timed_out"])

    def _answer_permissions(self) -> None:
        """Allow the requests whose kind the options name."""
        for request in self._progress.unanswered():
            option = allowing_option(request)
            if option is not None and not {request.get("tool_kind", "other"), "all"}.isdisjoint(self._options.allow):
                self._answer(request["request_id"], {"option_id": option})

    def _answer(self, request_id: str, answer: Body) -> None:
        try:
            self._ask(lambda client, worker_id: client.answer_permission(worker_id, request_id, answer))
        except ControlError as error:
            if not isinstance(error, NotFound):  # Somebody else was faster.
                self._view.note(f"cannot answer a permission request: {error}")

    def _ask(self, request: Callable[[Client, str], object]) -> None:
        """Send a request about the Worker, again where its answer was lost. Raises ControlError.

        A daemon that restarts is waited for as long as for an answer; one that was given up is not.
        """
        worker = self._worker
        if worker is not None:
            repetition = Repetition(has_reached=True, waits_for_daemon=self._is_connected)
            repetition.send(lambda: request(self._session.client(worker["runtime_id"]), worker["worker_id"]))

    def _wind_down(self) -> None:
        """End the run and the Worker as the options say, and record the events until then."""
        if self._conversation.may_have_created:
            self._settle(lambda: self._worker is not None)
        if self._worker is None:
            return
        try:
            if self._conversation.may_have_given:
                self._interrupt()
            if not self._is_kept():
                self._stop()
        except ControlError as error:
            self._view.note(f"cannot end {self._worker_id}: {error}")

    def _interrupt(self) -> None:
        """End the run if it goes on, once the daemon has its input: an interrupt before that would end nothing."""
        self._settle(lambda: self._is_accepted)
        if not self._is_connected or self._progress.end is not None:
            return
        try:
            self._ask(lambda client, worker_id: client.interrupt(worker_id, LOST_ANSWER_S))
        except Refused as error:
            self._view.note(f"cannot interrupt the run: {error}")  # Its Worker can still be stopped.
        else:
            self._settle(lambda: self._progress.end is not None)

    def _is_kept(self) -> bool:
        return self._options.keep or (self._options.keep_on_failure and self._exit_code != 0)

    def _stop(self) -> None:
        self._ask(lambda client, worker_id: client.stop(worker_id))
        self._settle(lambda: self._progress.is_over)
        if self._options.delete:
            try:
                self._ask(lambda client, worker_id: client.delete_worker(worker_id))
            except NotFound:
                pass  # The answer to an earlier attempt was lost.
            except Refused as error:
                self._view.note(f"{self._worker_id} is not deleted: {error}")

    def _settle(self, is_settled: Callable[[], bool]) -> None:
        """Go on recording until a condition holds, for at most SETTLE_S and only while the daemon is connected."""
        deadline = time.monotonic() + SETTLE_S
        while self._is_connected and not is_settled() and time.monotonic() < deadline:
            self._handle(self._inbox.get(TICK_S))


def problem_of_output(error: OSError) -> str:
    """Return what a failure to write says: of a file its name, of stdout the reason."""
    return str(error) if isinstance(error, FileProblem) else f"cannot write the output: {error.strerror}"


def allowing_option(request: Body) -> str | None:
    """Return the option that allows a request, once rather than always; None if it has none."""
    by_kind = {option["kind"]: option["option_id"] for option in reversed(request.get("options", ()))}
    return by_kind.get("allow_once") or by_kind.get("allow_always")
