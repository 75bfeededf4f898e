"""`runtimectl permissions`."""

from typing import TYPE_CHECKING

import click

from runtimectl.errors import Missing, UsageProblem
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
    session.printer().show(LIST, client.permissions() if worker is None else _of_one(client, worker))


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


def _of_one(client: "Client", given: str) -> "Body":
    """The answer for one Worker, each request with the Worker's id as in the list of all."""
    worker = worker_id(client, given)
    waiting = client.worker_permissions(worker)["permissions"]
    return {"permissions": [{"worker_id": worker, **one} for one in waiting]}


def _request(client: "Client", worker: str, given: str) -> "Body":
    """The request that is given by its id or a unique prefix. Raises UsageProblem and Missing."""
    waiting = client.worker_permissions(worker)["permissions"]
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
