"""Frames replayed for each second of the server's processor time: one observer resumes at zero over 1,000,000 events.

The daemon reads them from its `fs:` store. The baseline makes as many new ones, encodes each once and sends it by
`send_str`, as fast as it can. A second row has the time from the handshake to the first event, against the time that
a page takes in the course of the replay.
"""

from collections.abc import Sequence

from benchmarks.filling import fill
from benchmarks.observers import Seen, watching
from benchmarks.rows import Plan, Row, at_least, at_most
from benchmarks.servers import Baseline, Daemon, installed, remove
from benchmarks.ticks import Series

EVENTS = 1_000_000
PAGE = 256
"""Events in a page: `max_event_batch_items`."""

FEED = "/v1/workers/worker-00000001/events/ws"
ZERO = "wo_0000000000000000"


def measure(plan: Plan) -> Sequence[Row]:
    """The frames for a second of processor time, and the time to the first event."""
    folder, events = plan.folder / "replay", plan.size(EVENTS, 50_000)
    try:
        fill(folder / "store", workers=1, events=events, kind="ticks")
        with (
            Daemon(installed(), folder, store=f"fs:{folder / 'store'}") as daemon,
            Baseline("broadcasting", folder) as plain,
        ):

            def replay() -> tuple[Seen, float]:
                before, log = daemon.cpu_seconds(), folder / "observers.log"
                with watching(daemon, f"{FEED}?cursor={ZERO}", count=1, ticks=events, log=log) as watch:
                    return watch.seen(), daemon.cpu_seconds() - before

            def send() -> tuple[Seen, float]:
                with watching(plain, FEED, count=1, ticks=events, log=folder / "observers.log") as watch:
                    before = plain.cpu_seconds()
                    plain.post(FEED, {"kind": "user", "content": Series(events).order()})
                    return watch.seen(), plain.cpu_seconds() - before

            replayed, sent = plan.interleave(replay, send)
    finally:
        remove(folder)
    frames, baseline = ([seen.ticks / cpu for seen, cpu in runs] for runs in (replayed, sent))
    first = [seen.first_s * 1_000 for seen, _ in replayed]
    page = [seen.seconds * PAGE / seen.ticks * 1_000 for seen, _ in replayed]
    return [
        Row(f"replay of {events:,} events", "frames/CPU s", frames, baseline, at_least(2.0)),
        Row("replay: first event, in pages", "ms", first, page, at_most(3.0)),
    ]
