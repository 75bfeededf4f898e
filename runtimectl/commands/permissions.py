"""`runtimectl permissions`."""

from functools import partial
from typing import TYPE_CHECKING

import click

from runtimectl.errors import DaemonFailed, Missing, UsageProblem
from runtimectl.options import Group
from runtimectl.output import Column, View, at
from runtimectl.session import Session, text, worker_id

if TYPE_CHECKING:
    from runtimectl.client import Body, Client

CANCEL = "cancel"
MAX_TITLE = 60


def _options(permission: "Body") -> str:
    return ", ".join(f"{option['option_id']} ({option['kind']})" for option in permission["options"])


LIST = View(
    "permissions",
    at("request_id"),
    (
        Column("WORKER", at("worker_id")),
        Column("REQUEST", at("request_id")),
        Column("TITLE", at("title"), MAX_TITLE),
        Column("OPTIONS", _options),
        Column("EXPIRES", at("expires_at")),
    ),
)
RESOLVED = View(
    "permission",
    at("request_id"),
    (
        Column("REQUEST", at("request_id")),
        Column("OUTCOME", at("outcome")),
        Column("OPTION", at("option_id")),
        Column("BY", at("by")),
    ),
)


@click.group(cls=Group)
def permissions() -> None:
    """List and answer what Workers ask leave for.

    W is a Worker's id or a unique prefix of one.

    \b
    Example:
      runtimectl permissions list
    """


@permissions.command("list")
@click.argument("worker", metavar="[W]", required=False)
@click.pass_obj
def list_(session: Session, worker: str | None) -> None:
    """List the requests that wait for an answer.

    Those of one Worker, or without W those of all.

    \b
    Example:
      runtimectl permissions list worker-00000001
    """
    client = session.client()
    if worker is not None:
        found, failure = _waiting(client, worker_id(client, worker)), None
    else:
        found, failure = _waiting_anywhere(client)
    session.printer().show(LIST, {"permissions": found})
    if failure is not None:
        raise failure


@permissions.command()
@click.argument("worker", metavar="W")
@click.argument("request", metavar="REQUEST")
@click.argument("option", metavar="OPTION")
@click.pass_obj
def answer(session: Session, worker: str, request: str, option: str) -> None:
    """Answer a request.

    REQUEST is a request's id or a unique prefix of one; OPTION is the id of an option, a kind that only one has, or
    cancel.

    \b
    Example:
      runtimectl permissions answer worker-00000001 3f allow_once
    """
    client = session.client()
    chosen = worker_id(client, worker)
    permission = _request(client, chosen, request)
    body = client.answer_permission(chosen, text(permission, "request_id"), _answer(permission, option))
    session.printer().show(RESOLVED, body)


def _waiting(client: "Client", worker: str) -> list["Body"]:
    return [{"worker_id": worker, **one} for one in client.permissions(worker)["permissions"]]


def _waiting_anywhere(client: "Client") -> tuple[list["Body"], DaemonFailed | None]:
    """The requests of all Workers that can be asked, those that are gone by then left out; and what failed last."""
    from runtimectl.pool import answers

    names = [text(one, "worker_id") for one in client.workers("running")["workers"]]
    found: list[Body] = []
    failure = None
    for answer in answers(partial(_waiting_or_failed, client), names):
        if isinstance(answer, DaemonFailed):
            failure = answer
        else:
            found += answer
    return found, failure


def _waiting_or_failed(client: "Client", worker: str) -> "list[Body] | DaemonFailed":
    try:
        return _waiting(client, worker)
    except Missing:
        return []
    except DaemonFailed as error:
        return error


def _request(client: "Client", worker: str, given: str) -> "Body":
    """The request that is given by its id or a unique prefix. Raises UsageProblem and Missing."""
    waiting = client.permissions(worker)["permissions"]
    matches = [one for one in waiting if given and text(one, "request_id").startswith(given)]
    if not matches:
        raise Missing(f"request: no request of {worker} that begins with {given!r} waits for an answer")
    if len(matches) > 1:
        listed = ", ".join(text(one, "request_id") for one in matches)
        raise UsageProblem(f"request: {given!r} is ambiguous: {listed}")
    found: Body = matches[0]
    return found


def _answer(permission: "Body", given: str) -> "Body":
    """What is answered. Raises UsageProblem."""
    options = permission["options"]
    if any(option["option_id"] == given for option in options):
        return {"option_id": given}
    of_kind = [option["option_id"] for option in options if option["kind"] == given]
    if len(of_kind) == 1:
        return {"option_id": of_kind[0]}
    if of_kind:
        raise UsageProblem(f"option: {given} is ambiguous: {', '.join(of_kind)}")
    if given == CANCEL:
        return {"outcome": "cancelled"}
    raise UsageProblem(f"option: expected one of {_options(permission)}, or {CANCEL}; got {given!r}")
