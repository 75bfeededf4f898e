"""What becomes of a run in which nothing is heard."""

from runtimed.execution import Profile
from runtimed.execution.session.silence import WatchedSink
from runtimed.model.event import Alert, ErrorRaised, InvokeStart, RunEnd
from tests.execution.conftest import RecordingSink

SILENT = ErrorRaised("internal", "the run was ended: it wrote nothing for max_silence_s (0.1 s)", "silence")


async def test_a_silent_run_whose_interrupt_fails_is_interrupted_again(recorder: RecordingSink) -> None:
    failures = [TimeoutError("it is still there"), RuntimeError("broken")]

    async def interrupt() -> None:
        if failures:
            raise failures.pop(0)
        await sink.emit(RunEnd("rolled_back"))

    sink = WatchedSink(Profile("shell", max_silence_s=0.1), recorder)
    sink.interrupt_by(interrupt)
    await sink.emit(InvokeStart("user_send"))

    await recorder.until(lambda events: len(events) > 1)

    assert recorder.events[1:] == [SILENT, RunEnd("rolled_back")]
    await sink.close()


async def test_an_error_that_a_program_tells_in_a_silent_run_is_told_as_an_alert(recorder: RecordingSink) -> None:
    async def interrupt() -> None:
        await sink.emit(ErrorRaised("provider_error", "no credit left"), RunEnd("rolled_back"))

    sink = WatchedSink(Profile("shell", max_silence_s=0.1), recorder)
    sink.interrupt_by(interrupt)
    await sink.emit(InvokeStart("user_send"))

    await recorder.until(lambda events: len(events) > 1)

    words = "the program reports an error: no credit left"
    assert recorder.events[1:] == [Alert("error", "worker", words, 0), SILENT, RunEnd("rolled_back")]
    await sink.close()
