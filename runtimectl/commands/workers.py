"""`runtimectl workers`: list, create, talk to and end Workers."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from runtimectl.client.repetition import send_with_key
from runtimectl.client.requests import create_request, parse_labels, read_stdin
from runtimectl.client.session import Session, required_text, write_message
from runtimectl.client.worker_names import resolve_worker_id
from runtimectl.commands import worker_views as views
from runtimectl.commands.completing import complete_workers
from runtimectl.commands.creation import creation_options
from runtimectl.errors import ControlError, NotFound, UsageProblem, WorkerFailed
from runtimectl.options import LazyGroup
from runtimectl.output.tables import View, at

if TYPE_CHECKING:
    from runtimectl.client.api import Body, Client

STATUSES = ("running", "stopped", "cancelled")
MISSING_CAPABILITIES = re.compile(r"needs the capabilit(?:y|ies) (.+?): request ")
"""How a Runtime names the capabilities that a create request lacks."""

_WORKERS = click.argument("workers", metavar="W...", nargs=-1, required=True, shell_complete=complete_workers)
_REASON = click.option("--reason", metavar="TEXT", help="The reason that observers see if this ends a run.")


@click.group(cls=LazyGroup, members={"wait": "runtimectl.commands.worker_wait:wait"})
def workers() -> None:
    """List, create, talk to and end Workers.

    W is a Worker's id, its name, its number, @last for the newest, or a unique prefix of an id.

    \b
    Example:
      runtimectl workers list
    """


@workers.command("list")
@click.option(
    "--status", type=click.Choice(["running", "stopped", "cancelled"]), help="Only Workers with this status."
)
@click.option("--label", "labels", metavar="K=V", multiple=True, help="Only Workers with this label; repeatable.")
@click.pass_obj
def list_(session: Session, status: str | None, labels: tuple[str, ...]) -> None:
    """List Workers, sorted by id.

    \b
    Example:
      runtimectl workers list --status running -o name
    """
    parse_labels(labels)
    body = session.client().workers(status, labels)
    has_names = any(worker.get("name") for worker in body["workers"])
    session.printer().show(views.LIST_WITH_NAMES if has_names else views.LIST, body)


@workers.command()
@click.argument("worker", metavar="W", shell_complete=complete_workers)
@click.pass_obj
def get(session: Session, worker: str) -> None:
    """Show one Worker.

    \b
    Example:
      runtimectl workers get worker-00000001 -o json
    """
    client = session.client()
    session.printer().show(views.WORKER_DETAIL, client.worker(resolve_worker_id(client, worker)))


@workers.command()
@creation_options
@click.option("--wait", is_flag=True, help="Wait until the backend has accepted or refused the Worker.")
@click.pass_obj
def create(session: Session, /, wait: bool, **fields: Any) -> None:
    """Create a Worker and print it.

    \b
    Example:
      runtimectl workers create --profile builtin:shell --capability shell -o name
    """
    request = create_request(**fields)
    client = session.client()
    body = send_with_key(lambda key: client.create_worker(request, key))
    if wait:
        from runtimectl.commands.waiting import wait_for_spawn

        body = wait_for_spawn(client, body)
    session.printer().show(views.WORKER_ROW, body)
    refusal = _refusal(body["worker"])
    if refusal:
        raise WorkerFailed(refusal)


@workers.command("input")
@click.argument("worker", metavar="W", shell_complete=complete_workers)
@click.argument("content", metavar="TEXT")
@click.option("--system", is_flag=True, help="Send a system input instead of a user input.")
@click.option("--wait", is_flag=True, help="Wait for the end of the run; exit 1 or 9 if it fails.")
@click.option(
    "--when-busy",
    type=click.Choice(["reject", "queue", "interrupt"]),
    help="During a run: fail, wait for its end, or interrupt it and run next. [reject]",
)
@click.pass_obj
def input_(session: Session, worker: str, content: str, system: bool, wait: bool, when_busy: str | None) -> None:
    """Send an input to a Worker.

    With - in place of TEXT, the input is read from stdin.

    \b
    Example:
      runtimectl workers input worker-00000001 "hello" --wait
    """
    text = _stdin_text() if content == "-" else content
    client = session.client()
    worker_id = resolve_worker_id(client, worker)
    kind = "system" if system else "user"
    body = send_with_key(lambda key: client.send_input(worker_id, kind, text, when_busy, key))
    if wait:
        from runtimectl.commands.waiting import wait_for_run

        wait_for_run(session, body)
    else:
        session.printer().show(views.ACK, body)


@workers.command()
@_WORKERS
@_REASON
@click.pass_obj
def stop(session: Session, workers: tuple[str, ...], reason: str | None) -> None:
    """Stop Workers gracefully.

    \b
    Example:
      runtimectl workers stop worker-00000001 --reason "done"
    """
    _each(session, workers, lambda client, worker_id: client.stop(worker_id, reason), views.ACK_WITHOUT_ENTRY)


@workers.command()
@_WORKERS
@_REASON
@click.pass_obj
def cancel(session: Session, workers: tuple[str, ...], reason: str | None) -> None:
    """Cancel Workers: end them at once.

    \b
    Example:
      runtimectl workers cancel worker-00000001 worker-00000002
    """
    _each(session, workers, lambda client, worker_id: client.cancel(worker_id, reason), views.ACK_WITHOUT_ENTRY)


@workers.command()
@_WORKERS
@click.pass_obj
def interrupt(session: Session, workers: tuple[str, ...]) -> None:
    """Interrupt the current run of Workers. The Workers stay.

    \b
    Example:
      runtimectl workers interrupt worker-00000001
    """
    _each(session, workers, lambda client, worker_id: client.interrupt(worker_id), views.ACK_WITHOUT_ENTRY)


@workers.command()
@_WORKERS
@click.pass_obj
def restore(session: Session, workers: tuple[str, ...]) -> None:
    """Reconnect Workers to their backends.

    Workers lose their backend when the daemon restarts, or when their program ends.

    \b
    Example:
      runtimectl workers restore worker-00000001
    """
    _each(session, workers, lambda client, worker_id: client.restore(worker_id), views.WORKER_ROW)


@workers.command()
@_WORKERS
@click.option("--force", is_flag=True, help="Delete them even if unsaved work in their workspaces is lost.")
@click.pass_obj
def delete(session: Session, workers: tuple[str, ...], force: bool) -> None:
    """Delete Workers that are not running.

    This deletes all of their data: transcripts, events, folders and the workspaces that were made for them. Their
    branches stay. A Worker whose workspaces hold unsaved work is refused without --force.

    \b
    Example:
      runtimectl workers delete worker-00000001
    """
    delete_one = partial(_delete, force=force)
    _each(session, workers, delete_one, views.DELETED, lambda deleted: [{"deleted": deleted}])


def _refusal(worker: "Body") -> str | None:
    outcome = at("execution.last_result.outcome")(worker)
    if outcome in {None, "accepted"}:
        return None
    message = at("execution.last_result.message")(worker) or outcome
    worker_id = required_text(worker, "worker_id")
    return f"{worker_id} was created, but its backend refused to run it: {_with_options(str(message))}"


def _with_options(message: str) -> str:
    """Return a refusal; one for missing capabilities names the options that request them."""
    missing = MISSING_CAPABILITIES.search(message)
    if missing is None:
        return message
    options = " ".join(f"--capability {name}" for name in missing[1].split(", "))
    return f"{message[: missing.end(1)]}: create one with {options}"


def _stdin_text() -> str:
    try:
        return read_stdin().decode()
    except UnicodeDecodeError as error:
        raise UsageProblem(f"stdin: expected UTF-8, got an invalid byte at offset {error.start}") from None


def _delete(client: "Client", worker_id: str, *, force: bool) -> "Body":
    client.delete_worker(worker_id, force=force)
    return {"worker_id": worker_id}


def _each(
    session: Session,
    given: Sequence[str],
    act: Callable[["Client", str], "Body"],
    view: View,
    as_bodies: Callable[[list["Body"]], Sequence["Body"]] = list,
) -> None:
    """Do the same to several Workers and print the answers. A failure of one does not stop the others.

    All Workers are resolved before anything is done. Each error is one line on stderr, the last one is raised.

    Args:
        session: The invocation.
        given: Texts that stand for Workers.
        act: Sends the request for one Worker and returns its answer.
        view: How to show the answers.
        as_bodies: Makes the bodies to print of all answers.

    Raises:
        ControlError: At least one Worker failed.
    """
    client = session.client()
    answers: list[Body] = []
    errors: list[ControlError] = []
    for worker_id in _resolved(client, given, errors):
        try:
            answers.append(act(client, worker_id))
        except ControlError as error:
            error.args = (f"{worker_id}: {error}",)
            errors.append(error)
    if answers:
        session.printer().show(view, *as_bodies(answers))
    for earlier in errors[:-1]:
        write_message(str(earlier))
    if errors:
        raise errors[-1]


def _resolved(client: "Client", given: Sequence[str], errors: list[ControlError]) -> list[str]:
    """Return each Worker's id once. Adds an error for each name that does not stand for one Worker."""
    ids: dict[str, None] = {}
    for name in given:
        try:
            ids[resolve_worker_id(client, name)] = None
        except (NotFound, UsageProblem) as error:
            errors.append(error)
    return list(ids)
