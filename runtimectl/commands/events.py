"""`runtimectl events`."""

import time
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any, get_args

import click

from runtimectl import events as shown
from runtimectl.errors import RunFailed, UsageProblem
from runtimectl.options import Group
from runtimectl.runs import Run
from runtimectl.session import Session, text, worker_id

if TYPE_CHECKING:
    from runtimectl.client import Body
    from runtimectl.output import Printer

BEGINNING = "wo_0000000000000000"


@click.group(cls=Group)
def events() -> None:
    """Watch what Workers do.

    \b
    Example:
      runtimectl events tail worker-00000001
    """


@events.command()
@click.argument("worker", metavar="W")
@click.option("--cursor", metavar="C", help="Begin behind this event.")
@click.option("--from-start", is_flag=True, help="Begin with the oldest event.")
@click.option("--until", metavar="EVENT", help="End after an event of this name; exit 1 if its run failed.")
@click.option("--no-follow", is_flag=True, help="End at the newest event there is now.")
@click.option("--timestamps", is_flag=True, help="Say when each event arrived here.")
@click.option("--raw", is_flag=True, help="Leave text whole, control characters included.")
@click.pass_obj
def tail(
    session: Session,
    worker: str,
    cursor: str | None,
    from_start: bool,
    until: str | None,
    no_follow: bool,
    timestamps: bool,
    raw: bool,
) -> None:
    """Print a Worker's events as they come.

    It goes on over restarts of the daemon, until the Worker ends.

    \b
    Example:
      runtimectl events tail worker-00000001 --from-start -o jsonl
    """
    if cursor is not None and from_start:
        raise UsageProblem("--from-start: expected without --cursor")
    if until is not None:
        _check_name(until)
    client = session.client()
    found = client.worker(worker_id(client, worker))["worker"]
    begin = BEGINNING if from_start else cursor or text(found, "last_event_id")
    tailing = _envelopes(session, found, begin, follow=not no_follow)
    with closing(tailing):
        _print(session.printer(), tailing, until, timestamps=timestamps, raw=raw)


def _check_name(name: str) -> None:
    from runtimed.model.event import Payload

    known = sorted(kind.event for kind in get_args(Payload))
    if name not in known:
        raise UsageProblem(f"--until: expected one of {', '.join(known)}, got {name!r}")


def _envelopes(
    session: Session, worker: "Body", begin: str, *, follow: bool
) -> Generator[dict[str, Any], None, None]:
    """The events from a cursor on, up to the last there will be, or without `follow` the last there is."""
    from runtimectl.feed import Feed

    newest = None if follow and worker["status"] == "running" else text(worker, "last_event_id")
    feed = Feed(lambda: session.client(worker["runtime_id"]), worker, begin, session.tell)
    with closing(feed.envelopes()) as envelopes:
        for envelope in envelopes:
            yield envelope
            if envelope["payload"]["event"] == "shutdown" or (newest and envelope["cursor"] >= newest):
                return


def _print(
    printer: "Printer", envelopes: Iterable[dict[str, Any]], until: str | None, *, timestamps: bool, raw: bool
) -> None:
    run = Run()
    for envelope in envelopes:
        run.see(envelope["payload"])
        _print_one(printer, envelope, timestamps=timestamps, raw=raw)
        if envelope["payload"]["event"] == until:
            run.check()
            return
    if until is not None:
        raise RunFailed(f"the events ended before {until}")


def _print_one(printer: "Printer", envelope: dict[str, Any], *, timestamps: bool, raw: bool) -> None:
    line, prefix = shown.line(envelope, raw=raw), ""
    if timestamps:
        received = _now()
        prefix, envelope = f"{received}  ", {"received_at": received, **envelope}
    printer.record(envelope, lambda _: prefix + line, envelope["cursor"])


def _now() -> str:
    from datetime import datetime

    return datetime.fromtimestamp(time.time()).astimezone().isoformat(timespec="milliseconds")
