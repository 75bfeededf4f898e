"""The commands, one file a noun."""

import click

import runtimed
from runtimectl.options import LazyGroup

_HERE = "runtimectl.commands"


def _version(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"runtimectl {runtimed.__version__}")
        context.exit()


root = LazyGroup(
    "runtimectl",
    help="Talk to a running runtimed.\n\nExample: runtimectl workers list",
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
        "status": f"{_HERE}.status:status",
        "workers": f"{_HERE}.workers:workers",
        "transcript": f"{_HERE}.transcript:transcript",
        "events": f"{_HERE}.events:events",
        "permissions": f"{_HERE}.permissions:permissions",
        "bundles": f"{_HERE}.bundles:bundles",
        "context": f"{_HERE}.context:context",
        "doctor": f"{_HERE}.doctor:doctor",
        "completion": f"{_HERE}.completion:completion",
    },
)
