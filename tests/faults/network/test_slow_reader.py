"""An observer that reads slowly: pings wait behind unread data, and it is not cut."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.network.conftest import Launch, Observe

HEARTBEAT_S = 1.0
PACE = 600_000
"""The bytes a second that the observer reads."""

PUBLISHED = 4 * 2**20
"""The bytes of text before it joins, in deltas and as a whole: more than the kernel buffers."""

DEADLINE_S = 120.0
"""The deadline for so many bytes on a busy machine."""


@pytest.fixture
def check(launch: Launch, observe: Observe) -> Callable[..., None]:
    def check(**given: Any) -> None:
        daemon = launch(settings={"heartbeat_s": HEARTBEAT_S}, **given)
        worker = daemon.create("shell")
        daemon.run(worker, f"head -c {PUBLISHED} /dev/zero | tr '\\0' x", deadline_s=DEADLINE_S)
        slow = observe(daemon, worker, receive_buffer=32_768, pace=PACE)
        slow.until("least", daemon.newest(worker), DEADLINE_S)
        daemon.run(worker, "true")
        slow.until("least", daemon.newest(worker), DEADLINE_S)

    return check


def test_an_observer_that_reads_slowly_is_not_taken_for_dead(check: Callable[..., None]) -> None:
    check()


def test_the_check_sees_an_observer_that_is_cut_for_late_pongs(check: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match="an observer was cut"):
        check(without="leniency")
