"""`runtimectl bundles`: list, push and check config bundles."""

from collections.abc import Iterator

import click

from runtimectl.client.requests import parse_bundle_reference
from runtimectl.client.session import Session
from runtimectl.commands.completing import complete_bundles
from runtimectl.errors import Refused
from runtimectl.options import Group
from runtimectl.output.tables import Column, Object, View, at


def _reference(bundle: Object) -> str:
    return f"{bundle.get('id')}@{bundle.get('digest')}"


def _available_reference(availability: Object) -> str:
    return _reference(availability.get("reference") or {})


LIST = View(
    "bundles",
    _reference,
    (
        Column("BUNDLE", at("id")),
        Column("REVISION", at("revision")),
        Column("WORKSPACE", at("workspace_id")),
        Column("CREATED", at("created_at")),
        Column("PROFILES", at("profile_count")),
        Column("DECLARATIONS", at("declaration_count")),
        Column("DIGEST", at("digest"), max_width=64),
    ),
)
AVAILABLE = View(
    "availability",
    _available_reference,
    (
        Column("BUNDLE", at("reference.id")),
        Column("REVISION", at("summary.revision")),
        Column("DIGEST", at("reference.digest"), max_width=64),
    ),
)
ON_HOST = View(
    "findings",
    lambda finding: str(finding.get("name") or finding["profile"]),
    (
        Column("PROFILE", at("profile")),
        Column("KIND", at("kind")),
        Column("NAME", at("name")),
        Column("REFERENCE", at("reference")),
        Column("OUTCOME", at("outcome")),
        Column("DETAIL", at("detail"), max_width=120),
    ),
)


@click.group(cls=Group)
def bundles() -> None:
    """List, push and check config bundles.

    FILE holds a bundle as JSON, YAML or TOML; its suffix tells which. - reads stdin.

    \b
    Example:
      runtimectl bundles push bundle.yaml
    """


@bundles.command("list")
@click.pass_obj
def list_(session: Session) -> None:
    """List the bundles of the Runtime, sorted by id.

    \b
    Example:
      runtimectl bundles list -o json
    """
    session.printer().show(LIST, session.client().bundles())


@bundles.command()
@click.argument("file", metavar="FILE|-")
@click.pass_obj
def push(session: Session, file: str) -> None:
    """Upload a bundle; a missing digest is computed.

    \b
    Example:
      runtimectl bundles push bundle.yaml -o name
    """
    from runtimectl.client.bundle_file import read_bundle

    bundle, computed = read_bundle(file)
    if not bundle["metadata"]["digest"]:
        bundle["metadata"]["digest"] = computed
    session.printer().show(AVAILABLE, session.client().push_bundle(bundle))


@bundles.command()
@click.option("--on-host", is_flag=True, help="Show what this host would do with each declaration.")
@click.argument("bundle", metavar="ID@DIGEST", shell_complete=complete_bundles)
@click.pass_obj
def check(session: Session, bundle: str, on_host: bool) -> None:
    """Check that the Runtime has exactly this version of a bundle.

    With --on-host, show for each profile and declaration whether the host would enforce it, and exit with 5 if it
    would reject a Worker.

    \b
    Example:
      runtimectl bundles check bundle-1@f1faffb46524a985fff79a4a3e9165e776187d2e3a67773995806ac557f3320a
    """
    reference = parse_bundle_reference(bundle)
    if on_host:
        _check_on_host(session, reference["id"], reference["digest"])
        return
    body = session.client().bundle_availability(reference["id"], reference["digest"])
    session.printer().show(AVAILABLE, body)


def _check_on_host(session: Session, bundle_id: str, digest: str) -> None:
    body = session.client().check_bundle_on_host(bundle_id, digest)
    printer = session.printer()
    if printer.prints_bodies:
        printer.body(body)
    else:
        printer.show(ON_HOST, {ON_HOST.member: list(_findings(body["check"]))})
    if not body["check"]["accepted"]:
        raise Refused(f"bundle: this host would reject Workers of {bundle_id}")


def _findings(check: Object) -> Iterator[Object]:
    """Yield a row for each declaration under each profile, and one for each profile that cannot be used."""
    for profile in check["profiles"]:
        selector = {"profile": profile["selector"]}
        if (problem := profile.get("problem")) is not None:
            yield {**selector, "kind": "profile", "name": None, "outcome": "rejected", "detail": problem}
        yield from ({**selector, **declaration} for declaration in profile["declarations"])


@bundles.command()
@click.argument("file", metavar="FILE|-")
@click.pass_obj
def digest(session: Session, file: str) -> None:
    """Compute the digest of a bundle, without a daemon.

    \b
    Example:
      runtimectl bundles digest bundle.toml
    """
    from runtimectl.client.bundle_file import read_bundle

    bundle, computed = read_bundle(file)
    reference = {"id": bundle["metadata"]["id"], "digest": computed}
    session.printer().record(reference, at("digest"), _reference(reference))
