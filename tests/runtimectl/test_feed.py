"""How a feed that breaks off is taken up again, and when it is given up."""

from contextlib import closing

import pytest

from runtimectl import feed
from runtimectl.errors import ReaderGone, Unavailable
from runtimectl.feed import Feed

SNAPSHOT = {"cursor": "wo_0000000000000001", "payload": {"event": "snapshot"}}
EVENT = {"cursor": "wo_0000000000000002", "payload": {"event": "run_end"}}
WORKER = {"worker_id": "worker-00000001", "runtime_id": "runtime-1"}


@pytest.fixture
def time_flies(monkeypatch):
    """Every wait is over at once, and lasted."""
    now = [0.0]
    monkeypatch.setattr(feed.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(feed.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def broken(envelopes, told):
    """A feed whose every connection gives these envelopes and breaks off."""
    found = Feed(lambda: None, WORKER, "wo_0000000000000000", told.append)

    def connection():
        yield from envelopes
        raise Unavailable("the event wo_0000000000000002 is damaged")

    found._connection = connection
    return found


def test_a_feed_that_gets_no_further_than_its_snapshot_is_given_up(time_flies):
    told = []
    with pytest.raises(Unavailable, match="damaged"):
        for _ in broken([SNAPSHOT], told).envelopes():
            pass
    assert time_flies[0] > feed.MAX_OUTAGE_S
    assert len(told) == 2


def test_a_feed_that_gets_further_each_time_goes_on(time_flies):
    seen = 0
    for _ in broken([SNAPSHOT, EVENT], []).envelopes():
        seen += 1
        if time_flies[0] > 2 * feed.MAX_OUTAGE_S or seen > 10_000:
            break
    assert seen > 1_000


def test_a_reader_that_leaves_while_the_connection_is_closed_ends_the_feed():
    def connection():
        try:
            yield SNAPSHOT
        finally:
            raise ReaderGone

    found = Feed(lambda: None, WORKER, "wo_0000000000000000", print)
    found._connection = connection

    with pytest.raises(ReaderGone), closing(found.envelopes()) as envelopes:
        next(envelopes)
