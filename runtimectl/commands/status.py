"""`runtimectl status`: the Runtime."""

import time
from typing import TYPE_CHECKING

import click

from runtimectl.client.session import Session
from runtimectl.errors import MissingFile, TimedOut, Unavailable, Unreachable
from runtimectl.options import Seconds, command
from runtimectl.output.tables import Column, View, at

if TYPE_CHECKING:
    from runtimectl.client.api import Body

RUNTIME = View(
    "runtime",
    at("runtime_id"),
    (
        Column("RUNTIME", at("runtime_id")),
        Column("NAME", at("display_name")),
        Column("STATUS", at("status")),
        Column("STORE", at("backend")),
        Column("SANDBOX", at("sandbox.mechanism")),
        Column("NETWORK", at("sandbox.network")),
        Column("WORKERS", at("worker_count")),
        Column("ACTIVE", at("active_worker_count")),
        Column("STOPPED", at("stopped_worker_count")),
        Column("CANCELLED", at("cancelled_worker_count")),
        Column("DIAGNOSTICS", at("diagnostic_count")),
    ),
    is_upright=True,
)


WAIT_S = 60.0
POLL_S = 0.2
MIN_REQUEST_S = 0.1
"""How long the last request of a wait may take, however little time is left."""


@command()
@click.option(
    "--wait",
    "wait_s",
    metavar="[SECONDS]",
    type=Seconds(),
    is_flag=False,
    flag_value=WAIT_S,
    help=f"Wait until the daemon is ready, for {WAIT_S:g} s or so long.",
)
@click.pass_obj
def status(session: Session, wait_s: float | None) -> None:
    """Show the Runtime that the daemon hosts.

    \b
    Example:
      runtimectl status --wait=30 -o json
    """
    session.printer().show(RUNTIME, _ready(session, wait_s) if wait_s else session.client().runtime())


def _ready(session: Session, wait_s: float) -> "Body":
    """Return the Runtime once the daemon is ready, which may write its token file before that. Raises TimedOut."""
    from runtimectl.signals import require_reader

    deadline = time.monotonic() + wait_s
    with require_reader():
        while True:
            left_s = round(max(deadline - time.monotonic(), MIN_REQUEST_S), 1)
            try:
                return session.client().runtime(timeout=left_s)
            except (Unreachable, Unavailable, TimedOut, MissingFile) as error:
                if time.monotonic() > deadline:
                    raise TimedOut(f"the daemon is not ready within {wait_s:g} s: {error}") from None
            time.sleep(POLL_S)
