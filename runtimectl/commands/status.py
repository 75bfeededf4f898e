"""`runtimectl status`: the Runtime."""

import click

from runtimectl.client.session import Session
from runtimectl.options import command
from runtimectl.output.tables import Column, View, at

RUNTIME = View(
    "runtime",
    at("runtime_id"),
    (
        Column("RUNTIME", at("runtime_id")),
        Column("NAME", at("display_name")),
        Column("STATUS", at("status")),
        Column("STORE", at("backend")),
        Column("WORKERS", at("worker_count")),
        Column("ACTIVE", at("active_worker_count")),
        Column("STOPPED", at("stopped_worker_count")),
        Column("CANCELLED", at("cancelled_worker_count")),
        Column("DIAGNOSTICS", at("diagnostic_count")),
    ),
    is_upright=True,
)


@command()
@click.pass_obj
def status(session: Session) -> None:
    """Show the Runtime that the daemon hosts.

    \b
    Example:
      runtimectl status -o json
    """
    session.printer().show(RUNTIME, session.client().runtime())
