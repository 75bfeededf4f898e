"""`runtimectl tokens`: make, list and revoke tokens."""

import os
import re
import time
from pathlib import Path
from typing import Any

import click

from runtimectl.client.requests import parse_labels
from runtimectl.client.session import Session
from runtimectl.commands.completing import complete_tokens
from runtimectl.errors import UsageProblem
from runtimectl.options import Group
from runtimectl.output.tables import Column, Object, View, at
from runtimectl.output.times import age, local

ROLES = ("observer", "operator", "admin", "node")
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
DURATION = re.compile(r"([0-9]{1,10})([smhd])", re.ASCII)
ONLY_OWNER = 0o600


def _labels(token: Object) -> object:
    return ", ".join(f"{key}={value}" for key, value in token.get("labels", {}).items()) or None


def _expires(token: Object) -> object:
    at_ms = token.get("expires_at_ms")
    return "expired" if isinstance(at_ms, int) and at_ms <= time.time() * 1_000 else local(at_ms)


COLUMNS = (
    Column("TOKEN", at("name")),
    Column("ROLE", at("role")),
    Column("TENANT", at("tenant")),
    Column("LABELS", _labels),
)
EXPIRES = Column("EXPIRES", _expires)
LIST = View("tokens", at("name"), (*COLUMNS, Column("AGE", lambda token: age(token.get("created_at_ms"))), EXPIRES))
MADE = View("token", at("name"), (*COLUMNS, EXPIRES), is_upright=True)
MADE_WITH_SECRET = View("token", at("name"), (*MADE.columns, Column("SECRET", at("secret"))), is_upright=True)


class Duration(click.ParamType[int]):
    """A duration such as `90s`, `30m`, `12h` or `7d`, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            self.fail("expected a whole number and a unit: 90s, 30m, 12h or 7d", param, ctx)
        return int(match[1]) * UNITS[match[2]]


@click.group(cls=Group)
def tokens() -> None:
    """Give each client its own token, and take it back.

    Your own token needs the role admin. You see and make tokens that grant no more than yours.

    \b
    Example:
      runtimectl tokens create ci --role operator --expires 30d --secret-file ci.token
    """


@tokens.command("list")
@click.pass_obj
def list_(session: Session) -> None:
    """List the tokens, without their secrets.

    default is the token that the daemon was started with.

    \b
    Example:
      runtimectl tokens list
    """
    session.printer().show(LIST, session.client().tokens())


@tokens.command()
@click.option("--role", required=True, type=click.Choice(ROLES), help="What its client may do.")
@click.option("--tenant", metavar="T", help="Show and create only what belongs to this tenant.")
@click.option("--label", "labels", metavar="K=V", multiple=True, help="Only Workers with this label; repeatable.")
@click.option("--expires", metavar="DURATION", type=Duration(), help="Refuse it after this time, such as 12h or 30d.")
@click.option("--secret-file", metavar="FILE", help="Write the secret into this new file (mode 0600).")
@click.argument("name", metavar="NAME")
@click.pass_obj
def create(
    session: Session,
    name: str,
    role: str,
    tenant: str | None,
    labels: tuple[str, ...],
    expires: int | None,
    secret_file: str | None,
) -> None:
    """Make a token and show its secret, this once.

    An observer reads. An operator also creates Workers, sends input, and stops them. An admin does everything. A node
    is a host that joins the Runtime.

    \b
    Example:
      runtimectl tokens create ci --role operator --expires 30d --secret-file ci.token
    """
    fields = {"name": name, "role": role, "tenant": tenant, "labels": parse_labels(labels), "expires_in_s": expires}
    request = {field: value for field, value in fields.items() if value or value == ""}
    if secret_file is None:
        body = session.client().create_token(request)
        session.notify("keep the secret now: nothing shows it again")
        _show(session, MADE_WITH_SECRET, body, {**body["token"], "secret": body["secret"]})
        return
    body = _create_into(session, request, secret_file)
    del body["secret"]
    _show(session, MADE, body, body["token"])


@tokens.command()
@click.argument("name", metavar="NAME", shell_complete=complete_tokens)
@click.pass_obj
def revoke(session: Session, name: str) -> None:
    """Revoke a token: its requests are refused, and its feeds end.

    \b
    Example:
      runtimectl tokens revoke ci
    """
    session.client().revoke_token(name)
    session.notify(f"revoked {name}")


def _show(session: Session, view: View, body: Object, token: Object) -> None:
    printer = session.printer()
    printer.show(view, body if printer.prints_bodies else {"token": token})


def _create_into(session: Session, request: Object, path: str) -> Object:
    """Make a token whose secret goes into a new file. If it is not made, the file is removed again."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, ONLY_OWNER)
    except OSError as error:
        raise UsageProblem(f"--secret-file: {path}: {error.strerror}; expected a file that does not exist") from None
    try:
        body = session.client().create_token(request)
        os.write(file, f"{body['secret']}\n".encode())
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    return body
