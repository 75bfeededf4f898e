"""`runtimectl run`: create a Worker, give it an input, follow it to the end of its run, and stop it."""

import math
import shlex
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from runtimectl.client.requests import create_request, read_stdin
from runtimectl.client.run_result import EXIT_CODES
from runtimectl.client.session import Session, write_message
from runtimectl.commands.creation import creation_options
from runtimectl.errors import ControlError, DeadlineExpired, Unreachable, UsageProblem
from runtimectl.job.conversation import Conversation, complete, create, refusal, send
from runtimectl.job.files import open_files
from runtimectl.job.inbox import Inbox
from runtimectl.job.job import Job, JobOptions, problem_of_output
from runtimectl.job.records import EVENTS, OUTPUT_FILE, RESULT, TRANSCRIPT, Records, json_line
from runtimectl.job.stdout import Stdout
from runtimectl.job.stop_signals import StopSignals, watch_reader
from runtimectl.job.views import JsonView, TextView
from runtimectl.options import Command, CommonOption, Seconds

if TYPE_CHECKING:
    from runtimectl.client.repetition import Repetition

OUTPUTS = ("text", "json", "jsonl")
KINDS = ("read", "edit", "delete", "move", "search", "execute", "think", "fetch", "switch_mode", "other", "all")
SHELL = "builtin:shell"
COMMAND = f"{__name__}.command"
"""The place of the words behind `--` in a context."""

FILES = (OUTPUT_FILE, TRANSCRIPT, EVENTS, RESULT)
_FOLLOWING = (
    "timeout",
    "no_output_for",
    "allow",
    "on_denied",
    "keep",
    "keep_on_failure",
    "rm",
    "output_file",
    "transcript",
    "events",
    "result",
)


class RunCommand(Command):
    """A command whose own options replace the common ones, and that tells `TEXT` from `-- COMMAND`."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        own = {name for param in self.params if not isinstance(param, CommonOption) for name in param.opts}
        self.params = [
            param for param in self.params if not (isinstance(param, CommonOption) and own.intersection(param.opts))
        ]

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Keep what stands behind `--` from being parsed as options."""
        end = args.index("--") if "--" in args else len(args)
        context.meta[COMMAND] = args[end + 1 :] if end < len(args) else None
        return super().parse_args(context, args[:end])


@click.command(cls=RunCommand)
@click.argument("text", metavar="[TEXT | - | -- COMMAND...]", required=False)
@creation_options
@click.option("--timeout", metavar="SECONDS", type=Seconds(), help="End the run after this time (exit 124).")
@click.option("--no-output-for", metavar="SECONDS", type=Seconds(), help="End a run that is silent so long (124).")
@click.option(
    "--allow", metavar="KIND", type=click.Choice(KINDS), multiple=True, help="Allow this kind of permission."
)
@click.option("--on-denied", type=click.Choice(["fail", "continue"]), help="After a denied permission. [fail]")
@click.option("--keep", is_flag=True, help="Do not stop the Worker at the end.")
@click.option("--keep-on-failure", is_flag=True, help="Do not stop the Worker if the exit code is not 0.")
@click.option("--rm", is_flag=True, help="Delete the Worker at the end.")
@click.option("--detach", is_flag=True, help="Only start the run, and print the Worker's id.")
@click.option("--when-gone", type=click.Choice(["wait", "fail"]), help="When the daemon is gone. [wait]")
@click.option(OUTPUT_FILE, metavar="FILE", help="Also write the text of the Worker to this file.")
@click.option(TRANSCRIPT, metavar="FILE", help="Write the transcript with tool calls to this file.")
@click.option(EVENTS, metavar="FILE", help="Write the events as JSON lines to this file.")
@click.option(RESULT, metavar="FILE", help="Write the result as JSON to this file.")
@click.option("-o", "--output", type=click.Choice(OUTPUTS), help="What stdout has. [text]")
@click.pass_context
def run(context: click.Context, /, **options: Any) -> None:
    """Run a command or an agent to its end in a new Worker.

    TEXT is the input of an agent; - reads it from stdin. A COMMAND behind -- is run by a shell, unless --profile
    names another profile. The exit code is the command's own; else 0, or 1 if the run failed, 123 if a permission was
    denied, 124 on a time-out, 125 if there is no run.

    \b
    Example:
      runtimectl run -- make test
    """
    session: Session = context.obj
    output = _output(session, options.pop("output"))
    if options["keep"] and options["rm"]:
        raise UsageProblem("--rm: cannot be combined with --keep")
    if options["detach"]:
        _check_detached(options)
    timeout_s = options["timeout"] or session.timeout
    try:
        request, text = _request_and_text(options, context.meta[COMMAND])
    except DeadlineExpired:
        _end_deadline(timeout_s)
        write_message(f"timed_out: stdin has not ended within {timeout_s:g} s")
        context.exit(EXIT_CODES["timed_out"])
    patience_s = 0.0 if options["when_gone"] == "fail" else session.reconnect_for
    if options["detach"]:
        context.exit(_detach(session, request, text, output, patience_s))
    _end_deadline(timeout_s)
    context.exit(_run_job(session, request, text, output, patience_s, options))


def _output(session: Session, given: str | None) -> str:
    """Return the format. One that stands in front of the command counts too."""
    found = given or {"table": "text"}.get(session.output, session.output)
    if found not in OUTPUTS:
        raise UsageProblem(f"--output: expected one of {', '.join(OUTPUTS)}, got {found!r}")
    return found


def _request_and_text(options: dict[str, Any], command: list[str] | None) -> tuple[dict[str, Any], str]:
    """Return the request that creates the Worker, and its input. Raises DeadlineExpired if stdin does not end."""
    text = options.pop("text")
    if (text is None) == (command is None) or command == []:
        raise UsageProblem("expected either TEXT (- for stdin), or -- and a COMMAND")
    fields = {name: options.pop(name) for name in _creation_fields()}
    if command is not None:
        text = shlex.join(command)
        fields["profile"] = fields["profile"] or SHELL
    elif text == "-":
        text = _stdin_text(options["timeout"])
    if not text.strip():
        raise UsageProblem("TEXT: expected text that is not blank")
    request = create_request(**fields)
    _check_encoding(text, *fields.values())
    return request, text


def _check_encoding(*values: Any) -> None:
    """Raise UsageProblem if an argument is no UTF-8. A field may be a text or several."""
    try:
        for value in values:
            "".join(value or "").encode()
    except UnicodeEncodeError:
        raise UsageProblem("arguments: expected valid UTF-8") from None


def _creation_fields() -> set[str]:
    names = {"profile", "task", "role", "purpose", "bundle", "capabilities", "directory", "workspaces", "mounts"}
    return names | {"name", "labels"}


def _stdin_text(timeout_s: float | None) -> str:
    if timeout_s is not None:
        from runtimectl.signals import start_deadline

        start_deadline(timeout_s)
    try:
        return read_stdin().decode()
    except UnicodeDecodeError as error:
        raise UsageProblem(f"stdin: expected UTF-8, got an invalid byte at offset {error.start}") from None


def _end_deadline(timeout_s: float | None) -> None:
    """Stop the timer of `--timeout`: the job looks at the clock itself."""
    if timeout_s is not None:
        from runtimectl.signals import stop_deadline

        stop_deadline()


def _check_detached(options: dict[str, Any]) -> None:
    for name in _FOLLOWING:
        if options[name] not in {None, False, ()}:
            raise UsageProblem(f"--{name.replace('_', '-')}: cannot be combined with --detach")


def _detach(session: Session, request: dict[str, Any], text: str, output: str, patience_s: float) -> int:
    from runtimectl.client.repetition import Repetition

    repetition = Repetition(patience_s)
    try:
        worker = create(session, complete(session, request, repetition), repetition)
    except UsageProblem:
        raise
    except ControlError as error:
        return _refused(str(error))
    problem = _give(session, worker, text, repetition)
    known = {"worker_id": worker["worker_id"], "cursor": worker["last_cursor"]}
    sys.stdout.write(f"{known['worker_id']}\n" if output == "text" else json_line(known))
    sys.stdout.flush()
    return 0 if problem is None else _refused(problem)


def _give(session: Session, worker: dict[str, Any], text: str, repetition: "Repetition") -> str | None:
    """Give a new Worker its input. Returns why it has none, or None."""
    refused = refusal(worker)
    if refused is not None:
        return f"the spawn was refused: {refused}"
    try:
        send(session, worker, text, repetition)
    except ControlError as error:
        return f"{worker['worker_id']} did not get its input: {error}"
    return None


def _refused(reason: str) -> int:
    write_message(f"refused: {reason}")
    return EXIT_CODES["refused"]


def _run_job(
    session: Session, request: dict[str, Any], text: str, output: str, patience_s: float, options: dict[str, Any]
) -> int:
    with suppress(Unreachable):  # The job has a result for that; wrong usage ends the command here.
        session.client()
    inbox = Inbox()
    records = Records(open_files({option: options[_name(option)] for option in FILES}))
    signals = StopSignals(inbox, records.discard)
    job_options = _job_options(session, options)
    ends_at = math.inf if job_options.timeout_s is None else time.monotonic() + job_options.timeout_s
    stdout = Stdout(lambda: signals.has_come or time.monotonic() > ends_at)
    view = TextView(session, stdout) if output == "text" else JsonView(session, stdout, each=output == "jsonl")
    conversation = Conversation(session, request, text, inbox, patience_s)
    job = Job(session, job_options, inbox, conversation, view, stdout, records)
    with signals.handled():
        watch_reader(inbox)
        try:
            return job.run().exit_code
        except OSError as error:
            write_message(problem_of_output(error))
            return EXIT_CODES["refused"]
        finally:
            records.discard()


def _name(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _job_options(session: Session, options: dict[str, Any]) -> JobOptions:
    return JobOptions(
        timeout_s=options["timeout"] or session.timeout,
        no_output_for_s=options["no_output_for"],
        allow=options["allow"],
        continues_on_denied=options["on_denied"] == "continue",
        keep=options["keep"],
        keep_on_failure=options["keep_on_failure"],
        delete=options["rm"],
    )
