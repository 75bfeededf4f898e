"""Completion scripts, in the folders where shells look for those of installed programs."""

from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from distribution.commands import programs

PLACES: dict[type[ShellComplete], str] = {
    BashComplete: "bash-completion/completions/{}",
    ZshComplete: "zsh/site-functions/_{}",
    FishComplete: "fish/vendor_completions.d/{}.fish",
}


def scripts() -> dict[str, str]:
    """Return the text of each script by its path below `share`."""
    return {
        place.format(name): ShellComplete.source(shell(command, {}, name, f"_{name.upper()}_COMPLETE"))
        for shell, place in PLACES.items()
        for name, command in programs().items()
    }
