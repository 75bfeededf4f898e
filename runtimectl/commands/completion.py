"""`runtimectl completion`: scripts for shells."""

import sys

import click

from runtimectl.options import COMPLETION_VARIABLE, PROGRAM, command

SHELLS = ("bash", "zsh", "fish")


@command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes commands in a shell.

    \b
    Example:
      source <(runtimectl completion bash)
    """
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    classes = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
    script = classes[shell](context.find_root().command, {}, PROGRAM, COMPLETION_VARIABLE).source()
    sys.stdout.write(script + "\n")
