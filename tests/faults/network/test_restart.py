"""A restart under many observers: all of them resume, and each sees every event once, in order."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.network.conftest import Crowd, Launch, Observe, Until

WORKERS = 4
TICKING = "while :; do echo tick; sleep 0.05; done"
BACK_S = 30.0


@pytest.fixture
def check(launch: Launch, observe: Observe, until: Until, long: bool) -> Callable[..., None]:
    def check(end: str, without: str | None = None) -> None:
        number = 250 if long else 50
        daemon = launch()
        daemon.allow_descriptors(20_000)
        workers = [daemon.create("shell") for _ in range(WORKERS)]
        crowd = observe(daemon, *workers, number=number, resume=True)
        for worker in workers:
            daemon.start(worker, TICKING)
        crowd.until("least", crowd.tell("state")["least"] + 100)
        getattr(daemon, end)()
        crowd.until("ends", WORKERS * number)
        again = launch(listen=f"{daemon.host}:{daemon.port}", without=without)
        again.allow_descriptors(20_000)
        crowd.until("connected", WORKERS * number, BACK_S)
        for worker in workers:
            again.call("POST", f"/v1/workers/{worker}/stop")
        newest = {worker: again.newest(worker) for worker in workers}

        def complete(observers: Crowd) -> list[dict[str, Any]] | None:
            found = observers.reports()
            return found if all(one["sequences"][-1:] == [newest[one["worker"]]] for one in found) else None

        readers = observe(again, *workers)
        logs = {one["worker"]: one["sequences"] for one in until(lambda: complete(readers), "the log")}
        for report in until(lambda: complete(crowd), "the end of every observer's log"):
            assert report["sequences"] == logs[report["worker"]], "an observer's log has a hole or a repeat"
            assert len(report["ends"]) == 1, "an observer was cut more than once"

    return check


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_all_observers_of_a_daemon_that_is_restarted_resume_exactly_once(
    check: Callable[..., None], end: str
) -> None:
    check(end)


def test_the_check_sees_what_observers_lose_that_do_not_resume_at_their_cursors(check: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match="a hole or a repeat"):
        check("kill", without="replay")
