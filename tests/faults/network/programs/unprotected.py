"""Runs the daemon with one protection taken out, so that a test can show that it notices: NAME, then the options.

Each function below takes one out. All fail when what they replace is no longer there.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put `make(old)` in place of an attribute."""
    setattr(owner, name, make(getattr(owner, name)))


def pings() -> None:
    """Observers are not pinged."""
    from runtimed.http.streaming.sockets import FeedSocket

    replace(FeedSocket, "beat", lambda _: lambda *_, **__: None)


def acknowledgements() -> None:
    """What the reader of an event stream does not acknowledge is sent to it again and again."""
    from runtimed.http.streaming import server_sent_events

    replace(server_sent_events, "_expect_acknowledgements", lambda _: lambda *_: None)


def settling() -> None:
    """Who is heard of is asked before what came is read."""
    from runtimed.http.streaming.heartbeat import Heartbeat

    replace(Heartbeat, "_settle", lambda _: lambda self, due: self._beat(due))


def leniency() -> None:
    """Only who is heard of is alive, whatever it takes meanwhile."""
    from runtimed.feed.observer import Observer

    replace(Observer, "took_some", lambda _: lambda _: False)


def bounded_buffers() -> None:
    """What an observer does not read is kept for it without a bound."""
    from runtimed.http.server.connection import Connection

    def make(old: Callable[..., None]) -> Callable[..., None]:
        def connection_made(self: Any, transport: Any) -> None:
            transport.set_write_buffer_limits(high=2**30)
            old(self, transport)

        return connection_made

    replace(Connection, "connection_made", make)


def replay() -> None:
    """Whoever comes back begins with what is new."""
    from runtimed.feed import Feed

    def make(old: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, view, cursor, *given: old(
            self, view, None if cursor and cursor.sequence else cursor, *given
        )

    replace(Feed, "_log", make)


def patience() -> None:
    """An agent whose process stands still is taken for dead."""
    from runtimed.execution.processes.tree import Tree

    def stands_still(pid: int) -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    async def bite(tree: Any) -> None:
        while not stands_still(tree._root.pid):
            await asyncio.sleep(0.1)
        await tree._kill()

    def make(old: Callable[..., Any]) -> Callable[..., Any]:
        async def watch(self: Any, descriptor: int) -> int:
            biting = asyncio.create_task(bite(self))
            try:
                return int(await old(self, descriptor))
            finally:
                biting.cancel()

        return watch

    replace(Tree, "_watch", make)


def quiet() -> None:
    """A connection that can't be taken in is tried again at once, and logged each time."""
    from runtimed.http.server import acceptor

    for name in ("PAUSE_S", "SILENCE_S"):
        replace(acceptor, name, lambda _: 0)


def recovery() -> None:
    """When a connection can't be taken in, none is any more."""
    from runtimed.http.server.acceptor import Acceptor

    replace(Acceptor, "_wait", lambda _: lambda self, _error: self._loop.remove_reader(self._sock))


def farewell() -> None:
    """Observers are not told of the end: their connections are closed, and no more."""
    from runtimed.http.streaming import sockets

    async def silent(request: Any, *_: object) -> None:
        request.transport.abort()

    replace(sockets, "_say_goodbye", lambda _: silent)


def drain_limit() -> None:
    """The end waits until every observer has left."""
    from runtimed.http.streaming.streams import Streams

    async def close(self: Any) -> None:
        await self._idle.wait()

    replace(Streams, "close", lambda _: close)


def steady_clock() -> None:
    """Time-outs are measured by the time of day."""
    import time

    uvloop()
    replace(time, "monotonic", lambda _: time.time)


def steady_expiry() -> None:
    """How old an event is is told by the time of day."""
    import time

    from runtimed.core import runtime

    class WallClock:
        def unix_ms(self) -> int:
            return time.time_ns() // 1_000_000

    replace(runtime, "SteadyClock", lambda _: WallClock)


def honesty() -> None:
    """An observer that retention has overtaken is not told, and goes on with what there is."""
    from runtimed.core.runtime import Runtime
    from runtimed.errors import CursorExpired

    def make(old: Callable[..., Any]) -> Callable[..., Any]:
        async def events(self: Any, ref: Any, after: int, *rest: Any) -> Any:
            while True:
                try:
                    return await old(self, ref, after, *rest)
                except CursorExpired:
                    after = self.retained_after(ref)

        return events

    replace(Runtime, "events", make)


def control_groups() -> None:
    """What agents use is only looked at."""
    from runtimed.execution.processes import cgroup

    replace(cgroup, "available", lambda _: lambda: None)


def limits() -> None:
    """Agents may use what they like."""
    from runtimed.execution.processes.supervisor import NO_LIMITS
    from runtimed.execution.profile import Profile

    replace(Profile, "tree_limits", lambda _: NO_LIMITS)


class _Alone:
    """A containment that knows the program itself and nothing of what that has started."""

    def argv(self, command: Any) -> list[str]:
        return list(command)

    def environment(self, mark: str, owner: str) -> dict[str, str]:
        return {}

    def members(self, root: int, mark: str) -> list[int]:
        return [root]

    def holders(self, root: int, mark: str, pipe: int) -> list[int]:
        return [root]

    def terminate(self, root: int, mark: str) -> None:
        os.kill(root, signal.SIGTERM)

    def kill(self, root: int, mark: str) -> list[int]:
        os.kill(root, signal.SIGKILL)
        dead = Path(f"/proc/{root}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        return [] if dead else [root]


def containment() -> None:
    """Only the program that was started is ended, not what it has started."""
    from runtimed.execution.processes.limits import Sampling
    from runtimed.execution.processes.supervisor import Supervisor

    replace(Supervisor, "__init__", lambda old: lambda self, **given: old(self, _Alone, Sampling, **given))


def reaping() -> None:
    """What is left to process 1 is not reaped."""
    from runtimed.execution.processes import orphans

    replace(orphans, "reap", lambda _: lambda _own: None)


def sweeping() -> None:
    """What a killed daemon has left is not looked for."""
    from runtimed.execution.processes import orphans

    replace(orphans, "sweep", lambda _: lambda _runtime_id: None)


def force() -> None:
    """An agent is asked to end, and that is all."""
    from runtimed.execution.processes.tree import Tree

    async def end(self: Any, grace: float) -> None:
        await asyncio.wait({self.exit})

    replace(Tree, "end", lambda _: end)


def closing() -> None:
    """The pipes of an agent that has ended are not closed."""
    from runtimed.execution.processes.line_process import LineProcess

    replace(LineProcess, "_close", lambda _: lambda _self: None)


def bounded_lines() -> None:
    """A line is kept until its end, however long it is."""
    from runtimed.execution.processes.lines import LineBuffer

    replace(LineBuffer, "__init__", lambda old: lambda self, _max: old(self, 2**40))


def replacement() -> None:
    """Output must be UTF-8."""
    import codecs

    from runtimed.execution.session.text_output import OpenText

    def make(old: Callable[..., None]) -> Callable[..., None]:
        def init(self: Any, *arguments: Any, **named: Any) -> None:
            old(self, *arguments, **named)
            self._decoder = codecs.getincrementaldecoder("utf-8")("strict")

        return init

    replace(OpenText, "__init__", make)


def uvloop() -> None:
    """Not a protection: the event loop of the standard library, which a daemon without uvloop has."""
    sys.modules["uvloop"] = None  # type: ignore[assignment] # an import of it fails then


PROTECTIONS = (
    pings,
    acknowledgements,
    settling,
    leniency,
    bounded_buffers,
    replay,
    patience,
    quiet,
    recovery,
    farewell,
    drain_limit,
    steady_clock,
    steady_expiry,
    honesty,
    control_groups,
    limits,
    containment,
    reaping,
    sweeping,
    force,
    closing,
    bounded_lines,
    replacement,
    uvloop,
)


def main() -> None:
    {one.__name__: one for one in PROTECTIONS}[sys.argv.pop(1)]()
    from runtimed.cli import main as runtimed

    runtimed()


if __name__ == "__main__":
    main()
