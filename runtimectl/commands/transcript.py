"""`runtimectl transcript`: the conversation of a Worker."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from heapq import merge
from operator import itemgetter
from typing import TYPE_CHECKING

import click

from runtimectl.client.history import OLDEST_CURSOR, read_events
from runtimectl.client.session import Session, required_text
from runtimectl.client.worker_names import resolve_worker_id
from runtimectl.commands.completing import complete_workers
from runtimectl.options import command
from runtimectl.output.entries import Entry, entry_from_event, entry_text
from runtimectl.output.tool_calls import TOOL_CALL, ToolCalls, tool_text

if TYPE_CHECKING:
    from runtimectl.client.api import Body, Client
    from runtimectl.output.printer import Printer


@command()
@click.argument("worker", metavar="W", shell_complete=complete_workers)
@click.option("--start", metavar="N", type=click.IntRange(0), default=0, help="Skip the first N entries.")
@click.option("--limit", metavar="N", type=click.IntRange(1), help="At most N entries a page.")
@click.option("--all", "every", is_flag=True, help="Print all pages, not only the first.")
@click.option("--follow", is_flag=True, help="Print all pages, then new entries as they arrive.")
@click.option("--tools", is_flag=True, help="Print all pages, with tool calls, their results and exit statuses.")
@click.pass_obj
def transcript(
    session: Session, worker: str, start: int, limit: int | None, every: bool, follow: bool, tools: bool
) -> None:
    """Show the transcript of a Worker.

    \b
    Example:
      runtimectl transcript worker-00000001 --follow
    """
    client, printer = session.client(), session.printer()
    worker_id = resolve_worker_id(client, worker)
    if follow or tools:
        from runtimectl.signals import require_reader

        with require_reader():
            _print_all(session, client.worker(worker_id)["worker"], start, limit, follow=follow, tools=tools)
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


def _print_all(session: Session, worker: "Body", start: int, limit: int | None, *, follow: bool, tools: bool) -> None:
    """Print each entry once. The pages hold all entries up to an event that is no older than `last_cursor`."""
    printer, client = session.printer(), session.client(required_text(worker, "runtime_id"))
    count, cursor, entries = 0, required_text(worker, "last_cursor"), list[Entry]()
    for page in _pages(client, required_text(worker, "worker_id"), start, limit):
        items = page["transcript"]["items"]
        if tools:
            entries += items
        else:
            _print(printer, items)
        count = page["transcript"]["total_items"]
        cursor = max([cursor, *(item["cursor"] for item in items)])
    tool_calls = ToolCalls() if tools else None
    if tool_calls is not None:
        begin = entries[0]["cursor"] if entries else OLDEST_CURSOR
        _print(
            printer, _with_tool_calls(session, worker, entries, tool_calls, begin if start else OLDEST_CURSOR, cursor)
        )
    if follow and worker["status"] == "running":
        with closing(_new_entries(session, worker, cursor, count, tool_calls)) as new:
            _print(printer, (entry for entry in new if entry.get("sequence", start + 1) > start))


def _with_tool_calls(
    session: Session, worker: "Body", entries: list[Entry], tool_calls: ToolCalls, begin: str, until: str
) -> Iterator[Entry]:
    """Yield entries and the tool calls between them, in the order in which they were completed."""
    client = session.client(required_text(worker, "runtime_id"))
    oldest = worker.get("oldest_cursor")
    if oldest is not None and begin < oldest:
        session.notify(f"events up to {oldest} are no longer kept; tool calls before them are missing")
        begin = oldest
    events = read_events(client, required_text(worker, "worker_id"), (), begin, until)
    calls = (call for envelope in events if (call := tool_calls.record(envelope)) is not None)
    return merge(entries, calls, key=itemgetter("cursor"))


def _new_entries(
    session: Session, worker: "Body", cursor: str, count: int, tool_calls: ToolCalls | None
) -> Generator[Entry, None, None]:
    from runtimectl.client.feed import Feed, FeedSource

    feed = Feed(
        lambda: session.client(worker["runtime_id"]),
        FeedSource.worker(worker),
        cursor,
        session.notify,
        reconnect_for=session.reconnect_for,
    )
    with closing(feed.envelopes()) as envelopes:
        for envelope in envelopes:
            entry = entry_from_event(envelope, count + 1, worker["worker_ref"])
            if entry is not None:
                count += 1
                yield entry
            if tool_calls is not None and (call := tool_calls.record(envelope)) is not None:
                yield call
            if envelope["payload"]["event"] == "shutdown":
                return


def _print(printer: "Printer", entries: Iterable[Entry]) -> None:
    for entry in entries:
        text = tool_text if entry.get("kind") == TOOL_CALL else entry_text
        printer.record(entry, text, entry["cursor"])
