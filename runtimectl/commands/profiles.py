"""`runtimectl profiles`: what the host can run."""

import click

from runtimectl.client.session import Session
from runtimectl.options import Group
from runtimectl.output.tables import Column, Object, View, at, yes_or_no

MAX_TEXT = 60


def _capabilities(profile: Object) -> object:
    return ", ".join(profile["capabilities"]) or None


def _note(profile: Object) -> object:
    return profile.get("problem") or profile.get("description")


LIST = View(
    "profiles",
    at("selector"),
    (
        Column("PROFILE", at("selector")),
        Column("BACKEND", at("backend")),
        Column("CAPABILITIES", _capabilities),
        Column("SANDBOX", at("sandbox.mechanism")),
        Column("NETWORK", at("sandbox.network")),
        Column("AVAILABLE", yes_or_no("available")),
        Column("NOTE", _note, MAX_TEXT),
    ),
)


@click.group(cls=Group)
def profiles() -> None:
    """Show the profiles that Workers can be created with.

    \b
    Example:
      runtimectl profiles list
    """


@profiles.command("list")
@click.pass_obj
def list_(session: Session) -> None:
    """List the profiles of the host, and what each needs.

    NOTE says why a profile is not available, or else what it is for.

    \b
    Example:
      runtimectl profiles list -o name
    """
    session.printer().show(LIST, session.client().profiles())
