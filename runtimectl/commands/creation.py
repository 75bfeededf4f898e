"""The options that describe a new Worker, for every command that creates one."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from runtimectl.commands.completing import complete_bundles, complete_profiles

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--profile",
        metavar="SEL",
        shell_complete=complete_profiles,
        help="default, builtin:NAME, or the NAME of a profile in the bundle.",
    ),
    click.option("--task", metavar="TEXT", help="The task that the Worker is created for."),
    click.option("--role", metavar="R", help="The role that the Worker is created for."),
    click.option("--purpose", metavar="TEXT", help="The purpose of the assistant, or of the role."),
    click.option("--bundle", metavar="ID@DIGEST", shell_complete=complete_bundles, help="The config bundle to use."),
    click.option(
        "--capability", "capabilities", metavar="C", multiple=True, help="Request a capability; repeatable."
    ),
    click.option("-C", "--dir", "directory", metavar="DIR", help="Work in this directory: --workspace cwd=dir:DIR."),
    click.option("--workspace", "workspaces", metavar="NAME=REF", multiple=True, help="Add a workspace; repeatable."),
    click.option("--mount", "mounts", metavar="NAME=REF", multiple=True, help="Add a mount; repeatable."),
    click.option("--name", metavar="NAME", help="A name for people."),
    click.option("--label", "labels", metavar="K=V", multiple=True, help="Add a label; repeatable."),
)


def creation_options(function: Function) -> Function:
    """Add the options of `create_request` to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
