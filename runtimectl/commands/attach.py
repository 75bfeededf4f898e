"""`runtimectl attach`: talk to a Worker in a terminal."""

import sys

import click

from runtimectl.client.session import Session
from runtimectl.client.worker_names import resolve_worker_id
from runtimectl.commands.completing import complete_workers
from runtimectl.errors import UsageProblem
from runtimectl.options import command


@command()
@click.argument("worker", metavar="W", shell_complete=complete_workers)
@click.pass_obj
def attach(session: Session, worker: str) -> None:
    """Talk to a Worker in a terminal.

    Its text is shown as it comes, and its permission requests are answered in place. Enter sends a line. A digit
    answers a permission request. Ctrl-C interrupts the run; a second one leaves, as Ctrl-D does. The Worker lives on.

    \b
    Example:
      runtimectl attach @last
    """
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageProblem("attach: expected a terminal; without one use: runtimectl events tail, workers input")
    worker_id = resolve_worker_id(session.client(), worker)
    session.client().worker(worker_id)
    _talk(session, worker_id)


def _talk(session: Session, worker_id: str) -> None:
    import gc

    from runtimectl.attach.session import Attachment
    from runtimectl.attach.terminal import Terminal
    from runtimectl.client.discovery import find_address
    from runtimectl.library.client import Client
    from runtimectl.signals import exit_at_once

    gc.enable()  # A conversation may last for days.
    options = session.daemon_options()
    client = Client.found_by(
        lambda runtime_id: find_address(options, runtime_id), reconnect_for=session.reconnect_for
    )
    exit_at_once(Attachment(client.worker(worker_id), Terminal(sys.stdin.fileno(), sys.stdout.fileno())).run())
