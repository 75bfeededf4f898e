"""`runtimectl events`: follow and export events."""

from collections import defaultdict
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, get_args

import click

from runtimectl.client.requests import parse_labels
from runtimectl.client.runs import Run
from runtimectl.client.session import Session, required_text
from runtimectl.client.worker_names import resolve_worker_id
from runtimectl.commands.completing import complete_event_names, complete_workers
from runtimectl.errors import Refused, UsageProblem, WorkerFailed
from runtimectl.options import Group
from runtimectl.output.events import event_line
from runtimectl.output.times import local

if TYPE_CHECKING:
    from runtimectl.client.api import Body, Client
    from runtimectl.client.history import Envelope
    from runtimectl.output.printer import Printer


@click.group(cls=Group)
def events() -> None:
    """Follow or export the events of Workers.

    \b
    Example:
      runtimectl events tail worker-00000001
    """


@events.command()
@click.argument("worker", metavar="W|--all", required=False, shell_complete=complete_workers)
@click.option("--all", "everyone", is_flag=True, help="Events of all Workers instead of one.")
@click.option(
    "--label", "labels", metavar="K=V", multiple=True, help="With --all: only of Workers with it; repeatable."
)
@click.option("--cursor", metavar="C", help="Begin after the event with this cursor.")
@click.option("--from-start", is_flag=True, help="Begin with the oldest event that is kept.")
@click.option(
    "--until",
    metavar="EVENT",
    shell_complete=complete_event_names,
    help="End after an event with this name; exit 1 if the run failed.",
)
@click.option("--no-follow", is_flag=True, help="End at the newest event that exists now.")
@click.option("--timestamps", is_flag=True, help="Show the time of each event, by the daemon's clock.")
@click.option("--raw", is_flag=True, help="Neither shorten text nor escape its control characters.")
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
    """Print the events of a Worker, or of all, as they arrive.

    The command reconnects after a restart of the daemon. It ends when the Worker ends.

    \b
    Example:
      runtimectl events tail worker-00000001 --from-start -o jsonl
    """
    if everyone == (worker is not None):
        raise UsageProblem("W: expected either a Worker or --all")
    if labels and not everyone:
        raise UsageProblem("--label: requires --all")
    if cursor is not None and from_start:
        raise UsageProblem("--from-start: cannot be combined with --cursor")
    if until is not None:
        _check_name(until)
    if worker is None:
        parse_labels(labels)
        envelopes = _of_all(session, labels, cursor, from_start=from_start, follow=not no_follow)
    else:
        envelopes = _of_worker(session, worker, cursor, from_start=from_start, follow=not no_follow)
    from runtimectl.signals import require_reader

    with require_reader(), closing(envelopes):
        _print_all(session.printer(), envelopes, until, with_worker=everyone, timestamps=timestamps, raw=raw)


@events.command()
@click.argument("worker", metavar="W", shell_complete=complete_workers)
@click.option("--cursor", metavar="C", help="Begin after the event with this cursor.")
@click.pass_obj
def export(session: Session, worker: str, cursor: str | None) -> None:
    """Print the past events of a Worker as JSON lines.

    The export ends at the newest event that exists now. The same events are the same bytes in each export.

    \b
    Example:
      runtimectl events export worker-00000001 > events.jsonl
    """
    from runtimectl.client.history import read_events

    client, printer = session.client(), session.printer()
    found = client.worker(resolve_worker_id(client, worker))["worker"]
    if cursor is None:
        _begin_of_worker(session, found)
    if printer.output == "table":
        printer.output = "jsonl"
    newest = required_text(found, "last_cursor")
    for envelope in read_events(client, required_text(found, "worker_id"), (), cursor, newest):
        _print(printer, envelope, with_worker=False, timestamps=False, raw=False)


def _check_name(name: str) -> None:
    from runtimed.model.event import Payload

    known = sorted(payload.event for payload in get_args(Payload))
    if name not in known:
        raise UsageProblem(f"--until: expected one of {', '.join(known)}, got {name!r}")


def _of_worker(
    session: Session, worker: str, cursor: str | None, *, from_start: bool, follow: bool
) -> Generator["Envelope", None, None]:
    """Yield the events of a Worker until it ends, or without `follow` until its newest event."""
    from runtimectl.client.feed import Feed, FeedSource

    client = session.client()
    found = client.worker(resolve_worker_id(client, worker))["worker"]
    newest = required_text(found, "last_cursor")
    begin = _begin_of_worker(session, found) if from_start else cursor or newest
    feed = Feed(
        lambda: session.client(found["runtime_id"]),
        FeedSource.worker(found),
        begin,
        session.notify,
        reconnect_for=session.reconnect_for,
    )
    is_finite = not follow or found["status"] != "running"
    with closing(feed.envelopes()) as envelopes:
        for envelope in envelopes:
            yield envelope
            if envelope["payload"]["event"] == "shutdown" or (is_finite and envelope["cursor"] >= newest):
                return


def _of_all(
    session: Session, labels: tuple[str, ...], cursor: str | None, *, from_start: bool, follow: bool
) -> Generator["Envelope", None, None]:
    """Yield the events of all Workers with the labels, without an end, or without `follow` until the newest one."""
    from runtimectl.client.feed import Feed, FeedSource
    from runtimectl.client.history import live_cursor, newest_cursor, read_events

    client = session.client()
    if from_start:
        _notify_of_any_trimming(session, client)
    if not follow:
        newest = newest_cursor(client, labels)
        yield from read_events(client, None, labels, None if from_start else cursor or newest, newest)
        return
    source = FeedSource(required_text(client.runtime()["runtime"], "runtime_id"), labels=labels)
    if from_start:
        page = client.events(labels=labels)
        yield from page["events"]
        begin = required_text(page, "next_cursor")
    else:
        begin = cursor or live_cursor(client)
    feed = Feed(
        lambda: session.client(source.runtime_id), source, begin, session.notify, reconnect_for=session.reconnect_for
    )
    with closing(feed.envelopes()) as envelopes:
        yield from envelopes


def _begin_of_worker(session: Session, worker: "Body") -> str:
    """Return the cursor after which all events of a Worker are kept. Notifies people of deleted events."""
    from runtimectl.client.history import OLDEST_CURSOR

    oldest: str | None = worker.get("oldest_cursor")
    if oldest is None:
        return OLDEST_CURSOR
    session.notify(f"events up to {oldest} are no longer kept; beginning after them")
    return oldest


def _notify_of_any_trimming(session: Session, client: "Client") -> None:
    """Notify people if old events of any Worker were deleted."""
    from runtimectl.client.history import OLDEST_CURSOR

    try:
        client.events(cursor=OLDEST_CURSOR, limit=1)
    except Refused:
        session.notify("some old events are no longer kept; beginning after them")


def _print_all(
    printer: "Printer",
    envelopes: Iterable["Envelope"],
    until: str | None,
    *,
    with_worker: bool,
    timestamps: bool,
    raw: bool,
) -> None:
    runs: dict[str, Run] = defaultdict(Run)
    for envelope in envelopes:
        run = runs[envelope["worker_id"]]
        run.record(envelope["payload"])
        _print(printer, envelope, with_worker=with_worker, timestamps=timestamps, raw=raw)
        if envelope["payload"]["event"] == until:
            run.raise_for_failure()
            return
    if until is not None:
        raise WorkerFailed(f"the events ended without {until}")


def _print(printer: "Printer", envelope: "Envelope", *, with_worker: bool, timestamps: bool, raw: bool) -> None:
    line = event_line(envelope, with_worker=with_worker, raw=raw)
    prefix = f"{local(envelope.get('timestamp_ms')) or '-'}  " if timestamps else ""
    printer.record(envelope, lambda _: prefix + line, envelope["cursor"])
