"""Runs one command line and turns its end into an exit code and at most one line on stderr."""

import os
import sys
from contextlib import suppress
from io import TextIOWrapper

import click
from click.exceptions import Exit, NoArgsIsHelpError

from runtimectl.commands import root
from runtimectl.errors import ControlError, DaemonFailed, Expired, ReaderGone, TimedOut, UsageProblem
from runtimectl.session import say

PROGRAM = "runtimectl"
COMPLETION = "_RUNTIMECTL_COMPLETE"
OUTPUT_FAILED = 1


def invoke(args: list[str]) -> int:
    """Run the command line and return its exit code. Raises KeyboardInterrupt."""
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stdout is None:
        say("cannot write the output: stdout is closed")
        return OUTPUT_FAILED
    _speak_unicode()
    wanted = os.environ.get(COMPLETION)
    if wanted:
        from click.shell_completion import shell_complete

        return shell_complete(root, {}, PROGRAM, COMPLETION, wanted)
    return _run(args)


def _run(args: list[str]) -> int:
    try:
        with root.make_context(PROGRAM, args) as context:
            root.invoke(context)
        sys.stdout.flush()
    except Exit as end:
        return end.exit_code
    except NoArgsIsHelpError as help_:
        sys.stderr.write(help_.format_message() + "\n")
        return help_.exit_code
    except click.ClickException as error:
        return _fail(UsageProblem(_sentence(error)))
    except ControlError as error:
        return _fail(error)
    except Expired:
        from runtimectl import deadline

        deadline.stop()
        return _fail(TimedOut("the time of --timeout is over"))
    except click.Abort:
        raise KeyboardInterrupt from None
    except (BrokenPipeError, ReaderGone):
        return _leave_quietly()
    except (LookupError, TypeError, AttributeError) as error:
        return _fail(DaemonFailed(f"the daemon's answer lacks what the contract promises: {error!r}"))
    except OSError as error:
        say(f"cannot write the output: {error.strerror}")
        return _leave_quietly() or OUTPUT_FAILED
    return 0


def _fail(error: ControlError) -> int:
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    say(str(error))
    return error.exit_code


def _sentence(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    return f"{message} (see: {context.command_path} --help)" if context else message


def _leave_quietly() -> int:
    """Nobody reads stdout any more: whatever is still to be written goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return 0


def _speak_unicode() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
