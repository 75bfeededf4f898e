"""`runtimectl workers wait`: wait until Workers are idle, busy, stopped, or otherwise as asked."""

import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING

import click

from runtimectl.client.api import MAX_WAIT_S
from runtimectl.client.repetition import Repetition
from runtimectl.client.session import Session, required_text, write_message
from runtimectl.client.worker_names import resolve_worker_id
from runtimectl.commands.completing import complete_workers
from runtimectl.errors import ControlError, unexpected_response
from runtimectl.options import Command
from runtimectl.signals import require_reader

if TYPE_CHECKING:
    from runtimectl.client.api import Body

CONDITIONS = ("idle", "busy", "stopped", "permission", "error")
MAX_PARALLEL = 256
"""How many Workers are waited for at the same time. If there are more, they take turns."""


class Conditions(click.ParamType[tuple[str, ...]]):
    """Conditions, separated by commas."""

    name = "conditions"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        found = tuple(str(value).split(","))
        for condition in found:
            if condition not in CONDITIONS:
                self.fail(f"expected some of {', '.join(CONDITIONS)}, got {condition!r}", param, ctx)
        return found


@click.command(cls=Command)
@click.argument("workers", metavar="W...", nargs=-1, required=True, shell_complete=complete_workers)
@click.option("--for", "conditions", metavar="COND,...", type=Conditions(), help="What to wait for. [idle]")
@click.option("--all/--any", "is_for_all", default=True, help="Wait for all of the Workers, or for one. [all]")
@click.pass_obj
def wait(session: Session, workers: tuple[str, ...], conditions: tuple[str, ...] | None, is_for_all: bool) -> None:
    """Wait until a condition holds for Workers, and print which.

    COND is idle, busy, stopped, permission (one is requested) or error (a run has failed). A state that passes
    quickly counts. The command fails if none of the conditions can come any more (exit 5).

    \b
    Example:
      runtimectl workers wait @last --for idle,permission --timeout 600
    """
    client = session.client()
    ids = list(dict.fromkeys(resolve_worker_id(client, given) for given in workers))
    answers: SimpleQueue[Body | ControlError] = SimpleQueue()
    left = deque(PendingWait(worker_id) for worker_id in ids)
    for _ in range(min(len(ids), MAX_PARALLEL)):
        arguments = (session.another(), left, conditions or ("idle",), answers)
        threading.Thread(target=_wait_in_turn, args=arguments, daemon=True).start()
    with require_reader():
        _collect(session, answers, len(ids), is_for_all=is_for_all)


def _collect(session: Session, answers: "SimpleQueue[Body | ControlError]", count: int, *, is_for_all: bool) -> None:
    """Print each answer when it comes. Raises the last error, unless one answer is enough and has come."""
    printer, errors = session.printer(), list[ControlError]()
    for _ in range(count):
        answer = answers.get()
        if isinstance(answer, ControlError):
            errors.append(answer)
            continue
        worker_id = required_text(answer["worker"], "worker_id")
        printer.record(answer, _line, worker_id)
        if not is_for_all:
            return
    for earlier in errors[:-1]:
        write_message(str(earlier))
    if errors:
        raise errors[-1]


def _line(answer: "Body") -> str:
    return f"{answer['worker']['worker_id']}  {answer['matched']}"


class PendingWait:
    """A wait for a Worker, judged from its first request on.

    Args:
        worker_id: The Worker.
    """

    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id
        self._cursor: str | None = None

    def try_once(self, session: Session, conditions: tuple[str, ...]) -> "Body | None":
        """Return the end of the wait, or None if it has not come within MAX_WAIT_S. Raises ControlError."""
        repetition = Repetition(session.reconnect_for, has_reached=self._cursor is not None)
        if self._cursor is None:
            worker = repetition.send(lambda: session.client().worker(self.worker_id))["worker"]
            self._cursor = required_text(worker, "last_cursor")
        cursor = self._cursor
        found = repetition.send(lambda: session.client().wait(self.worker_id, conditions, cursor, MAX_WAIT_S))
        return None if found is None else found["wait"]


def _wait_in_turn(
    session: Session,
    left: deque[PendingWait],
    conditions: tuple[str, ...],
    answers: "SimpleQueue[Body | ControlError]",
) -> None:
    """Take the next wait that is left, and put it behind the others if its end has not come."""
    while True:
        try:
            pending = left.popleft()
        except IndexError:
            return
        try:
            found = pending.try_once(session, conditions)
        except ControlError as error:
            error.args = (f"{pending.worker_id}: {error}",)
            answers.put(error)
            continue
        except Exception as error:  # noqa: BLE001 the command would wait for ever for a thread that has ended
            answers.put(unexpected_response(error))
            continue
        if found is None:
            left.append(pending)
        else:
            answers.put(found)
