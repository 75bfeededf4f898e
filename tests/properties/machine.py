"""The state machine: what clients, backends, disks and observers do, in any order."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from runtimed.core import Runtime
from runtimed.core.limits import Limits
from runtimed.model.execution import Outcome
from runtimed.model.interaction import InputKind, WhenBusy
from tests.properties.checks import check_at_rest, check_now, settle
from tests.properties.fakes import CrashableFolder, CrashableMemory
from tests.properties.harness import Harness, Request
from tests.properties.model import SAYINGS, Story
from tests.properties.watcher import Watcher

MAX_WORKERS = 4
MAX_WATCHERS = 5

SEAM = "seam"
"""The cursor where the events in memory begin. Few histories come upon it by chance."""

ANY = st.integers(0, 9)
PATIENT = st.booleans()
KIND = st.sampled_from(["user", "system"])
OUTCOMES = st.sampled_from(["accepted", "accepted", "accepted", "accepted", "busy", "errored"])
WHEN_BUSY = st.sampled_from(["reject", "reject", "queue", "interrupt"])
LABELS = st.sampled_from([dict[str, str](), {"team": "a"}, {"team": "b"}])
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
    """Drives a Runtime over the store that `storage` makes, through restarts, next to a Harness that checks it.

    No rule has a precondition: what is drawn must not depend on the progress of a thread or a timer. A rule without
    anything to do does nothing.
    """

    storage: ClassVar[Callable[[], CrashableMemory | CrashableFolder]] = CrashableMemory
    runtime: ClassVar[Callable[..., Runtime]] = Runtime

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self._harness: Harness | None = None
        self.sound = False

    @property
    def harness(self) -> Harness:
        assert self._harness is not None
        return self._harness

    def do(self, work: Coroutine[Any, Any, Any]) -> None:
        self.sound = False
        self.runner.run(self._step(work))
        self.sound = True

    async def _step(self, work: Coroutine[Any, Any, Any]) -> None:
        await work
        self.harness.collect()
        check_now(self.harness)

    @initialize(limits=LIMITS, ring_bytes=st.sampled_from([2**20, 2_000, 300]), workers=st.integers(1, 2))
    def begin(self, limits: Limits, ring_bytes: int, workers: int) -> None:
        self._harness = Harness(type(self).storage(), limits, ring_bytes, type(self).runtime)
        self.do(self._begin(workers))

    async def _begin(self, workers: int) -> None:
        asyncio.get_running_loop().set_exception_handler(self.harness.object_to)
        await self.harness.start()
        for _ in range(workers):
            await self.harness.wait(self.harness.create({"team": "a"}, None, "accepted"))

    def teardown(self) -> None:
        try:
            if self.sound:
                self.do(self._end())
        finally:
            if self._harness is not None and not self._harness.life.over:
                self.runner.run(self._harness.let_go())
            self.runner.close()
            if self._harness is not None:
                self._harness.tear_down()

    async def _end(self) -> None:
        if not self.harness.life.over:
            await self._rest()
            await self.harness.close()
            check_now(self.harness)
            await self.harness.check_store(crashed=False)

    async def _rest(self) -> None:
        await settle(self.harness)
        await check_at_rest(self.harness)

    # Clients

    @rule(labels=LABELS, revision=st.none() | st.integers(0, 3), outcome=OUTCOMES, patient=PATIENT)
    def create(self, labels: dict[str, str], revision: int | None, outcome: Outcome, patient: bool) -> None:
        if len(self.harness.present) < MAX_WORKERS:
            self._asked(lambda: self.harness.create(labels, revision, outcome), patient)

    @rule(revision=st.integers(0, 3), patient=PATIENT)
    def put_bundle(self, revision: int, patient: bool) -> None:
        self._asked(lambda: self.harness.put_bundle(revision), patient)

    @rule(who=ANY, kind=KIND, outcome=OUTCOMES, when_busy=WHEN_BUSY, patient=PATIENT, keyed=st.booleans())
    def send(
        self, who: int, kind: InputKind, outcome: Outcome, when_busy: WhenBusy, patient: bool, keyed: bool
    ) -> None:
        self._asked(lambda: self.harness.send(self._story(who), kind, outcome, when_busy, keyed=keyed), patient)

    @rule(who=ANY, which=ANY, patient=PATIENT)
    def repeat(self, who: int, which: int, patient: bool) -> None:
        self._asked(lambda: self.harness.repeat(self._story(who), which), patient)

    @rule(who=ANY, patient=PATIENT)
    def interrupt(self, who: int, patient: bool) -> None:
        self._asked(lambda: self.harness.interrupt(self._story(who)), patient)

    @rule(who=ANY, outcome=OUTCOMES, patient=PATIENT)
    def restore(self, who: int, outcome: Outcome, patient: bool) -> None:
        self._asked(lambda: self.harness.restore(self._story(who), outcome), patient)

    @rule(who=ANY, which=ANY, option=st.sampled_from(["yes", "no", None]), patient=PATIENT)
    def answer(self, who: int, which: int, option: str | None, patient: bool) -> None:
        self._asked(lambda: self.harness.answer(self._story(who), which, option), patient)

    @rule(who=ANY, operation=st.sampled_from(["stop", "cancel", "delete"]), patient=PATIENT)
    def end(self, who: int, operation: str, patient: bool) -> None:
        self._asked(lambda: self.harness.end(self._story(who), operation), patient)

    @rule(which=ANY)
    def hang_up(self, which: int) -> None:
        asked = [request for request in self.harness.requests if request.kind != "say"]
        if asked:
            self.do(self.harness.hang_up(asked[which % len(asked)]))

    def _asked(self, ask: Callable[[], Request | None], patient: bool) -> None:
        async def work() -> None:
            request = ask()
            await asyncio.sleep(0)
            if patient and request is not None:
                await self.harness.wait(request)

        self.do(work())

    def _story(self, who: int) -> Story:
        """Return one of the Workers, connected ones first."""
        stories = sorted(self.harness.stories, key=lambda story: not story.connected)
        return stories[who % len(stories)]

    # The backend

    @rule(who=ANY, kinds=TALK, times=st.sampled_from([1, 1, 10]))
    def say(self, who: int, kinds: list[str], times: int) -> None:
        async def work() -> None:
            for _ in range(times):
                self.harness.say(self._story(who), kinds)
                await asyncio.sleep(0)

        self.do(work())

    @rule(who=ANY, kind=KIND, kinds=TALK, times=st.integers(1, 4))
    def converse(self, who: int, kind: InputKind, kinds: list[str], times: int) -> None:
        async def work() -> None:
            story = self._story(who)
            for _ in range(times if self.harness.calm else 0):
                await self.harness.wait(self.harness.send(story, kind, "accepted"))
                for said in (kinds, ["text_done", "run_end"]):
                    if request := self.harness.say(story, said):
                        await self.harness.wait(request)
                self.harness.collect()

        self.do(work())

    @rule(who=ANY, timeout_s=st.sampled_from([0.0, 1_000.0]), times=st.integers(1, 3))
    def want(self, who: int, timeout_s: float, times: int) -> None:
        async def work() -> None:
            for _ in range(times):
                self.harness.want(self._story(who), timeout_s)
                await asyncio.sleep(0)

        self.do(work())

    @rule()
    def the_backend_hesitates_or_goes_on(self) -> None:
        self.harness.interfere()
        may = self.harness.life.backend.may
        may.clear() if may.is_set() else may.set()

    # The disk, and time

    @rule(what=st.sampled_from(["slow", "fast", "full", "empty"]))
    def the_disk_becomes(self, what: str) -> None:
        async def work() -> None:
            await self.harness.disk(what)

        self.do(work())

    @rule(turns=st.integers(1, 20), writes=st.integers(0, 3), seconds=st.sampled_from([0, 0, 1, 30, 100]))
    def time_passes(self, turns: int, writes: int, seconds: int) -> None:
        self.do(self.harness.pass_time(turns, writes, seconds))

    @rule()
    def everything_comes_to_rest(self) -> None:
        self.do(self._rest())

    # Observers

    @rule(
        who=st.none() | ANY,
        wired=st.booleans(),
        cursor=st.none() | st.integers(0, 10_000) | st.just(SEAM),
        names=st.sampled_from([(), (), ("text_done", "run_end", "user_message")]),
        labels=st.sampled_from([(), (), (("team", "a"),)]),
    )
    def observe(
        self,
        who: int | None,
        wired: bool,
        cursor: int | str | None,
        names: tuple[str, ...],
        labels: tuple[tuple[str, str], ...],
    ) -> None:
        if len(self.harness.watchers) == MAX_WATCHERS:
            return
        worker_id = None if who is None else self._story(who).worker_id
        watcher = Watcher(worker_id, wired, frozenset(names), frozenset(labels))
        self.harness.watchers.append(watcher)
        after = self.harness.seam(worker_id) if isinstance(cursor, str) else cursor
        self.do(self._join(watcher, None if after is None else after % (self.harness.runtime.head + 2)))

    @rule(which=ANY)
    def resume(self, which: int) -> None:
        away = [watcher for watcher in self.harness.watchers if not watcher.here]
        if away:
            watcher = away[which % len(away)]
            self.do(self._join(watcher, watcher.place))

    async def _join(self, watcher: Watcher, cursor: int | None) -> None:
        watcher.join(self.harness.life.feed, cursor)
        await asyncio.sleep(0)

    @rule(which=ANY, how=st.sampled_from(["leave", "stick", "flow"]))
    def disturb(self, which: int, how: str) -> None:
        here = [watcher for watcher in self.harness.watchers if watcher.here]
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
        await (self.harness.crash() if how == "crash" else self.harness.close())
        check_now(self.harness)
        await self.harness.check_store(crashed=how == "crash")
        await self.harness.start(full=full)
        await self.harness.wait(self.harness.create({}, None, "accepted"))
