"""`runtimectl events`."""

from collections import defaultdict
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, get_args

import click

from runtimectl import events as shown
from runtimectl.errors import Refused, RunFailed, UsageProblem
from runtimectl.options import Group
from runtimectl.requests import check_labels
from runtimectl.runs import Run
from runtimectl.session import Session, text, worker_id
from runtimectl.times import local

if TYPE_CHECKING:
    from runtimectl.client import Body, Client
    from runtimectl.output import Printer
    from runtimectl.past import Envelope

BEGINNING = "wo_0000000000000000"


@click.group(cls=Group)
def events() -> None:
    """Watch what Workers do.

    \b
    Example:
      runtimectl events tail worker-00000001
    """


@events.command()
@click.argument("worker", metavar="W|--all", required=False)
@click.option("--all", "everyone", is_flag=True, help="Of all Workers instead of one.")
@click.option("--label", "labels", metavar="K=V", multiple=True, help="With --all: of those with it; repeatable.")
@click.option("--cursor", metavar="C", help="Begin behind this event.")
@click.option("--from-start", is_flag=True, help="Begin with the oldest event that is kept.")
@click.option("--until", metavar="EVENT", help="End after an event of this name; exit 1 if its run failed.")
@click.option("--no-follow", is_flag=True, help="End at the newest event there is now.")
@click.option("--timestamps", is_flag=True, help="Say when each event happened, by the daemon's clock.")
@click.option("--raw", is_flag=True, help="Leave text whole, control characters included.")
@click.pass_obj
def tail(
    session: Session,
    worker: str | None,
    everyone: bool,
    labels: tuple[str, ...],
    cursor: str | None,
    from_start: bool,
    until: str | None,
    no_follow: bool,
    timestamps: bool,
    raw: bool,
) -> None:
    """Print the events of a Worker, or of all, as they come.

    It goes on over restarts of the daemon, until the Worker ends.

    \b
    Example:
      runtimectl events tail worker-00000001 --from-start -o jsonl
    """
    if everyone == (worker is not None):
        raise UsageProblem("W: expected a Worker or --all, and not both")
    if labels and not everyone:
        raise UsageProblem("--label: expected with --all")
    if cursor is not None and from_start:
        raise UsageProblem("--from-start: expected without --cursor")
    if until is not None:
        _check_name(until)
    if worker is None:
        check_labels(labels)
        tailing = _of_all(session, labels, cursor, from_start=from_start, follow=not no_follow)
    else:
        tailing = _of_one(session, worker, cursor, from_start=from_start, follow=not no_follow)
    from runtimectl.reader import needing_reader

    with needing_reader(), closing(tailing):
        _print(session.printer(), tailing, until, named=everyone, timestamps=timestamps, raw=raw)


@events.command()
@click.argument("worker", metavar="W")
@click.option("--cursor", metavar="C", help="Begin behind this event.")
@click.pass_obj
def export(session: Session, worker: str, cursor: str | None) -> None:
    """Print the events that a Worker has had, as JSON lines.

    It ends at the newest event that there is now. The same events are the same bytes whenever they are exported.

    \b
    Example:
      runtimectl events export worker-00000001 > events.jsonl
    """
    from runtimectl import past

    client, printer = session.client(), session.printer()
    found = client.worker(worker_id(client, worker))["worker"]
    if cursor is None:
        _tell_of_trimming(session, found)
    if printer.output == "table":
        printer.output = "jsonl"
    upto = text(found, "last_cursor")
    for envelope in past.envelopes(client, text(found, "worker_id"), (), cursor, upto):
        _print_one(printer, envelope, named=False, timestamps=False, raw=False)


def _check_name(name: str) -> None:
    from runtimed.model.event import Payload

    known = sorted(kind.event for kind in get_args(Payload))
    if name not in known:
        raise UsageProblem(f"--until: expected one of {', '.join(known)}, got {name!r}")


def _of_one(
    session: Session, worker: str, cursor: str | None, *, from_start: bool, follow: bool
) -> Generator["Envelope", None, None]:
    """The events of a Worker up to the last there will be, or without `follow` the last there is."""
    from runtimectl.feed import Feed, Observed

    client = session.client()
    found = client.worker(worker_id(client, worker))["worker"]
    newest = text(found, "last_cursor")
    begin = _tell_of_trimming(session, found) if from_start else cursor or newest
    feed = Feed(lambda: session.client(found["runtime_id"]), Observed.worker(found), begin, session.tell)
    ending = not follow or found["status"] != "running"
    with closing(feed.envelopes()) as envelopes:
        for envelope in envelopes:
            yield envelope
            if envelope["payload"]["event"] == "shutdown" or (ending and envelope["cursor"] >= newest):
                return


def _of_all(
    session: Session, labels: tuple[str, ...], cursor: str | None, *, from_start: bool, follow: bool
) -> Generator["Envelope", None, None]:
    """The events of all Workers with the labels, without an end, or without `follow` up to the last there is."""
    from runtimectl import past
    from runtimectl.feed import Feed, Observed

    client = session.client()
    if from_start:
        _tell_of_any_trimming(session, client)
    if not follow:
        newest = past.newest(client, labels)
        yield from past.envelopes(client, None, labels, None if from_start else cursor or newest, newest)
        return
    observed = Observed(text(client.runtime()["runtime"], "runtime_id"), labels=labels)
    if from_start:
        page = client.events(labels=labels)
        yield from page["events"]
        begin = text(page, "next_cursor")
    else:
        begin = cursor or past.now(client)
    feed = Feed(lambda: session.client(observed.runtime_id), observed, begin, session.tell)
    with closing(feed.envelopes()) as envelopes:
        yield from envelopes


def _tell_of_trimming(session: Session, worker: "Body") -> str:
    """The cursor behind which all events of a Worker are kept; says so where that is not the start."""
    oldest: str | None = worker.get("oldest_cursor")
    if oldest is None:
        return BEGINNING
    session.tell(f"the events up to {oldest} are not kept any more: beginning behind them")
    return oldest


def _tell_of_any_trimming(session: Session, client: "Client") -> None:
    """Say so where not all events since the start are kept."""
    try:
        client.events(cursor=BEGINNING, limit=1)
    except Refused:
        session.tell("some of the earlier events are not kept any more: beginning where all are")


def _print(
    printer: "Printer",
    envelopes: Iterable["Envelope"],
    until: str | None,
    *,
    named: bool,
    timestamps: bool,
    raw: bool,
) -> None:
    runs: dict[str, Run] = defaultdict(Run)
    for envelope in envelopes:
        run = runs[envelope["worker_id"]]
        run.see(envelope["payload"])
        _print_one(printer, envelope, named=named, timestamps=timestamps, raw=raw)
        if envelope["payload"]["event"] == until:
            run.check()
            return
    if until is not None:
        raise RunFailed(f"the events ended before {until}")


def _print_one(printer: "Printer", envelope: "Envelope", *, named: bool, timestamps: bool, raw: bool) -> None:
    line = shown.line(envelope, named=named, raw=raw)
    prefix = f"{local(envelope.get('timestamp_ms')) or '-'}  " if timestamps else ""
    printer.record(envelope, lambda _: prefix + line, envelope["cursor"])
