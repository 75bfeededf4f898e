"""The processor time of a token by parts of the daemon: `python -m benchmarks.token_cost`.

An agent writes 50 tokens a second through the daemon to one observer. The first run measures the time of each thread.
The second run profiles the threads, and prints the share of each part of the daemon. It prints shares because the
profiler slows Python down.
"""

import cProfile
import os
import pstats
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.__main__ import BUILD
from benchmarks.agents import configure, request
from benchmarks.cases.model_pace import through_daemon
from benchmarks.processes import python
from benchmarks.servers import Daemon, installed, remove
from benchmarks.ticks import Series
from benchmarks.tokens import agent
from runtimed import cli
from runtimed.store.sqlite.writer import Writer

SERIES = Series(500, 50)
PROFILE = "RUNTIMED_BENCH_PROFILE"
PARTS = {
    "/runtimed/store/sqlite/writer": "writing to SQLite",
    "/runtimed/store/sqlite/transaction": "writing to SQLite",
    "/runtimed/store/": "encoding rows",
    "/runtimed/wire/": "encoding rows",
    "/runtimed/core/": "deciding, and telling the feed",
    "/runtimed/feed/": "making and writing frames",
    "/runtimed/execution/acp/": "what the agent says, as events",
    "/acp/": "the library for ACP",
    "/runtimed/execution/": "reading lines from the pipe",
    "/asyncio/": "asyncio's tasks and events",
}


def main() -> int:
    """Measure, profile and print."""
    folder = BUILD / "token_cost"
    configure(folder, {"speaker": agent()}, backend="acp")
    try:
        with _daemon(installed(), folder) as daemon:
            worker = _worker(daemon)
            before = _threads(daemon.pid)
            spoken = through_daemon(daemon, worker, SERIES)
            for name, seconds in sorted((_threads(daemon.pid) - before).items()):
                print(f"{name}: {seconds * 1_000 / SERIES.count:.2f} ms a token")
        print(f"in all: {spoken.cpu_ms:.2f} ms a token")
        with _daemon(python("benchmarks.token_cost", "daemon"), folder) as daemon:
            worker = _worker(daemon)
            os.kill(daemon.pid, signal.SIGUSR2)
            through_daemon(daemon, worker, SERIES)
        for part, share in _shares(folder):
            print(f"{share:4.0%} {part}")
    finally:
        remove(folder)
    return 0


def _daemon(program: list[str], folder: Path) -> Daemon:
    os.environ[PROFILE] = str(folder / "profile")
    return Daemon(program, folder, store=f"fs:{folder / 'store'}")


def _worker(daemon: Daemon) -> str:
    """Create a Worker that has emitted tokens before, so that first-use imports do not count."""
    worker = daemon.create_worker(**request("speaker"))
    through_daemon(daemon, worker, Series(10, 50))
    return worker


def _threads(pid: int) -> Counter[str]:
    """Return the seconds that the main thread and all others have run."""
    ran: Counter[str] = Counter()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        name = "event loop" if thread.name == str(pid) else "other threads, the store's writer above all"
        ran[name] += int((thread / "schedstat").read_text().split()[0])
    return Counter({name: nanoseconds / 1e9 for name, nanoseconds in ran.items()})


def _shares(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield the parts by share. The time of built-in functions counts for their callers."""
    spent: Counter[str] = Counter()
    for file in folder.glob("profile.*"):
        stats: Mapping[Any, Any] = pstats.Stats(str(file)).stats  # type: ignore[attr-defined]
        for (name, _, _), (_, _, own, _, callers) in stats.items():
            if name == "~":
                for (caller, _, _), (_, _, part, _) in callers.items():
                    spent[_part(caller)] += part
            else:
                spent[_part(name)] += own
    for part, seconds in spent.most_common():
        yield part, seconds / sum(spent.values())


def _part(file: str) -> str:
    return next((part for place, part in PARTS.items() if place in file), "the rest")


def _profiled() -> None:
    """Run the daemon, with both threads under a profiler from SIGUSR2 on."""
    file = os.environ[PROFILE]
    loop, writer = (cProfile.Profile(time.thread_time) for _ in range(2))
    signal.signal(signal.SIGUSR2, lambda *_: loop.enable())
    write = Writer._run  # noqa: SLF001 a thread is profiled from within

    def run(self: Writer) -> None:
        writer.runcall(write, self)
        writer.dump_stats(f"{file}.writer")

    Writer._run = run  # type: ignore[method-assign]  # noqa: SLF001 the same
    sys.argv.remove("daemon")
    try:
        cli.main()
    finally:
        loop.disable()
        loop.dump_stats(f"{file}.loop")


if __name__ == "__main__":
    if "daemon" in sys.argv:
        _profiled()
    else:
        sys.exit(main())
