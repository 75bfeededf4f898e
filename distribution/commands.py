"""The commands of both programs, as click knows them."""

from collections.abc import Iterator

import attrs
import click


@attrs.frozen
class Described:
    """A command with the words that run it.

    Attributes:
        context: The context of the command, whose `command_path` are its words.
        parent: The command it belongs to, or None for a program.
    """

    context: click.Context
    parent: "Described | None" = None

    @property
    def command(self) -> click.Command:
        return self.context.command

    @property
    def page(self) -> str:
        """The name of its man page."""
        return self.context.command_path.replace(" ", "-")

    def members(self) -> list["Described"]:
        """Return the commands of a group by name."""
        if not isinstance(self.command, click.Group):
            return []
        named = {
            name: self.command.get_command(self.context, name) for name in self.command.list_commands(self.context)
        }
        return [
            Described(_context(command, name, self.context), self)
            for name, command in sorted(named.items())
            if command is not None and not command.hidden
        ]


def programs() -> dict[str, click.Command]:
    """Return the command of each program by its name."""
    from runtimectl.commands import root
    from runtimed.cli import command

    return {"runtimed": command(), "runtimectl": root}


def walk() -> Iterator[Described]:
    """Return every command of both programs, each before its members."""
    found = [Described(_context(command, name)) for name, command in programs().items()]
    while found:
        described = found.pop(0)
        yield described
        found.extend(described.members())


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    return click.Context(command, parent, name, **command.context_settings)
