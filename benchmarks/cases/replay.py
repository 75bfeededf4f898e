"""Frames replayed for each second of the server's processor time: one observer resumes at zero over 1,000,000 events.

The daemon reads the events from its `fs:` store. The baseline makes as many new ones, encodes each once and sends it
by `send_str`, as fast as it can. A second row has the time from the handshake to the first event, against the time of
a page during the replay.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.filling import fill
from benchmarks.observers import watching
from benchmarks.rows import Plan, Row, at_least, at_most
from benchmarks.series import Delivery, deliver
from benchmarks.servers import Baseline, Daemon, installed, remove
from benchmarks.ticks import Series

EVENTS = 1_000_000
PAGE = 1_024
"""The events in a page (`max_replay_items`)."""

RETAIN_ALL = {"max_events_per_worker": 2 * EVENTS}
WORKER = "worker-00000001"
FEED = f"/v1/workers/{WORKER}/events/ws?cursor=wo_0000000000000000"


def measure(plan: Plan) -> Sequence[Row]:
    """Measure frames for each second of processor time, and the time to the first event."""
    folder, series = plan.folder / "replay", Series(plan.size(EVENTS, 50_000))
    log = folder / "observers.log"
    try:
        fill(folder / "store", workers=1, events=series.count, kind="ticks")
        with (
            Daemon(installed(), folder, store=f"fs:{folder / 'store'}", settings=RETAIN_ALL) as daemon,
            Baseline("broadcasting", folder) as plain,
        ):
            ours, baseline = plan.interleave(
                lambda: _replay(daemon, series, log), lambda: deliver(plain, WORKER, series, 1, log)
            )
    finally:
        remove(folder)
    return [
        Row(
            f"replay of {series.count:,} events",
            "frames/CPU s",
            [delivery.frames_per_cpu_s for delivery in ours],
            [delivery.frames_per_cpu_s for delivery in baseline],
            at_least(2.0),
        ),
        Row(
            "replay: first event, in pages",
            "ms",
            [delivery.seen.first_s * 1_000 for delivery in ours],
            [PAGE / delivery.frames_per_s * 1_000 for delivery in ours],
            at_most(3.0),
        ),
    ]


def _replay(daemon: Daemon, series: Series, log: Path) -> Delivery:
    before = daemon.cpu_seconds()
    with watching(daemon, FEED, count=1, ticks=series.count, log=log) as watch:
        seen = watch.seen()
        return Delivery(series, seen, seen.seconds, daemon.cpu_seconds() - before)
