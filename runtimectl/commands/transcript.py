"""`runtimectl transcript`: the conversation of a Worker."""

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from runtimectl.client.session import Session, required_text, resolve_worker_id
from runtimectl.options import command
from runtimectl.output.entries import entry_from_event, entry_text

if TYPE_CHECKING:
    from runtimectl.client.api import Body, Client
    from runtimectl.output.printer import Printer


@command()
@click.argument("worker", metavar="W")
@click.option("--start", metavar="N", type=click.IntRange(0), default=0, help="Skip the first N entries.")
@click.option("--limit", metavar="N", type=click.IntRange(1), help="At most N entries a page.")
@click.option("--all", "every", is_flag=True, help="Print all pages, not only the first.")
@click.option("--follow", is_flag=True, help="Print all pages, then new entries as they arrive.")
@click.pass_obj
def transcript(session: Session, worker: str, start: int, limit: int | None, every: bool, follow: bool) -> None:
    """Show the transcript of a Worker.

    \b
    Example:
      runtimectl transcript worker-00000001 --follow
    """
    client, printer = session.client(), session.printer()
    worker_id = resolve_worker_id(client, worker)
    if follow:
        from runtimectl.signals import require_reader

        with require_reader():
            _follow(session, client.worker(worker_id)["worker"], start, limit)
        return
    for page in _pages(client, worker_id, start, limit):
        if printer.prints_bodies:
            printer.body(page)
        else:
            _print(printer, page["transcript"]["items"])
        if not every:
            return


def _pages(client: "Client", worker_id: str, start: int, limit: int | None) -> Iterator["Body"]:
    next_start: int | None = start
    while next_start is not None:
        page = client.transcript(worker_id, next_start, limit)
        yield page
        next_start = page["transcript"].get("next_start")


def _follow(session: Session, worker: "Body", start: int, limit: int | None) -> None:
    """Print each entry once. The pages hold all entries up to an event that is no older than `last_cursor`."""
    printer, client = session.printer(), session.client(required_text(worker, "runtime_id"))
    count, cursor = 0, required_text(worker, "last_cursor")
    for page in _pages(client, required_text(worker, "worker_id"), start, limit):
        items = page["transcript"]["items"]
        _print(printer, items)
        count = page["transcript"]["total_items"]
        cursor = max([cursor, *(item["cursor"] for item in items)])
    if worker["status"] == "running":
        with closing(_new_entries(session, worker, cursor, count)) as entries:
            for entry in entries:
                if entry["sequence"] > start:
                    _print(printer, [entry])


def _new_entries(session: Session, worker: "Body", cursor: str, count: int) -> Generator[dict[str, Any], None, None]:
    from runtimectl.client.feed import Feed, FeedSource

    feed = Feed(lambda: session.client(worker["runtime_id"]), FeedSource.worker(worker), cursor, session.notify)
    with closing(feed.envelopes()) as envelopes:
        for envelope in envelopes:
            entry = entry_from_event(envelope, count + 1, worker["worker_ref"])
            if entry is not None:
                count += 1
                yield entry
            if envelope["payload"]["event"] == "shutdown":
                return


def _print(printer: "Printer", entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        printer.record(entry, entry_text, entry["cursor"])
