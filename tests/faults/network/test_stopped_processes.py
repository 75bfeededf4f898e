"""SIGSTOP of the daemon, an agent or an observer: nothing is respawned or taken for dead, and the feed goes on."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.network.conftest import Crowd, Daemon, Launch, Observe, Stopped, Until

HEARTBEAT_S = 2.0
SETTINGS = {"heartbeat_s": HEARTBEAT_S}
TICKING = "i=0; while [ ! -e '{}' ]; do i=$((i+1)); echo tick $i; sleep 0.02; done"
OBSERVERS = 10


class Ticking:
    """A run of a shell Worker that prints all the time until a test ends it."""

    def __init__(self, daemon: Daemon, worker: str) -> None:
        self.daemon, self.worker = daemon, worker
        self._gate = daemon.home / f"{worker}.end"
        daemon.start(worker, TICKING.format(self._gate))

    def end(self) -> None:
        """End the run, and wait for it."""
        self._gate.touch()
        self.daemon.idle(self.worker)


@pytest.fixture
def stand_still(long: bool, stopped: Stopped, until: Until) -> Callable[..., None]:
    """Stop processes until a condition holds, and long enough that an observer without pongs would be cut."""

    def stand_still(*pids: int, is_over: Callable[[], bool] = lambda: True) -> None:
        with stopped(*pids):
            time.sleep(30 if long else 2.5 * HEARTBEAT_S)
            until(is_over, "the end of the pause")

    return stand_still


@pytest.fixture
def check_unbroken(observe: Observe) -> Callable[..., None]:
    """Check that each observer of a crowd has seen every event of the Worker once, in order."""

    def check(daemon: Daemon, worker: str, crowd: Crowd) -> None:
        reader = observe(daemon, worker)
        reader.until("least", daemon.newest(worker))
        log = reader.reports()[0]["sequences"]
        try:
            crowd.until("least", log[-1])
        except AssertionError as error:
            raise AssertionError(f"an observer's log has a hole or a repeat: {error}") from error
        for report in crowd.reports():
            assert report["sequences"] == log, "an observer's log has a hole or a repeat"

    return check


def test_a_stopped_daemon_goes_on_with_its_agents_and_its_observers(
    launch: Launch, observe: Observe, stand_still: Callable[..., None], check_unbroken: Callable[..., None]
) -> None:
    daemon = launch(settings=SETTINGS)
    worker, quiet = daemon.create("shell"), daemon.create("shell")
    crowds = {one: observe(daemon, one, number=OBSERVERS) for one in (worker, quiet)}
    ticking = Ticking(daemon, worker)
    agents = daemon.agents()
    stand_still(daemon.pid)
    ticking.end()
    daemon.run(quiet, "echo still here")
    assert daemon.agents() == agents
    for name, crowd in crowds.items():
        check_unbroken(daemon, name, crowd)
        assert crowd.tell("state")["ends"] == 0


@pytest.fixture
def check_answered(launch: Launch, observe: Observe, stopped: Stopped, until: Until) -> Callable[..., None]:
    """Stop the daemon after a ping until the next one is due. Observers answer meanwhile."""

    def check(**given: Any) -> None:
        daemon = launch(settings=SETTINGS, **given)
        worker = daemon.create("echo")
        crowd = observe(daemon, worker, number=OBSERVERS)
        crowd.tell("hold")
        pings = crowd.until("held", 1)["pings"]
        with stopped(daemon.pid):
            crowd.tell("answer")
            time.sleep(HEARTBEAT_S)
        until(lambda: (state := crowd.tell("state"))["pings"] > pings or state["ends"], "the next ping")
        assert crowd.tell("state")["ends"] == 0, "observers were cut that had answered"

    return check


def test_observers_that_answered_while_the_daemon_stood_still_are_not_cut_as_dead(
    check_answered: Callable[..., None],
) -> None:
    check_answered()


def test_the_check_sees_observers_that_are_cut_before_their_answers_are_read(
    check_answered: Callable[..., None],
) -> None:
    with pytest.raises(AssertionError, match="observers were cut that had answered"):
        check_answered(without="settling")


@pytest.fixture
def check_agent(
    launch: Launch,
    observe: Observe,
    stand_still: Callable[..., None],
    descendants: Callable[[int], set[int]],
    check_unbroken: Callable[..., None],
) -> Callable[..., None]:
    def check(**given: Any) -> None:
        daemon = launch(settings=SETTINGS, **given)
        other = daemon.create("echo")
        worker = daemon.create("shell")
        agents = daemon.agents()
        crowd, others = observe(daemon, worker), observe(daemon, other)
        ticking = Ticking(daemon, worker)
        stand_still(*agents, *(pid for agent in agents for pid in descendants(agent)))
        assert daemon.agents() == agents, "its run was cut: its agent is gone"
        daemon.run(other, "hello")
        ticking.end()
        check_unbroken(daemon, other, others)
        check_unbroken(daemon, worker, crowd)
        names = crowd.reports()[0]["names"]
        seen = (names.get("alert"), names.get("error"), names["run_end"], daemon.agents())
        assert seen == (None, None, 1, agents), "its run was cut"

    return check


def test_a_stopped_agent_is_neither_dead_nor_replaced_and_its_run_goes_on(check_agent: Callable[..., None]) -> None:
    check_agent()


def test_the_check_sees_an_agent_that_was_killed_for_standing_still(check_agent: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match="its run was cut"):
        check_agent(without="patience")


@pytest.fixture
def check_observer(
    launch: Launch, observe: Observe, stand_still: Callable[..., None], check_unbroken: Callable[..., None]
) -> Callable[..., None]:
    def check(**given: Any) -> None:
        daemon = launch(settings=SETTINGS, **given)
        worker = daemon.create("shell")
        sleeper = observe(daemon, worker, number=OBSERVERS, resume=True)
        others = observe(daemon, worker, number=OBSERVERS)
        ticking = Ticking(daemon, worker)
        before = others.tell("state")["least"]
        stand_still(sleeper.pid, is_over=lambda: daemon.connections("127.0.0.1") <= OBSERVERS)
        assert others.tell("state")["least"] > before
        sleeper.until("ends", OBSERVERS)
        sleeper.until("connected", OBSERVERS)
        ticking.end()
        check_unbroken(daemon, worker, others)
        check_unbroken(daemon, worker, sleeper)

    return check


def test_a_stopped_observer_holds_nobody_up_and_resumes_without_loss(check_observer: Callable[..., None]) -> None:
    check_observer()


def test_the_check_sees_what_an_observer_loses_that_does_not_resume_at_its_cursor(
    check_observer: Callable[..., None],
) -> None:
    with pytest.raises(AssertionError, match="a hole or a repeat"):
        check_observer(without="replay")
