"""`Worker.wait` returns when a condition holds or has held, and says when none can."""

import math

import pytest

from runtimectl import Client
from runtimectl.errors import ApiError, TimedOut, Unreachable
from runtimectl.library import calls
from runtimectl.library.repeats import Repeats
from runtimectl.library.waiting import PendingWait


def test_a_wait_ends_with_the_condition_that_was_met(client: Client) -> None:
    worker = client.create_worker()
    begin = worker.detail().last_cursor
    worker.input("hello")

    assert worker.wait(timeout=math.inf).matched == "idle"
    assert worker.wait("busy", cursor=begin).matched == "busy"


def test_a_wait_that_takes_too_long_or_can_never_end_fails(client: Client) -> None:
    worker = client.create_worker()

    with pytest.raises(TimedOut, match=f"{worker.id} was not busy or error within 1 s"):
        worker.wait("busy", "error", timeout=1)
    worker.stop()
    with pytest.raises(ApiError) as refused:
        worker.wait("busy")
    assert refused.value.code == "wait_impossible"
    assert refused.value.message == "busy cannot come any more: the Worker is stopped"


def test_a_wait_with_a_timeout_waits_no_longer_for_a_daemon_that_is_away() -> None:
    lost = Unreachable("the connection was lost")
    pending = PendingWait("worker-00000001", ("idle",), timeout=0)

    for call in (pending.begin(), pending.request("wo_0000000000000001")):
        with pytest.raises(Unreachable):
            Repeats(call, 300, has_reached=True).next_delay(lost)
    assert Repeats(calls.worker("worker-00000001"), 300, has_reached=True).next_delay(lost) > 0


@pytest.mark.parametrize(("left_s", "waited_s"), [(None, 30), (1000, 30), (1.5, 2), (0, 1)])
def test_no_request_waits_longer_than_a_proxy_lets_it(left_s: float | None, waited_s: int) -> None:
    request = PendingWait("worker-00000001", (), timeout=left_s).request("wo_0000000000000001")

    assert request.path.endswith(f"&timeout_s={waited_s}")
