"""Refused connections become events, and few of them."""

from runtimed.execution.network.refusals import MAX_REMEMBERED, PERIOD_S, Refusals
from runtimed.model.event import SystemItem


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_host_and_port_has_one_event_a_minute_which_counts_those_left_out() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    item = {"kind": "network_refused", "host": "example.com", "port": 443, "reason": "no rule allows it"}

    assert refusals.add("example.com", 443, "no rule allows it") == SystemItem(item)
    assert [refusals.add("example.com", 443, "again") for _ in range(3)] == [None] * 3
    clock.now += PERIOD_S - 0.5
    assert refusals.add("example.com", 443, "again") is None
    clock.now += 0.5
    assert refusals.add("example.com", 443, "no rule allows it") == SystemItem(item | {"left_out": 4})


def test_each_host_and_each_port_has_events_of_its_own() -> None:
    refusals = Refusals(Clock())

    assert all(refusals.add(host, port, "no") for host in ("a.com", "b.com") for port in (80, 443))


def test_a_program_that_tries_many_hosts_makes_a_bounded_number_of_events() -> None:
    clock = Clock()
    refusals = Refusals(clock)

    made = [refusals.add(f"h{number}.com", 443, "no") for number in range(10_000)]

    assert sum(item is not None for item in made) == MAX_REMEMBERED
    assert len(refusals._last) == MAX_REMEMBERED
    clock.now += PERIOD_S
    after = refusals.add("h.com", 443, "no")
    assert after is not None
    assert after.item["left_out"] == 10_000 - MAX_REMEMBERED
