"""`make agents`: install the agents of contrib/agents, run the same task by each, and print a table.

The model is scripted, on loopback, so nothing is spent. Each agent is installed from npm or PyPI into a folder below
`--folder`, and has a home of its own there. ONLY="codex qwen" tries some.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agents import AGENTS, Agent, installed
from daemon import Daemon, Event, Worker
from providers import serving
from script import DONE, WRITTEN

COLUMNS = ("agent", "version", "ready", "text", "tool", "permission", "denied", "interrupt", "restart", "diff")
YES, NO = "yes", "no"
FAILURES = (RuntimeError, TimeoutError, OSError, LookupError)


def main() -> int:
    """Try the agents, and print the table. The exit status is 0 even if an agent does not pass."""
    parser = argparse.ArgumentParser("make agents", description="Try the agents of contrib/agents.")
    names = [agent.name for agent in AGENTS]
    parser.add_argument("only", nargs="*", metavar="AGENT", help=f"which of {', '.join(names)} [all]")
    parser.add_argument("--folder", type=Path, default=Path("build/agents"), help="[build/agents]")
    given = parser.parse_args()
    if unknown := set(given.only) - set(names):
        parser.error(f"there is no agent {min(unknown)!r}: expected {', '.join(names)}")
    chosen = [agent for agent in AGENTS if not given.only or agent.name in given.only]
    print(_row(COLUMNS), _row(["---"] * len(COLUMNS)), sep="\n", flush=True)
    with serving() as url:
        for agent in chosen:
            print(_row(tried(agent, given.folder.resolve() / agent.name, url)), flush=True)
    return 0


def tried(agent: Agent, folder: Path, url: str) -> Sequence[str]:
    """Return the row of an agent."""
    if not installed(agent, folder / "program"):
        return [agent.name, "not installed", *[""] * (len(COLUMNS) - 2)]
    trial = folder / f"trial-{time.time():.0f}"
    profile = agent.profile(folder / "program", url)
    daemon = Daemon(trial, profile)
    daemon.start()
    try:
        began = time.monotonic()
        worker = Worker(daemon, profile["capabilities"])
        ready = f"{time.monotonic() - began:.1f} s"
        if not worker.is_ready:
            sys.stderr.write(f"{agent.name}: {worker.refusal}\n")
            return [agent.name, agent.version(folder / "program"), NO, *[""] * (len(COLUMNS) - 3)]
        home = trial / "store" / "workers" / worker.id / "home"
        cells = [_cell(agent, check, worker, daemon, home) for check in CHECKS]
        return [agent.name, agent.version(folder / "program"), ready, *cells]
    finally:
        daemon.stop()


def _text(worker: Worker, _daemon: Daemon, _home: Path) -> str:
    events = worker.run("SAY hello to everybody")
    return _passed("hello to everybody" in said(events) and ends(events) == ["finished"])


def _tool(worker: Worker, _daemon: Daemon, home: Path) -> str:
    events = worker.run("RUN echo made > made.txt; echo seen")
    told = "".join(str(event["data"]) for event in events if event["event"] == "tool_result")
    return _passed((home / "made.txt").exists() and "seen" in told and ends(events) == ["finished"])


def _permission(worker: Worker, _daemon: Daemon, _home: Path) -> str:
    events = worker.run("RUN touch asked.txt; echo asked")
    kinds = [item["tool_kind"] for item in items(events) if item["kind"] == "permission_request"]
    return ", ".join(dict.fromkeys(kinds)) or NO


def _denied(worker: Worker, _daemon: Daemon, home: Path) -> str:
    events = worker.run("RUN touch denied.txt; echo denied", "reject_once")
    if (home / "denied.txt").exists():
        return NO
    return "told the model" if DONE in said(events) else "ended the run"


def _interrupt(worker: Worker, _daemon: Daemon, _home: Path) -> str:
    began: list[float] = []

    def runs(events: list[Event]) -> bool:
        is_answered = any(item["kind"] == "permission_resolved" for item in items(events))
        if not is_answered and not any(event["event"] == "tool_call_done" for event in events):
            return False
        began.append(time.monotonic())
        return True

    events = worker.run("RUN sleep 300", until=runs)
    after_s = time.monotonic() - began[0]
    return f"{after_s:.1f} s" if ends(events) == ["rolled_back"] else NO


def _restart(worker: Worker, daemon: Daemon, _home: Path) -> str:
    daemon.stop()
    daemon.start()
    events = worker.run("SAY here again")
    lost = any(event["event"] == "alert" and "does not know any more" in str(event["data"]) for event in events)
    if "here again" not in said(events):
        return NO
    return "new session" if lost else "resumed"


def _diff(worker: Worker, _daemon: Daemon, home: Path) -> str:
    events = worker.run(f"WRITE {home / 'written.txt'}")
    if not (home / "written.txt").exists():
        return "no file"
    return _passed(any(item["kind"] == "diff" and item.get("new_text") == WRITTEN for item in items(events)))


CHECKS: tuple[Callable[[Worker, Daemon, Path], str], ...] = (
    _text,
    _tool,
    _permission,
    _denied,
    _interrupt,
    _restart,
    _diff,
)


def said(events: Sequence[Event]) -> str:
    """Return what the agent said."""
    return "".join(event["data"]["text"] for event in events if event["event"] == "text_done")


def ends(events: Sequence[Event]) -> list[str]:
    """Return the results of runs."""
    return [event["data"]["result"] for event in events if event["event"] == "run_end"]


def items(events: Sequence[Event]) -> list[Event]:
    """Return the items of events."""
    return [event["data"]["item"] for event in events if event["event"] == "system_item"]


def _cell(
    agent: Agent, check: Callable[[Worker, Daemon, Path], str], worker: Worker, daemon: Daemon, home: Path
) -> str:
    try:
        return check(worker, daemon, home)
    except FAILURES as error:
        sys.stderr.write(f"{agent.name}: {check.__name__.strip('_')}: {error}\n")
        return NO


def _passed(is_passed: bool) -> str:
    return YES if is_passed else NO


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
