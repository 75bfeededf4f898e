"""A feed reconnects after an interruption, and fails when the outage lasts too long."""

from contextlib import closing

import pytest

from runtimectl.client import feed
from runtimectl.client.feed import Feed
from runtimectl.errors import OutputClosed, Unavailable

SNAPSHOT = {"cursor": "wo_0000000000000001", "payload": {"event": "snapshot"}}
EVENT = {"cursor": "wo_0000000000000002", "payload": {"event": "run_end"}}
WORKER = {"worker_id": "worker-00000001", "runtime_id": "runtime-1"}


@pytest.fixture
def fast_clock(monkeypatch):
    """A clock that every sleep advances at once."""
    now = [0.0]
    monkeypatch.setattr(feed.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(feed.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def interrupted_feed(envelopes, notes):
    """A feed of which each connection delivers these envelopes and is lost."""
    found = Feed(lambda: None, WORKER, "wo_0000000000000000", notes.append)

    def connection():
        yield from envelopes
        raise Unavailable("the event wo_0000000000000002 is damaged")

    found._connection = connection
    return found


def test_a_feed_that_never_gets_past_its_snapshot_fails(fast_clock):
    notes = []
    with pytest.raises(Unavailable, match="damaged"):
        for _ in interrupted_feed([SNAPSHOT], notes).envelopes():
            pass
    assert fast_clock[0] > feed.MAX_OUTAGE_S
    assert len(notes) == 2


def test_a_feed_that_delivers_events_between_interruptions_continues(fast_clock):
    seen = 0
    for _ in interrupted_feed([SNAPSHOT, EVENT], []).envelopes():
        seen += 1
        if fast_clock[0] > 2 * feed.MAX_OUTAGE_S or seen > 10_000:
            break
    assert seen > 1_000


def test_a_reader_that_leaves_while_a_connection_closes_ends_the_feed():
    def connection():
        try:
            yield SNAPSHOT
        finally:
            raise OutputClosed

    found = Feed(lambda: None, WORKER, "wo_0000000000000000", print)
    found._connection = connection

    with pytest.raises(OutputClosed), closing(found.envelopes()) as envelopes:
        next(envelopes)
