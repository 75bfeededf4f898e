"""`Worker.wait` returns when a condition holds or has held, and says when none can."""

import pytest

from runtimectl import Client
from runtimectl.errors import ApiError, TimedOut


def test_a_wait_ends_with_the_condition_that_was_met(client: Client) -> None:
    worker = client.create_worker()
    begin = worker.detail().last_cursor
    worker.input("hello")

    assert worker.wait().matched == "idle"
    assert worker.wait("busy", cursor=begin).matched == "busy"


def test_a_wait_that_takes_too_long_or_can_never_end_fails(client: Client) -> None:
    worker = client.create_worker()

    with pytest.raises(TimedOut, match=f"{worker.id} was not busy or error within 1 s"):
        worker.wait("busy", "error", timeout=1)
    worker.stop()
    with pytest.raises(ApiError) as refused:
        worker.wait("busy")
    assert refused.value.code == "wait_impossible"
