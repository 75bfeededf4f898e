"""`runtimectl completion`."""

import sys

import click

from runtimectl.errors import UsageProblem
from runtimectl.options import command

SHELLS = ("bash", "zsh", "fish")


@command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands in a shell.

    \b
    Example:
      source <(runtimectl completion bash)
    """
    from click.shell_completion import get_completion_class

    from runtimectl.invocation import COMPLETION, PROGRAM

    made = get_completion_class(shell)
    if made is None:
        raise UsageProblem(f"shell: expected one of {', '.join(SHELLS)}, got {shell!r}")
    sys.stdout.write(made(context.find_root().command, {}, PROGRAM, COMPLETION).source() + "\n")
