"""The common options, and the command classes that carry them."""

import importlib
from collections.abc import Callable
from typing import Any

import click

from runtimectl.client.session import MAX_TIMEOUT_S, Session
from runtimectl.output.printer import FORMATS

PROGRAM = "runtimectl"
COMPLETION_VARIABLE = "_RUNTIMECTL_COMPLETE"


class CommonOption(click.Option):
    """An option that is accepted anywhere on the command line. The last one wins."""

    def __init__(self, *names: str, **settings: Any) -> None:
        super().__init__(list(names), expose_value=False, callback=_store, default=None, **settings)


def _store(context: click.Context, option: click.Parameter, value: Any) -> None:
    session = context.ensure_object(Session)
    if value is None or option.name is None:
        return
    setattr(session, option.name, value)
    if option.name == "timeout" and not context.resilient_parsing:
        from runtimectl.signals import start_deadline

        start_deadline(value)


def common_options() -> list[click.Parameter]:
    """Return new common options for one command."""
    return [
        CommonOption("--url", metavar="URL", help="The daemon: http://HOST:PORT, https://HOST or unix:PATH."),
        CommonOption("--token-file", metavar="PATH", help="Read the token from this file (mode 0600)."),
        CommonOption("--ca", metavar="FILE", help="Verify https with these PEM certificates, not the system's."),
        CommonOption("--context", metavar="NAME", help="Use this context (see: runtimectl context)."),
        CommonOption("-o", "--output", type=click.Choice(FORMATS), help="The format of the output. [table]"),
        CommonOption("--timeout", metavar="SECONDS", type=Seconds(), help="Give up after this time (exit 8)."),
        CommonOption(
            "--reconnect-for", metavar="SECONDS", type=Seconds(), help="Wait so long for a lost daemon. [300]"
        ),
        CommonOption("--no-color", is_flag=True, flag_value=True, help="Do not use colors; same as NO_COLOR."),
        CommonOption("-q", "--quiet", is_flag=True, flag_value=True, help="Print only errors to stderr."),
    ]


class Seconds(click.ParamType[float]):
    """A number of seconds above 0, at most MAX_TIMEOUT_S."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= MAX_TIMEOUT_S:
            self.fail(f"expected a number of seconds above 0, at most {MAX_TIMEOUT_S}", param, ctx)
        return seconds


class _WithCommonOptions(click.Command):
    """A command that accepts the common options. Its help shows its own options first."""

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
    """A command with the common options."""


class Group(_WithCommonOptions, click.Group):
    """The commands of one noun."""

    command_class = Command


class LazyGroup(Group):
    """A group that imports these commands when they are used, besides those that are added to it.

    Args:
        members: The place of each command by its name, as `module:attribute`.
    """

    def __init__(self, *args: Any, members: dict[str, str], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._members = members

    def list_commands(self, context: click.Context) -> list[str]:
        return [*super().list_commands(context), *self._members]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self._members:
            return super().get_command(context, name)
        module, _, attribute = self._members[name].partition(":")
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found


def command(**settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a command with the common options."""
    return click.command(cls=Command, **settings)
