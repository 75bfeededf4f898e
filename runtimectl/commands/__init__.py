"""The commands of runtimectl, one module for each noun. A command's module is imported when it is used."""

import click

import runtimed
from runtimectl.options import PROGRAM, LazyGroup

_PACKAGE = "runtimectl.commands"


def _version(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"runtimectl {runtimed.__version__}")
        context.exit()


root = LazyGroup(
    PROGRAM,
    help="Control a running runtimed.\n\nExample: runtimectl workers list",
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="Show the version and exit.",
        )
    ],
    members={
        "status": f"{_PACKAGE}.status:status",
        "workers": f"{_PACKAGE}.workers:workers",
        "run": f"{_PACKAGE}.run:run",
        "transcript": f"{_PACKAGE}.transcript:transcript",
        "events": f"{_PACKAGE}.events:events",
        "permissions": f"{_PACKAGE}.permissions:permissions",
        "profiles": f"{_PACKAGE}.profiles:profiles",
        "workspaces": f"{_PACKAGE}.workspaces:workspaces",
        "bundles": f"{_PACKAGE}.bundles:bundles",
        "tokens": f"{_PACKAGE}.tokens:tokens",
        "context": f"{_PACKAGE}.context:context",
        "attach": f"{_PACKAGE}.attach:attach",
        "acp": f"{_PACKAGE}.acp:acp",
        "backup": f"{_PACKAGE}.backup:backup",
        "doctor": f"{_PACKAGE}.doctor:doctor",
        "drain": f"{_PACKAGE}.drain:drain",
        "completion": f"{_PACKAGE}.completion:completion",
    },
)
