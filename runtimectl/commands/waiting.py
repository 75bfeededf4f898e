"""Wait for the spawn of a new Worker, or for the run of an input."""

import time
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

from runtimectl.client.runs import AwaitedRun, follow_run, with_requests
from runtimectl.client.session import Session, required_text
from runtimectl.commands.worker_views import ACK
from runtimectl.errors import ControlError, TimedOut
from runtimectl.output.events import TextPrinter
from runtimectl.output.tables import at
from runtimectl.signals import require_reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimectl.client.api import Body, Client
    from runtimectl.client.runs import Run
    from runtimectl.output.printer import Printer

SPAWN_TIMEOUT_S = 60.0
SPAWN_POLL_S = 0.1


def wait_for_spawn(client: "Client", body: "Body") -> "Body":
    """Wait until the backend has accepted or refused a new Worker.

    Args:
        client: The daemon.
        body: The answer to the creation.

    Returns:
        The Worker, in an answer of the same form.

    Raises:
        TimedOut: The backend did not answer within SPAWN_TIMEOUT_S.
    """
    deadline = time.monotonic() + SPAWN_TIMEOUT_S
    with require_reader():
        while _is_spawning(body["worker"]):
            if time.monotonic() > deadline:
                worker_id = body["worker"]["worker_id"]
                raise TimedOut(f"{worker_id}: its backend did not start it within {SPAWN_TIMEOUT_S:g} s")
            time.sleep(SPAWN_POLL_S)
            body = client.worker(required_text(body["worker"], "worker_id"))
    return body


def _is_spawning(worker: "Body") -> bool:
    return at("execution.run_state")(worker) == "unconnected" and at("execution.last_result")(worker) is None


def wait_for_run(session: Session, body: "Body") -> None:
    """Print the text of a run as it arrives, or for programs the acknowledgement when the run has ended.

    Args:
        session: The invocation.
        body: The acknowledgement of the input.

    Raises:
        NotPermitted: A permission of the run was denied, or expired.
        WorkerFailed: The run or its script failed.
    """
    printer, run, text = session.printer(), AwaitedRun(), TextPrinter()
    if printer.output == "name":
        printer.show(ACK, body)
    with require_reader(), ExitStack() as at_end:
        at_end.callback(_finish_output, printer, body, run, text)
        _follow(session, body["ack"], run, text.print_event if printer.output == "table" else lambda _: None)
    run.raise_for_failure()


def _finish_output(printer: "Printer", body: "Body", run: AwaitedRun, text: TextPrinter) -> None:
    """Complete the output, however the wait ended: an accepted input is always acknowledged."""
    text.end_line()
    if printer.output not in {"name", "table"}:
        printer.show(ACK, _with_exit_status(body, run.exit_status, is_inside=not printer.prints_bodies))


def _with_exit_status(body: "Body", status: int | None, *, is_inside: bool) -> "Body":
    """Add the exit status of a script to an acknowledgement: inside of it, or beside it in the answer."""
    added = {} if status is None else {"exit_status": status}
    return {"ack": body["ack"] | added} if is_inside else body | added


def _follow(session: Session, ack: "Body", run: "Run", on_event: "Callable[[Body], None]") -> None:
    from runtimectl.client.feed import Feed, FeedSource

    worker = ack["worker_ref"]
    cursor = required_text(ack, "cursor")
    feed = Feed(
        lambda: session.client(worker["runtime_id"]),
        FeedSource.worker(worker),
        cursor,
        session.notify,
        reconnect_for=session.reconnect_for,
    )
    with closing(feed.envelopes()) as envelopes:
        events = with_requests(envelopes, lambda request: _notify_of_request(session, worker, request))
        follow_run(run, events, cursor if ack.get("queued") else None, on_event)


def _notify_of_request(session: Session, worker: "Body", request: "Body") -> None:
    """Say how to answer a permission request, unless it is closed: the profile may have answered it."""
    worker_id = required_text(worker, "worker_id")
    open_requests = []
    with suppress(ControlError):
        open_requests = session.client(worker["runtime_id"]).worker_permissions(worker_id)["permissions"]
    if any(each["request_id"] == request["request_id"] for each in open_requests):
        options = ", ".join(option["option_id"] for option in request["options"])
        command = f"runtimectl permissions answer {worker_id} {request['request_id']} OPTION"
        answers = f"answer with: {command} (OPTION: {options} or cancel)"
        session.notify(f"{worker_id} requests permission: {request['title']}; {answers}")
