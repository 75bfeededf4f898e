"""`runtimectl workers`."""

import re
import time
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Any

import click

from runtimectl.batch import each
from runtimectl.errors import ControlError, RunFailed, TimedOut, UsageProblem
from runtimectl.options import Group
from runtimectl.output import Column, View, at
from runtimectl.requests import check_labels, create_request
from runtimectl.said import SaidText
from runtimectl.session import Session, text, worker_id
from runtimectl.stdin import read_bytes
from runtimectl.times import age, local

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimectl.client import Body, Client
    from runtimectl.output import Printer
    from runtimectl.runs import AwaitedRun, Run

MAX_INTENT = 60
MAX_NAME = 32
SPAWN_TIMEOUT_S = 60.0
SPAWN_POLL_S = 0.1
LACKING = re.compile(r"needs the capabilit(?:y|ies) (.+?): request ")
"""What a Runtime says of a create that lacks capabilities."""


def _profile(worker: "Body") -> object:
    profile = worker.get("profile") or {}
    return profile.get("value", "default")


def _intent(worker: "Body") -> object:
    intent = worker.get("intent") or {}
    told = (intent.get(name) for name in ("role", "objective", "purpose"))
    return ": ".join([str(intent.get("kind")), *(str(value) for value in told if value)])


def _labels(worker: "Body") -> object:
    return ", ".join(f"{key}={value}" for key, value in worker.get("labels", {}).items()) or None


def _capabilities(worker: "Body") -> object:
    return ", ".join(request["name"] for request in worker.get("requested_capabilities", ())) or None


def _age(worker: "Body") -> object:
    return age(worker.get("created_at_ms"))


def _created(worker: "Body") -> object:
    return local(worker.get("created_at_ms"))


WORKER = at("worker_id")
NAME = Column("NAME", at("name"), MAX_NAME)
ROW = (
    Column("WORKER", WORKER),
    Column("STATUS", at("status")),
    Column("RUN", at("execution.run_state")),
    Column("PROFILE", _profile),
    Column("INTENT", _intent, MAX_INTENT),
    Column("ENTRIES", at("transcript_len")),
)
AGE = Column("AGE", _age)
LIST = View("workers", WORKER, (*ROW, AGE))
NAMED = View("workers", WORKER, (ROW[0], NAME, *ROW[1:], AGE))
CREATED = View("worker", WORKER, ROW)
DETAIL = View(
    "worker",
    WORKER,
    (
        ROW[0],
        NAME,
        *ROW[1:],
        Column("LABELS", _labels),
        Column("QUEUED", at("queued_inputs")),
        Column("CREATED", _created),
        Column("LAST EVENT", at("last_cursor")),
        Column("KEPT BEHIND", at("oldest_cursor")),
        Column("BACKEND", at("execution.backend")),
        Column("LAST RESULT", at("execution.last_result.outcome")),
        Column("MESSAGE", at("execution.last_result.message")),
        Column("BUNDLE", at("config_bundle.id")),
        Column("CAPABILITIES", _capabilities),
        Column("RUNTIME", at("runtime_id")),
    ),
    upright=True,
)
ACK = View(
    "ack",
    at("worker_ref.worker_id"),
    (
        Column("WORKER", at("worker_ref.worker_id")),
        Column("STATUS", at("status")),
        Column("ENTRY", at("transcript_sequence")),
        Column("EVENT", at("cursor")),
    ),
)
DELETED = View("deleted", WORKER, (Column("DELETED", WORKER),))
ENDED = View("ack", ACK.name, tuple(column for column in ACK.columns if column.title != "ENTRY"))

_SEVERAL = click.argument("workers", metavar="W...", nargs=-1, required=True)
_REASON = click.option("--reason", metavar="TEXT", help="Told to observers when this cuts a run.")


@click.group(cls=Group)
def workers() -> None:
    """List, create, talk to and end Workers.

    W is a Worker's id or a unique prefix of one.

    \b
    Example:
      runtimectl workers list
    """


@workers.command("list")
@click.option("--status", type=click.Choice(["running", "stopped", "cancelled"]), help="Only those of this status.")
@click.option("--label", "labels", metavar="K=V", multiple=True, help="Only those with this label; repeatable.")
@click.pass_obj
def list_(session: Session, status: str | None, labels: tuple[str, ...]) -> None:
    """List the Workers, by id.

    \b
    Example:
      runtimectl workers list --status running -o name
    """
    check_labels(labels)
    body = session.client().workers(status, labels)
    named = any(worker.get("name") for worker in body["workers"])
    session.printer().show(NAMED if named else LIST, body)


@workers.command()
@click.argument("worker", metavar="W")
@click.pass_obj
def get(session: Session, worker: str) -> None:
    """Show one Worker.

    \b
    Example:
      runtimectl workers get worker-00000001 -o json
    """
    client = session.client()
    session.printer().show(DETAIL, client.worker(worker_id(client, worker)))


@workers.command()
@click.option("--profile", metavar="SEL", help="default, builtin:NAME or the NAME of a bundle's profile.")
@click.option("--task", metavar="TEXT", help="A Worker with this to get done.")
@click.option("--role", metavar="R", help="A Worker that plays this part.")
@click.option("--purpose", metavar="TEXT", help="What the assistant, or the role, is for.")
@click.option("--bundle", metavar="ID@DIGEST", help="The config bundle to create it from.")
@click.option("--capability", "capabilities", metavar="C", multiple=True, help="Ask for a capability; repeatable.")
@click.option("--workspace", "workspaces", metavar="NAME=REF", multiple=True, help="A workspace; repeatable.")
@click.option("--mount", "mounts", metavar="NAME=REF", multiple=True, help="A mount; repeatable.")
@click.option("--name", metavar="NAME", help="What people call it.")
@click.option("--label", "labels", metavar="K=V", multiple=True, help="A label to find it by; repeatable.")
@click.option("--wait", is_flag=True, help="Wait until it runs.")
@click.pass_obj
def create(session: Session, /, wait: bool, **wanted: Any) -> None:
    """Create a Worker and print it.

    \b
    Example:
      runtimectl workers create --profile builtin:shell --capability shell -o name
    """
    request = create_request(**wanted)
    client = session.client()
    body = client.create_worker(request)
    if wait:
        from runtimectl.reader import needing_reader

        with needing_reader():
            body = _spawned(client, body)
    session.printer().show(CREATED, body)
    refusal = _refusal(body["worker"])
    if refusal:
        raise RunFailed(refusal)


@workers.command("input")
@click.argument("worker", metavar="W")
@click.argument("content", metavar="[TEXT | -]", required=False)
@click.option("--system", is_flag=True, help="A system input instead of a user's.")
@click.option("--wait", is_flag=True, help="Wait for the end of the run; exit 1 when it does not end well.")
@click.option(
    "--when-busy",
    type=click.Choice(["reject", "queue", "interrupt"]),
    help="While a run goes on: be refused, wait for its end, or cut it and go first. [reject]",
)
@click.pass_obj
def input_(
    session: Session, worker: str, content: str | None, system: bool, wait: bool, when_busy: str | None
) -> None:
    """Say something to a Worker; - or nothing reads it from stdin.

    \b
    Example:
      runtimectl workers input worker-00000001 "hello" --wait
    """
    said = _from_stdin() if content in {None, "-"} else str(content)
    client = session.client()
    chosen = worker_id(client, worker)
    body = client.send_input(chosen, "system" if system else "user", said, when_busy)
    if wait:
        _wait_for_run(session, body)
    else:
        session.printer().show(ACK, body)


@workers.command()
@_SEVERAL
@_REASON
@click.pass_obj
def stop(session: Session, workers: tuple[str, ...], reason: str | None) -> None:
    """End Workers in good order.

    \b
    Example:
      runtimectl workers stop worker-00000001 --reason "done"
    """
    each(session, workers, lambda client, chosen: client.stop(chosen, reason), ENDED)


@workers.command()
@_SEVERAL
@_REASON
@click.pass_obj
def cancel(session: Session, workers: tuple[str, ...], reason: str | None) -> None:
    """End Workers at once.

    \b
    Example:
      runtimectl workers cancel worker-00000001 worker-00000002
    """
    each(session, workers, lambda client, chosen: client.cancel(chosen, reason), ENDED)


@workers.command()
@_SEVERAL
@click.pass_obj
def interrupt(session: Session, workers: tuple[str, ...]) -> None:
    """End the current run of Workers, which go on.

    \b
    Example:
      runtimectl workers interrupt worker-00000001
    """
    each(session, workers, lambda client, chosen: client.interrupt(chosen), ENDED)


@workers.command()
@_SEVERAL
@click.pass_obj
def restore(session: Session, workers: tuple[str, ...]) -> None:
    """Bring back what runs Workers.

    After a restart of the daemon nothing runs them, nor after the end of their program.

    \b
    Example:
      runtimectl workers restore worker-00000001
    """
    each(session, workers, lambda client, chosen: client.restore(chosen), CREATED)


@workers.command()
@_SEVERAL
@click.pass_obj
def delete(session: Session, workers: tuple[str, ...]) -> None:
    """Delete Workers that are not running.

    All that is stored of them goes: transcripts, events and folders.

    \b
    Example:
      runtimectl workers delete worker-00000001
    """
    each(session, workers, _delete, DELETED, lambda deleted: [{"deleted": deleted}])


def _refusal(worker: "Body") -> str | None:
    outcome = at("execution.last_result.outcome")(worker)
    if outcome in {None, "accepted"}:
        return None
    message = at("execution.last_result.message")(worker) or outcome
    return f"{text(worker, 'worker_id')} was created, but nothing runs it: {_with_options(str(message))}"


def _with_options(message: str) -> str:
    """A refusal for lack of capabilities, with the options that request them."""
    missing = LACKING.search(message)
    if missing is None:
        return message
    options = " ".join(f"--capability {name}" for name in missing[1].split(", "))
    return f"{message[: missing.end(1)]}: create one with {options}"


def _spawned(client: "Client", body: "Body") -> "Body":
    """The Worker once its spawn has been answered. Raises TimedOut."""
    deadline = time.monotonic() + SPAWN_TIMEOUT_S
    while _unanswered(body["worker"]):
        if time.monotonic() > deadline:
            raise TimedOut(f"nothing runs {body['worker']['worker_id']} after {SPAWN_TIMEOUT_S:g} s")
        time.sleep(SPAWN_POLL_S)
        body = client.worker(text(body["worker"], "worker_id"))
    return body


def _unanswered(worker: "Body") -> bool:
    return at("execution.run_state")(worker) == "unconnected" and at("execution.last_result")(worker) is None


def _from_stdin() -> str:
    try:
        return read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UsageProblem(f"stdin: expected UTF-8; byte {error.start} is not") from None


def _wait_for_run(session: Session, body: "Body") -> None:
    """Print what the Worker says, or for programs the acknowledgement once the run is over. Raises as it ended."""
    from runtimectl.reader import needing_reader
    from runtimectl.runs import AwaitedRun

    printer, run, said = session.printer(), AwaitedRun(), SaidText()
    if printer.output == "name":
        printer.show(ACK, body)
    with needing_reader(), ExitStack() as ending:
        ending.callback(_finish, printer, body, run, said)
        _read_run(session, body["ack"], run, said.see if printer.output == "table" else lambda _: None)
    run.check()


def _finish(printer: "Printer", body: "Body", run: "AwaitedRun", said: SaidText) -> None:
    """End what was printed, however the wait ended: an input that was accepted is told of."""
    said.end_line()
    if printer.output not in {"name", "table"}:
        printer.show(ACK, _with_status(body, run.exit_status, inside=not printer.whole))


def _with_status(body: "Body", status: int | None, *, inside: bool) -> "Body":
    """An acknowledgement with the exit status of its script, if any, beside it or inside."""
    told = {} if status is None else {"exit_status": status}
    return {"ack": body["ack"] | told} if inside else body | told


def _read_run(session: Session, ack: "Body", run: "Run", shown: "Callable[[Body], None]") -> None:
    from runtimectl.feed import Feed, Observed
    from runtimectl.runs import read_to_end, watched

    worker = ack["worker_ref"]
    cursor = text(ack, "cursor")
    feed = Feed(lambda: session.client(worker["runtime_id"]), Observed.worker(worker), cursor, session.tell)
    with closing(feed.envelopes()) as envelopes:
        heard = watched(envelopes, lambda asked: _tell_request(session, worker, asked))
        read_to_end(run, heard, cursor if ack.get("queued") else None, shown)


def _tell_request(session: Session, worker: "Body", asked: "Body") -> None:
    """Say how to answer a request, where it waits for somebody: the profile may have answered it, or it is over."""
    name = text(worker, "worker_id")
    waiting = []
    with suppress(ControlError):
        waiting = session.client(worker["runtime_id"]).worker_permissions(name)["permissions"]
    if any(one["request_id"] == asked["request_id"] for one in waiting):
        options = ", ".join(option["option_id"] for option in asked["options"])
        command = f"runtimectl permissions answer {name} {asked['request_id']} OPTION"
        session.tell(f"{name} asks: {asked['title']}; answer with {options} or cancel as OPTION: {command}")


def _delete(client: "Client", chosen: str) -> "Body":
    client.delete_worker(chosen)
    return {"worker_id": chosen}
