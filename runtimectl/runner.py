"""Run one command line; its end becomes an exit code and at most one line on stderr."""

import os
import sys
from contextlib import closing
from io import TextIOWrapper

import click
from click.exceptions import Exit, NoArgsIsHelpError

from runtimectl.client.session import Session, discard, write_message, write_to_stderr
from runtimectl.commands import root
from runtimectl.errors import (
    ControlError,
    DeadlineExpired,
    OutputClosed,
    TimedOut,
    UsageProblem,
    unexpected_response,
)
from runtimectl.options import COMPLETION_VARIABLE, PROGRAM

OUTPUT_FAILED = 1


def run(args: list[str]) -> int:
    """Run a command line.

    Args:
        args: The arguments after the program's name.

    Returns:
        The exit code.

    Raises:
        KeyboardInterrupt: The user interrupted the command.
    """
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stdout is None:
        write_message("cannot write the output: stdout is closed")
        return OUTPUT_FAILED
    _use_utf8()
    completion = os.environ.get(COMPLETION_VARIABLE)
    if completion:
        from click.shell_completion import shell_complete

        return shell_complete(root, {}, PROGRAM, COMPLETION_VARIABLE, completion)
    return _run_command(args)


def _run_command(args: list[str]) -> int:
    try:
        with root.make_context(PROGRAM, args) as context, closing(context.ensure_object(Session)):
            root.invoke(context)
        sys.stdout.flush()
    except Exit as end:
        return end.exit_code
    except NoArgsIsHelpError as help_:
        write_to_stderr(help_.format_message() + "\n")
        return help_.exit_code
    except click.ClickException as error:
        return _fail(UsageProblem(_usage_message(error)))
    except ControlError as error:
        return _fail(error)
    except DeadlineExpired:
        from runtimectl.signals import stop_deadline

        stop_deadline()
        return _fail(TimedOut("timed out: the time of --timeout is over"))
    except click.Abort:
        raise KeyboardInterrupt from None
    except (BrokenPipeError, OutputClosed):
        discard(sys.stdout)
    except (LookupError, TypeError, AttributeError) as error:
        return _fail(unexpected_response(error))
    except OSError as error:
        write_message(f"cannot write the output: {error.strerror}")
        discard(sys.stdout)
        return OUTPUT_FAILED
    return 0


def _fail(error: ControlError) -> int:
    try:
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout)
    write_message(str(error))
    return error.exit_code


def _usage_message(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    return f"{message} (see: {context.command_path} --help)" if context else message


def _use_utf8() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
