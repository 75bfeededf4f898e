"""`runtimectl doctor`: check an installation."""

import click

from runtimectl.client.session import Session
from runtimectl.errors import ChecksFailed
from runtimectl.options import command
from runtimectl.output.tables import Column, View, at

MAX_MESSAGE = 4096

FINDINGS = View(
    "findings",
    at("subject"),
    (
        Column("STATUS", at("status")),
        Column("SUBJECT", at("subject")),
        Column("FINDING", at("message"), MAX_MESSAGE),
    ),
)


@command()
@click.pass_obj
def doctor(session: Session) -> None:
    """Check everything from this command to the daemon's store.

    The checks change nothing. Reading all of a large store takes a while. Exit 1 if a check fails, 6 if the daemon
    cannot be reached.

    \b
    Example:
      runtimectl doctor
    """
    from runtimectl.doctor import Doctor

    examination = Doctor(session.daemon_options())
    findings = [finding._asdict() for finding in examination.findings()]
    session.printer().show(FINDINGS, {"findings": findings})
    if examination.unreachable:
        raise examination.unreachable
    failed = sum(finding["status"] == "fail" for finding in findings)
    if failed:
        raise ChecksFailed(f"{failed} of {len(findings)} checks failed")
