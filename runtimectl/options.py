"""The options of every command, and the command classes that carry them and load late."""

import importlib
from collections.abc import Callable
from typing import Any

import click

from runtimectl.output import FORMATS
from runtimectl.session import Session

MAX_TIMEOUT_S = 31_536_000.0


class CommonOption(click.Option):
    """An option that any part of the command line may carry; the innermost one holds."""

    def __init__(self, *names: str, **settings: Any) -> None:
        super().__init__(list(names), expose_value=False, callback=_keep, default=None, **settings)


def _keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    session = context.ensure_object(Session)
    if value is None or option.name is None:
        return
    setattr(session, option.name, value)
    if option.name == "timeout":
        from runtimectl import deadline

        deadline.start(value)


def common_options() -> list[click.Parameter]:
    """Fresh ones for one command."""
    return [
        CommonOption("--url", metavar="URL", help="The daemon: http://HOST:PORT, https://HOST or unix:PATH."),
        CommonOption("--token-file", metavar="PATH", help="A file with the token (0600)."),
        CommonOption("--ca", metavar="FILE", help="Certificates (PEM) to trust for https, instead of the system's."),
        CommonOption("--context", metavar="NAME", help="The context to use (see: runtimectl context)."),
        CommonOption("-o", "--output", type=click.Choice(FORMATS), help="How to print data [table]."),
        CommonOption("--timeout", metavar="SECONDS", type=Seconds(), help="Give up after this time (exit 8)."),
        CommonOption("--no-color", is_flag=True, flag_value=True, help="No colours, as with NO_COLOR."),
        CommonOption("-q", "--quiet", is_flag=True, flag_value=True, help="Only errors on stderr."),
    ]


class Seconds(click.ParamType[float]):
    """A time above 0, at most MAX_TIMEOUT_S."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See ParamType."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= MAX_TIMEOUT_S:
            self.fail(f"expected a number of seconds above 0, at most {MAX_TIMEOUT_S:.0f}", param, ctx)
        return seconds


class _WithCommonOptions(click.Command):
    """A command whose help shows what is its own before what every command has."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        settings["params"] = [*settings.get("params", ()), *common_options()]
        settings.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **settings)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        records: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
        for param in self.get_params(context):
            record = param.get_help_record(context)
            if record is not None and isinstance(param, click.Option):
                records[isinstance(param, CommonOption)].append(record)
        for title, rows in (("Options", records[False]), ("Options of every command", records[True])):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
        if isinstance(self, click.Group):
            self.format_commands(context, formatter)


class Command(_WithCommonOptions):
    """A command."""


class Group(_WithCommonOptions, click.Group):
    """Commands that share a noun."""

    command_class = Command


class LazyGroup(Group):
    """A group whose members are imported when they are named; `members` maps a name to `module:attribute`."""

    def __init__(self, *args: Any, members: dict[str, str], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._members = members

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(self._members)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in self._members:
            return None
        module, _, attribute = self._members[name].partition(":")
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found


def command(**settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a command that carries the common options."""
    return click.command(cls=Command, **settings)
