"""`runtimectl context`: names for daemons."""

import re
from pathlib import Path

import click

from runtimectl.client import address, contexts
from runtimectl.client.contexts import Context
from runtimectl.client.session import Session
from runtimectl.errors import UsageProblem
from runtimectl.options import Group
from runtimectl.output.tables import Column, View, at

CONTEXTS = View(
    "contexts",
    at("name"),
    (
        Column("CURRENT", lambda context: "*" if context["current"] else ""),
        Column("NAME", at("name")),
        Column("URL", at("url")),
        Column("TOKEN FILE", at("token_file")),
        Column("CA", at("ca")),
    ),
)
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


@click.group(cls=Group)
def context() -> None:
    """Name daemons, and choose the one that commands use.

    \b
    Example:
      runtimectl context set lab --url http://127.0.0.1:38800 --token-file ~/lab.token
    """


@context.command("list")
@click.pass_obj
def list_(session: Session) -> None:
    """List the contexts, sorted by name.

    \b
    Example:
      runtimectl context list
    """
    known = contexts.load()
    listed = [
        {"name": name, "current": name == known.current, **known.by_name[name]._asdict()}
        for name in sorted(known.by_name)
    ]
    session.printer().show(CONTEXTS, {"contexts": listed})


@context.command("set")
@click.argument("name")
@click.option("--cert", metavar="FILE", help="Send this client certificate (PEM).")
@click.option("--key", metavar="FILE", help="The key of the client certificate (PEM, mode 0600). [in --cert]")
@click.pass_obj
def set_(session: Session, name: str, cert: str | None, key: str | None) -> None:
    """Store --url and the files for it under a name.

    \b
    Example:
      runtimectl context set lab --url unix:/run/lab/runtimed.sock
    """
    if not NAME.fullmatch(name):
        raise UsageProblem("name: expected 1 to 64 characters of A-Z a-z 0-9 . _ -")
    if session.url is None:
        raise UsageProblem("--url: required by context set")
    address.parse(session.url)
    if key is not None and cert is None:
        raise UsageProblem("--cert: required with --key")
    files = (session.token_file, session.ca, cert, key)
    known = contexts.load()
    known.by_name[name] = Context(session.url, *(_absolute(file) for file in files))
    known.save()
    if name != known.current:
        session.notify(f"context {name} is stored; select it with: runtimectl context use {name}")


def _absolute(file: str | None) -> str | None:
    return file and str(Path(file).expanduser().absolute())


@context.command()
@click.argument("name")
def use(name: str) -> None:
    """Make a context the current one, which commands use by default.

    \b
    Example:
      runtimectl context use lab
    """
    known = contexts.load()
    known.get(name)
    known.current = name
    known.save()


@context.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove a context.

    \b
    Example:
      runtimectl context remove lab
    """
    known = contexts.load()
    known.get(name)
    del known.by_name[name]
    if known.current == name:
        known.current = None
    known.save()
