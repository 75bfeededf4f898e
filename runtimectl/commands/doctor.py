"""`runtimectl doctor`."""

import click

from runtimectl.errors import Unwell
from runtimectl.options import command
from runtimectl.output import Column, View, at
from runtimectl.session import Session

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
    """Say what is right and what is wrong.

    It looks from here to the daemon's store, and changes nothing. Reading all of a large store takes a while. Exit 1
    when something failed.

    \b
    Example:
      runtimectl doctor
    """
    from runtimectl.doctor import Doctor

    examined = Doctor(session.wishes())
    findings = [finding._asdict() for finding in examined.examine()]
    session.printer().show(FINDINGS, {"findings": findings})
    if examined.unreachable:
        raise examined.unreachable
    failed = sum(finding["status"] == "fail" for finding in findings)
    if failed:
        raise Unwell(f"something is wrong: {failed} of {len(findings)} findings failed")
