"""`runtimectl drain`: end the daemon once its runs are over."""

from contextlib import ExitStack

import click

from runtimectl.client.session import Session
from runtimectl.options import command
from runtimectl.output.tables import Column, Object, View, at
from runtimectl.output.times import local


def _deadline(drain: Object) -> object:
    return local(drain["deadline_ms"])


def _runs(drain: Object) -> str:
    return str(drain["runs"])


DRAIN = View("drain", _runs, (Column("RUNS", at("runs")), Column("ENDS BY", _deadline)), is_upright=True)


@command()
@click.option("--wait", is_flag=True, help="Wait until the daemon has ended.")
@click.pass_obj
def drain(session: Session, wait: bool) -> None:
    """End the daemon once its runs are over.

    It takes no new Workers, inputs and restores. Runs go on for at most the setting drain_s of the daemon. Queued
    inputs run after its next start. A repeat changes nothing.

    \b
    Example:
      runtimectl drain --wait
    """
    client = session.client()
    with ExitStack() as watching:
        if wait:
            from runtimectl.client.departure import departure
            from runtimectl.signals import require_reader

            watching.enter_context(require_reader())
            wait_for_end = watching.enter_context(departure(client.address))
        session.printer().show(DRAIN, client.drain())
        if wait:
            wait_for_end()
