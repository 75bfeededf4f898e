"""Targets section 2, row 5: torn logs and flipped bits."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.acceptance.daemon.conftest import ZERO, Daemon, Launch
from tests.faults.conftest import Require, Rounds
from tests.faults.store.damage import DATABASE, LOG, Copies, blank, cut, flip, places
from tests.faults.store.ledger import Broken, Events, Ledger, promised, transcript, up
from tests.faults.store.trace import attached

LOG_HEADER_BYTES = 32
FIELD_BYTES = 4
MARK = "0123456789abcdef" * 4


@dataclass
class Scene:
    """Three Workers that have worked, what they showed then, and their store, now without a daemon.

    All that was said to and by the Worker `hit` is so long that it fills pages of its own, with MARK in its middle.
    What was logged before `middle` has been followed by more of all three.
    """

    copies: Copies
    ledger: Ledger
    shown: Mapping[str, tuple[Events, Events]]
    hit: str
    middle: int

    @property
    def others(self) -> list[str]:
        return [one for one in self.shown if one != self.hit]


def long_text(chance: random.Random) -> str:
    """Return about 20 kB of text with MARK in the middle."""
    half = f"{chance.getrandbits(40_000):010000x}"
    return f"{half}{MARK}{half}"


@pytest.fixture
def scene(launch: Launch, ledger: Ledger, chance: random.Random, tmp_path: Path) -> Callable[..., Scene]:
    """Make a scene whose daemon ends by `end`."""

    def make(end: Callable[[Daemon], None], without: str | None = None) -> Scene:
        daemon = launch(without=without).ready()
        first, second, hit = workers = [daemon.echo() for _ in range(3)]

        def send(worker_id: str, content: str) -> None:
            assert ledger.send(daemon, worker_id, content) == 200
            daemon.idle(worker_id)

        for number in range(3):
            send(first, f"first {number}")
            send(second, f"second {number}")
        send(hit, f"short {chance.random()}")
        send(hit, long_text(chance))
        middle = (tmp_path / "store" / LOG).stat().st_size
        for worker_id in workers:
            send(worker_id, f"last of {worker_id}")
        shown = {one: (transcript(daemon, one), daemon.log(one)) for one in workers}
        end(daemon)
        return Scene(Copies(tmp_path / "store", tmp_path), ledger, shown, hit, middle)

    return make


def check_others(daemon: Daemon, scene: Scene) -> None:
    """Check that undamaged Workers are complete, and that the daemon works."""
    for worker_id in scene.others:
        scene.ledger.check_worker(daemon, worker_id)
        shown = transcript(daemon, worker_id), daemon.log(worker_id)
        promised(shown == scene.shown[worker_id], f"{worker_id}: it is as it was")
    promised(daemon.call("POST", f"/v1/workers/{scene.others[0]}/stop").status == 200, "a Worker can be stopped")
    worker_id = daemon.echo()
    promised(scene.ledger.send(daemon, worker_id, "afterwards") == 200, "a new Worker takes input")
    daemon.idle(worker_id)
    scene.ledger.check_worker(daemon, worker_id)


def check_told(daemon: Daemon, worker_id: str, shown: tuple[Events, Events], hit: str) -> bool:
    """Check that a Worker shows correct data or an error that names it. Returns whether there was an error."""
    entries, log = shown
    answer = daemon.call("GET", f"/v1/workers/{worker_id}/transcript")
    if answer.status == 500:
        message = answer.refused(500, "store_corrupt")
        promised(worker_id in message + daemon.errors, f"{hit}: the answer or the log names {worker_id}: {message}")
    else:
        promised(answer.status == 200, f"{hit}: {worker_id} is there: {answer.body!r}")
        found = answer.ok("transcript", "TranscriptProjection")["items"]
        promised(found == list(entries), f"{hit}: the transcript of {worker_id} is as it was, or damaged")
    events, diagnostic = observed(daemon, worker_id, log[-1]["cursor"])
    wanted = list(log if diagnostic is None else log[: len(events)])
    promised(events == wanted, f"{hit}: the events of {worker_id} are as they were, or damaged")
    return answer.status == 500 or diagnostic is not None


def observed(daemon: Daemon, worker_id: str, upto: str) -> tuple[Events, Any]:
    """Return the events from the start up to a cursor, or up to an error."""
    events: list[dict[str, Any]] = []
    try:
        with daemon.observe(worker_id, ZERO) as observer:
            frame = observer.frame()
            while frame["kind"] == "event" and frame["envelope"]["cursor"] != upto:
                frame = observer.frame()
                if frame["kind"] == "event":
                    events.append(frame["envelope"])
            return events, frame.get("diagnostic")
    except InvalidStatus as refused:
        promised(refused.response.status_code == 500, f"{worker_id} is observed, or damaged: {refused}")
        return events, json.loads(refused.response.body)["error"]


def damage_each_place(launch: Launch, scene: Scene, name: str, without: str | None = None) -> None:
    """Flip a bit in the text of one Worker in a file. Raises Broken unless only that Worker is damaged."""
    found = [
        place for place in places(scene.copies.original / name, MARK) if name == DATABASE or place < scene.middle
    ]
    assert len(found) >= 4, "what was said to and by the Worker, as entries and as events"
    entries = 0
    for place in found:
        folder = scene.copies.make()
        flip(folder / name, place + len(MARK) // 2)
        daemon = up(launch(store=folder, without=without))
        hit = f"byte {place} of {name}"
        promised(check_told(daemon, scene.hit, scene.shown[scene.hit], hit), f"{hit}: {scene.hit} is damaged")
        entries += daemon.call("GET", f"/v1/workers/{scene.hit}/transcript").status == 500
        check_others(daemon, scene)
        daemon.stop()
    promised(entries >= 2, f"a damaged entry is answered with store_corrupt: {entries}")


def test_a_flipped_bit_in_the_database_damages_that_worker_alone(launch: Launch, scene: Callable[..., Scene]) -> None:
    damage_each_place(launch, scene(Daemon.stop), DATABASE)


def test_a_flipped_bit_in_the_middle_of_the_log_damages_that_worker_alone(
    launch: Launch, scene: Callable[..., Scene]
) -> None:
    damage_each_place(launch, scene(Daemon.kill), LOG)


def test_the_check_sees_rows_without_checksums(launch: Launch, scene: Callable[..., Scene]) -> None:
    made = scene(Daemon.stop, without="row_checksums")
    with pytest.raises(Broken, match=r"as it was|as they were"):
        damage_each_place(launch, made, DATABASE, without="row_checksums")


def test_the_check_sees_a_log_that_is_taken_for_torn_wherever_it_is_damaged(
    launch: Launch, scene: Callable[..., Scene]
) -> None:
    made = scene(Daemon.kill)
    with pytest.raises(Broken, match=r"the transcript of .* is as it was, or damaged"):
        damage_each_place(launch, made, LOG, without="check_of_the_log")


@pytest.mark.parametrize(("name", "end"), [(DATABASE, Daemon.stop), (LOG, Daemon.kill)])
def test_a_flipped_bit_anywhere_never_leads_to_wrong_data(
    launch: Launch,
    scene: Callable[..., Scene],
    chance: random.Random,
    rounds: Rounds,
    name: str,
    end: Callable[[Daemon], None],
) -> None:
    made = scene(end)
    whole = 0, (made.copies.original / name).stat().st_size
    first, behind = (LOG_HEADER_BYTES, made.middle) if name == LOG else whole
    for _ in range(rounds(3, 200)):
        check_nothing_wrong(launch, made, name, chance.randrange(first, behind), chance.randrange(8))


def test_a_flipped_bit_in_the_head_of_the_log_never_leads_to_wrong_data(
    launch: Launch, scene: Callable[..., Scene]
) -> None:
    made = scene(Daemon.kill)
    for field in range(0, LOG_HEADER_BYTES, FIELD_BYTES):
        check_nothing_wrong(launch, made, LOG, field + 2, 4)


def check_nothing_wrong(launch: Launch, scene: Scene, name: str, place: int, bit: int) -> None:
    """Check that an unusable store is refused in one line, and that served data is correct or reported as damaged."""
    folder, hit = scene.copies.make(), f"bit {bit} of byte {place} of {name}"
    flip(folder / name, place, bit)
    daemon = launch(store=folder)
    try:
        daemon.ready()
    except AssertionError:
        promised(daemon.ended() == 1, f"{hit}: the start is refused")
        promised(len([one for one in daemon.errors.splitlines() if one.startswith("runtimed: ")]) == 1, hit)
        daemon.clean()
        return
    for worker_id, shown in scene.shown.items():
        check_told(daemon, worker_id, shown, hit)
    daemon.stop()


@dataclass
class Torn:
    """The store of a daemon that died after it had written an input of MARK, but before it had synced it.

    Attributes:
        acked: The size of the log before that input, in bytes.
        end: The size of the log.
    """

    scene: Scene
    acked: int
    end: int


@pytest.fixture
def torn(
    scene: Callable[..., Scene],
    chance: random.Random,
    ledger: Ledger,
    tmp_path: Path,
    require: Require,
) -> Callable[..., Torn]:
    """Make a store."""

    def make(without: str | None = None) -> Torn:
        require("strace", root=True)
        log = tmp_path / "store" / LOG
        sizes: list[int] = []

        def die_at_the_next_sync(daemon: Daemon) -> None:
            sizes.append(log.stat().st_size)
            with attached(daemon, "signal=KILL", tmp_path / "strace"):
                ledger.send(daemon, daemon.workers()[0]["worker_id"], long_text(chance))
                daemon.kill()
            sizes.append(log.stat().st_size)

        made = scene(die_at_the_next_sync, without)
        acked, end = sizes
        assert acked < end, "something was written that was not synced"
        return Torn(made, acked, end)

    return make


def check_torn(launch: Launch, torn: Torn, tear: Callable[[Path], None], without: str | None = None) -> None:
    """Check that a start on a torn log has everything that was acknowledged, and nothing in part."""
    folder = torn.scene.copies.make()
    tear(folder / LOG)
    daemon = up(launch(store=folder, without=without))
    torn.scene.ledger.check(daemon)
    daemon.stop()


def test_a_torn_tail_loses_only_what_was_not_acknowledged(
    launch: Launch,
    torn: Callable[..., Torn],
    chance: random.Random,
    rounds: Rounds,
) -> None:
    made = torn()
    tears: Sequence[Callable[[Path], None]] = [
        lambda log: cut(log, made.acked),
        lambda log: cut(log, chance.randint(made.acked, made.end)),
        lambda log: blank(log, chance.randrange(made.acked, made.end)),
    ]
    for number in range(rounds(3, 100)):
        check_torn(launch, made, tears[number % len(tears)])


def test_the_check_sees_an_acknowledgement_before_the_sync(launch: Launch, torn: Callable[..., Torn]) -> None:
    made = torn(without="synchronous_full")
    with pytest.raises(Broken, match=r"was acknowledged and is there"):
        check_torn(launch, made, lambda log: cut(log, made.acked), without="synchronous_full")


def test_the_check_sees_a_torn_tail_that_is_read_as_whole(launch: Launch, torn: Callable[..., Torn]) -> None:
    made = torn()

    def tear(log: Path) -> None:
        found = [place for place in places(log, MARK) if place >= made.acked]
        assert found, "the input as an entry and as an event"
        for place in found:
            blank(log, place)

    check_torn(launch, made, tear)
    with pytest.raises(Broken, match=r"its (transcript|events) can be read"):
        check_torn(launch, made, tear, without="torn_tail")
