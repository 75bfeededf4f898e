"""`runtimectl workspaces`: where Workers work, and what they changed there."""

import sys
from typing import TYPE_CHECKING

import click

from runtimectl.client.session import Session
from runtimectl.client.worker_names import resolve_worker_id
from runtimectl.commands.completing import complete_workers
from runtimectl.errors import NotFound
from runtimectl.options import Group
from runtimectl.output.tables import Column, Object, View, at, yes_or_no
from runtimectl.output.text import escape_controls

if TYPE_CHECKING:
    from runtimectl.client.api import Client

CWD = "cwd"
SHORT = 12
LEFT_OUT = "x-diff-truncated"


@click.group(cls=Group)
def workspaces() -> None:
    """Show the workspaces of Workers, and what was changed in them.

    \b
    Example:
      runtimectl workspaces diff worker-00000001 | git apply
    """


def _base(workspace: Object) -> object:
    base = workspace.get("base")
    return base[:SHORT] if base else None


LIST = View(
    "workspaces",
    at("name"),
    (
        Column("NAME", at("name")),
        Column("MODE", at("mode")),
        Column("WRITABLE", yes_or_no("writable")),
        Column("BRANCH", at("branch")),
        Column("BASE", _base),
        Column("AHEAD", at("ahead")),
        Column("UNCOMMITTED", yes_or_no("dirty")),
    ),
)


@workspaces.command("list")
@click.argument("worker", metavar="W", shell_complete=complete_workers)
@click.pass_obj
def list_(session: Session, worker: str) -> None:
    """List the workspaces of a Worker.

    \b
    Example:
      runtimectl workspaces list worker-00000001
    """
    client = session.client()
    session.printer().show(LIST, client.workspaces(resolve_worker_id(client, worker)))


@workspaces.command()
@click.argument("worker", metavar="W", shell_complete=complete_workers)
@click.argument("name", metavar="[NAME]", required=False)
@click.pass_obj
def diff(session: Session, worker: str, name: str | None) -> None:
    """Print what was changed in a workspace, as a patch for `git apply`.

    Without NAME it is the workspace where the Worker's programs start. On a terminal control characters are escaped.

    \b
    Example:
      runtimectl workspaces diff worker-00000001 > work.patch
    """
    client = session.client()
    worker_id = resolve_worker_id(client, worker)
    response = client.workspace_diff(worker_id, name or _first_name(client, worker_id))
    if sys.stdout.isatty():
        sys.stdout.write(escape_controls(response.body.decode(errors="replace")))
    else:
        sys.stdout.buffer.write(response.body)
    sys.stdout.flush()
    left_out = response.headers.get(LEFT_OUT, "0")
    if left_out != "0":
        session.notify(f"the patch is too large: {left_out} files are left out")


def _first_name(client: "Client", worker_id: str) -> str:
    """Return the name of the workspace where the Worker's programs start. Raises NotFound if it has none."""
    names = [str(workspace["name"]) for workspace in client.workspaces(worker_id)["workspaces"]]
    if not names:
        raise NotFound(f"{worker_id} has no workspaces")
    return CWD if CWD in names else names[0]
