"""The state machine: what clients, backends, disks and observers do, in any order."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from runtimed.core import Runtime
from runtimed.core.limits import Limits
from tests.properties.checks import check_at_rest, check_now, settle
from tests.properties.grounds import FolderGround, MemoryGround
from tests.properties.model import SAYINGS
from tests.properties.watcher import Watcher
from tests.properties.world import World

MAX_WORKERS = 4
MAX_WATCHERS = 5

ANY = st.integers(0, 9)
PATIENT = st.booleans()
KIND = st.sampled_from(["user", "system"])
OUTCOMES = st.sampled_from(["accepted", "accepted", "accepted", "accepted", "busy", "errored"])
WHEN_BUSY = st.sampled_from(["reject", "reject", "queue", "interrupt"])
LABELS = st.sampled_from([{}, {"team": "a"}, {"team": "b"}])
TALK = st.lists(st.sampled_from(sorted(SAYINGS)), min_size=1, max_size=6)
LIMITS = st.builds(
    Limits,
    max_transcript_projection_items=st.sampled_from([256, 4]),
    max_event_batch_items=st.sampled_from([256, 3]),
    max_pending_events=st.sampled_from([256, 3]),
    max_pending_permissions=st.sampled_from([64, 1]),
    max_queued_inputs=st.sampled_from([64, 1]),
    max_events_per_worker=st.sampled_from([100_000, 16, 5]),
    max_event_bytes=st.sampled_from([2**30, 2_000]),
    max_runtime_events=st.sampled_from([100_000, 10, 3]),
    max_event_age_s=st.sampled_from([2**20, 60]),
)


class RuntimeMachine(RuleBasedStateMachine):
    """Drives a Runtime over the store that `ground` makes, through restarts, next to a World that knows the truth.

    No rule has a precondition: what is drawn must not depend on how far a thread or a timer has come. A rule that
    there is nothing to do for does nothing.
    """

    ground: ClassVar[Callable[[], MemoryGround | FolderGround]] = MemoryGround
    runtime: ClassVar[Callable[..., Runtime]] = Runtime

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world: World | None = None
        self.sound = False

    def do(self, work: Coroutine[Any, Any, Any]) -> None:
        self.sound = False
        self.runner.run(self._step(work))
        self.sound = True

    async def _step(self, work: Coroutine[Any, Any, Any]) -> None:
        await work
        self.world.collect()
        check_now(self.world)

    @initialize(limits=LIMITS, ring_bytes=st.sampled_from([2**20, 2_000, 300]), workers=st.integers(1, 2))
    def begin(self, limits: Limits, ring_bytes: int, workers: int) -> None:
        self.world = World(type(self).ground(), limits, ring_bytes, type(self).runtime)
        self.do(self._begin(workers))

    async def _begin(self, workers: int) -> None:
        asyncio.get_running_loop().set_exception_handler(self.world.object_to)
        await self.world.start()
        for _ in range(workers):
            await self.world.wait(self.world.create({"team": "a"}, None, "accepted"))

    def teardown(self) -> None:
        try:
            if self.sound:
                self.do(self._end())
        finally:
            if self.world is not None and not self.world.life.over:
                self.runner.run(self.world.let_go())
            self.runner.close()
            if self.world is not None:
                self.world.end_of_the_world()

    async def _end(self) -> None:
        if not self.world.life.over:
            await self._rest()
            await self.world.close()
            check_now(self.world)
            await self.world.look_into_the_store(crashed=False)

    async def _rest(self) -> None:
        await settle(self.world)
        await check_at_rest(self.world)

    # Clients

    @rule(labels=LABELS, revision=st.none() | st.integers(0, 3), outcome=OUTCOMES, patient=PATIENT)
    def create(self, labels: dict[str, str], revision: int | None, outcome: str, patient: bool) -> None:
        if len(self.world.present) < MAX_WORKERS:
            self._asked(lambda: self.world.create(labels, revision, outcome), patient)

    @rule(revision=st.integers(0, 3), patient=PATIENT)
    def put_bundle(self, revision: int, patient: bool) -> None:
        self._asked(lambda: self.world.put_bundle(revision), patient)

    @rule(who=ANY, kind=KIND, outcome=OUTCOMES, when_busy=WHEN_BUSY, patient=PATIENT)
    def send(self, who: int, kind: str, outcome: str, when_busy: str, patient: bool) -> None:
        self._asked(lambda: self.world.send(self._story(who), kind, outcome, when_busy), patient)

    @rule(who=ANY, patient=PATIENT)
    def interrupt(self, who: int, patient: bool) -> None:
        self._asked(lambda: self.world.interrupt(self._story(who)), patient)

    @rule(who=ANY, outcome=OUTCOMES, patient=PATIENT)
    def restore(self, who: int, outcome: str, patient: bool) -> None:
        self._asked(lambda: self.world.restore(self._story(who), outcome), patient)

    @rule(who=ANY, which=ANY, option=st.sampled_from(["yes", "no", None]), patient=PATIENT)
    def answer(self, who: int, which: int, option: str | None, patient: bool) -> None:
        self._asked(lambda: self.world.answer(self._story(who), which, option), patient)

    @rule(who=ANY, operation=st.sampled_from(["stop", "cancel", "delete"]), patient=PATIENT)
    def end(self, who: int, operation: str, patient: bool) -> None:
        self._asked(lambda: self.world.end(self._story(who), operation), patient)

    @rule(which=ANY)
    def hang_up(self, which: int) -> None:
        asked = [request for request in self.world.requests if request.kind != "say"]
        if asked:
            self.do(self.world.hang_up(asked[which % len(asked)]))

    def _asked(self, ask: Callable[[], Any], patient: bool) -> None:
        async def work() -> None:
            request = ask()
            await asyncio.sleep(0)
            if patient and request is not None:
                await self.world.wait(request)

        self.do(work())

    def _story(self, who: int) -> Any:
        """One of the Workers; at first those that something runs."""
        stories = sorted(self.world.stories, key=lambda story: not story.connected)
        return stories[who % len(stories)]

    # What runs the Workers

    @rule(who=ANY, kinds=TALK, times=st.sampled_from([1, 1, 10]))
    def say(self, who: int, kinds: list[str], times: int) -> None:
        async def work() -> None:
            for _ in range(times):
                self.world.say(self._story(who), kinds)
                await asyncio.sleep(0)

        self.do(work())

    @rule(who=ANY, kind=KIND, kinds=TALK, times=st.integers(1, 4))
    def converse(self, who: int, kind: str, kinds: list[str], times: int) -> None:
        async def work() -> None:
            story = self._story(who)
            for _ in range(times if self.world.calm else 0):
                await self.world.wait(self.world.send(story, kind, "accepted"))
                for said in (kinds, ["text_done", "run_end"]):
                    if request := self.world.say(story, said):
                        await self.world.wait(request)
                self.world.collect()

        self.do(work())

    @rule(who=ANY, timeout_s=st.sampled_from([0.0, 1_000.0]), times=st.integers(1, 3))
    def want(self, who: int, timeout_s: float, times: int) -> None:
        async def work() -> None:
            for _ in range(times):
                self.world.want(self._story(who), timeout_s)
                await asyncio.sleep(0)

        self.do(work())

    @rule()
    def the_backend_hesitates_or_goes_on(self) -> None:
        self.world.interfere()
        may = self.world.life.puppet.may
        may.clear() if may.is_set() else may.set()

    # The disk, and time

    @rule(what=st.sampled_from(["slow", "fast", "full", "empty"]))
    def the_disk_becomes(self, what: str) -> None:
        async def work() -> None:
            await self.world.disk(what)

        self.do(work())

    @rule(turns=st.integers(1, 20), writes=st.integers(0, 3), seconds=st.sampled_from([0, 0, 1, 30, 100]))
    def time_passes(self, turns: int, writes: int, seconds: int) -> None:
        self.do(self.world.pass_time(turns, writes, seconds))

    @rule()
    def everything_comes_to_rest(self) -> None:
        self.do(self._rest())

    # Observers

    @rule(
        who=st.none() | ANY,
        wired=st.booleans(),
        cursor=st.none() | st.integers(0, 10_000),
        names=st.sampled_from([(), (), ("text_done", "run_end", "user_message")]),
        labels=st.sampled_from([(), (), (("team", "a"),)]),
    )
    def observe(self, who: Any, wired: bool, cursor: int | None, names: Any, labels: Any) -> None:
        if len(self.world.watchers) == MAX_WATCHERS:
            return
        worker_id = None if who is None else self._story(who).worker_id
        watcher = Watcher(worker_id, wired, frozenset(names), frozenset(labels))
        self.world.watchers.append(watcher)
        self.do(self._join(watcher, None if cursor is None else cursor % (self.world.runtime.head + 2)))

    @rule(which=ANY)
    def resume(self, which: int) -> None:
        away = [watcher for watcher in self.world.watchers if not watcher.here]
        if away:
            watcher = away[which % len(away)]
            self.do(self._join(watcher, watcher.place))

    async def _join(self, watcher: Watcher, cursor: int | None) -> None:
        watcher.join(self.world.life.feed, cursor)
        await asyncio.sleep(0)

    @rule(which=ANY, how=st.sampled_from(["leave", "stick", "flow"]))
    def disturb(self, which: int, how: str) -> None:
        here = [watcher for watcher in self.world.watchers if watcher.here]
        if not here:
            return
        watcher = here[which % len(here)]
        if how == "leave":
            self.do(watcher.leave())
        elif how == "stick":
            watcher.flowing.clear()
        else:
            watcher.flowing.set()

    # Restarts

    @rule(how=st.sampled_from(["close", "crash"]), full=st.sampled_from([False, False, True]))
    def restart(self, how: str, full: bool) -> None:
        self.do(self._restart(how, full))

    async def _restart(self, how: str, full: bool) -> None:
        await (self.world.crash() if how == "crash" else self.world.close())
        check_now(self.world)
        await self.world.look_into_the_store(crashed=how == "crash")
        await self.world.start(full=full)
        await self.world.wait(self.world.create({}, None, "accepted"))
