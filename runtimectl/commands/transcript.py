"""`runtimectl transcript`."""

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from runtimectl.entries import entry_of, readable
from runtimectl.options import command
from runtimectl.session import Session, text, worker_id

if TYPE_CHECKING:
    from runtimectl.client import Body, Client
    from runtimectl.output import Printer


@command()
@click.argument("worker", metavar="W")
@click.option("--start", metavar="N", type=click.IntRange(0), default=0, help="Skip so many entries.")
@click.option("--limit", metavar="N", type=click.IntRange(1), help="So many entries a page.")
@click.option("--all", "every", is_flag=True, help="Every page from there on.")
@click.option("--follow", is_flag=True, help="Every page, then new entries as they come.")
@click.pass_obj
def transcript(session: Session, worker: str, start: int, limit: int | None, every: bool, follow: bool) -> None:
    """Show what was said.

    \b
    Example:
      runtimectl transcript worker-00000001 --follow
    """
    client, printer = session.client(), session.printer()
    chosen = worker_id(client, worker)
    if follow:
        from runtimectl.reader import needing_reader

        with needing_reader():
            _follow(session, client.worker(chosen)["worker"], start, limit)
        return
    for page in _pages(client, chosen, start, limit):
        if printer.whole:
            printer.body(page)
        else:
            _print(printer, page["transcript"]["items"])
        if not every:
            return


def _pages(client: "Client", chosen: str, start: int, limit: int | None) -> Iterator["Body"]:
    following: int | None = start
    while following is not None:
        page = client.transcript(chosen, following, limit)
        yield page
        following = page["transcript"].get("next_start")


def _follow(session: Session, worker: "Body", start: int, limit: int | None) -> None:
    """Print each entry once: the pages hold all up to an event that is no older than `last_cursor`."""
    printer, client = session.printer(), session.client(text(worker, "runtime_id"))
    seen, cursor = 0, text(worker, "last_cursor")
    for page in _pages(client, text(worker, "worker_id"), start, limit):
        items = page["transcript"]["items"]
        _print(printer, items)
        seen = page["transcript"]["total_items"]
        cursor = max([cursor, *(item["cursor"] for item in items)])
    if worker["status"] == "running":
        with closing(_new_entries(session, worker, cursor, seen)) as entries:
            for item in entries:
                if item["sequence"] > start:
                    _print(printer, [item])


def _new_entries(session: Session, worker: "Body", cursor: str, seen: int) -> Generator[dict[str, Any], None, None]:
    from runtimectl.feed import Feed, Observed

    feed = Feed(lambda: session.client(worker["runtime_id"]), Observed.worker(worker), cursor, session.tell)
    with closing(feed.envelopes()) as envelopes:
        for envelope in envelopes:
            item = entry_of(envelope, seen + 1, worker["worker_ref"])
            if item is not None:
                seen += 1
                yield item
            if envelope["payload"]["event"] == "shutdown":
                return


def _print(printer: "Printer", items: list[dict[str, Any]]) -> None:
    for item in items:
        printer.record(item, readable, item["cursor"])
