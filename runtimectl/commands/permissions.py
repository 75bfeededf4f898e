"""`runtimectl permissions`: list and answer permission requests."""

import json
from typing import TYPE_CHECKING

import click

from runtimectl.client.session import Session, required_text
from runtimectl.client.worker_names import resolve_worker_id
from runtimectl.commands.completing import complete_workers
from runtimectl.errors import NotFound, UsageProblem
from runtimectl.options import Group
from runtimectl.output.tables import Column, View, at

if TYPE_CHECKING:
    from runtimectl.client.api import Body, Client

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
    """List and answer the permission requests of Workers.

    W is a Worker's id, its name, its number, @last for the newest, or a unique prefix of an id.

    \b
    Example:
      runtimectl permissions list
    """


@permissions.command("list")
@click.argument("worker", metavar="[W]", required=False, shell_complete=complete_workers)
@click.pass_obj
def list_(session: Session, worker: str | None) -> None:
    """List the open requests of one Worker, or of all.

    \b
    Example:
      runtimectl permissions list worker-00000001
    """
    client = session.client()
    session.printer().show(LIST, client.permissions() if worker is None else _of_worker(client, worker))


@permissions.command()
@click.argument("worker", metavar="W", shell_complete=complete_workers)
@click.argument("request", metavar="REQUEST")
@click.argument("option", metavar="OPTION")
@click.option("--reason", metavar="TEXT", help="Why, in words for the agent.")
@click.option("--content", metavar="JSON", help="The values of the request's form: an object, by their names.")
@click.pass_obj
def answer(session: Session, worker: str, request: str, option: str, reason: str | None, content: str | None) -> None:
    """Answer a request.

    REQUEST is a request's id, or a prefix that only one id has. OPTION is the id of an option, a kind that only one
    option has, or cancel. A request with a form takes its values with the option that accepts it.

    \b
    Example:
      runtimectl permissions answer worker-00000001 3f allow_once
    """
    client = session.client()
    worker_id = resolve_worker_id(client, worker)
    permission = _find_request(client, worker_id, request)
    given = {"reason": reason, "content": None if content is None else _form(content)}
    answer = _answer(permission, option) | {name: each for name, each in given.items() if each is not None}
    body = client.answer_permission(worker_id, required_text(permission, "request_id"), answer)
    session.printer().show(RESOLVED, body)


def _of_worker(client: "Client", given: str) -> "Body":
    """Return the open requests of one Worker, in the form of the list of all."""
    worker_id = resolve_worker_id(client, given)
    requests = client.worker_permissions(worker_id)["permissions"]
    return {"permissions": [{"worker_id": worker_id, **each} for each in requests]}


def _find_request(client: "Client", worker_id: str, given: str) -> "Body":
    """Return the open request with this id or unique prefix. Raises UsageProblem and NotFound."""
    requests = client.worker_permissions(worker_id)["permissions"]
    matches = [each for each in requests if given and required_text(each, "request_id").startswith(given)]
    if not matches:
        command = f"runtimectl permissions list {worker_id}"
        raise NotFound(f"request: {worker_id} has no open request {given!r}; list the requests with: {command}")
    if len(matches) > 1:
        listed = ", ".join(required_text(each, "request_id") for each in matches)
        raise UsageProblem(f"request: {given!r} is ambiguous: {listed}")
    found: Body = matches[0]
    return found


def _form(text: str) -> "Body":
    """Return the values of a form. Raises UsageProblem if they are no JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageProblem('--content: expected a JSON object, such as {"branch": "main"}')
    return found


def _answer(permission: "Body", given: str) -> "Body":
    """Return the body of the answer. Raises UsageProblem if the request has no such option."""
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
    raise UsageProblem(f"option: expected one of {_options(permission)}, or {CANCEL}, got {given!r}")
