"""The checks of the trial, in the order of the table. Each gives an agent a task, and returns a cell in words."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from daemon import Daemon, Event, Worker
from script import DONE, FORGOTTEN, REMEMBERED, WRITTEN

MINUTE_S = 60
HELLO = "hello to everybody"


class CheckFailed(Exception):
    """The agent did not do what was asked; the text says what is missing."""


def text(worker: Worker, _daemon: Daemon, _home: Path) -> str:
    """Return whether it says what its model says."""
    events = worker.run(f"SAY {HELLO}")
    _require(HELLO in said(events), "its text is not in the feed")
    _require_end(events, "finished")
    return "yes"


def confined(worker: Worker, daemon: Daemon, home: Path) -> str:
    """Return what confines it, after a command of it has looked for the configuration and the key in vain."""
    _require(worker.mechanism != "none", "nothing confines it")
    worker.run(f"RUN cat {daemon.config} {daemon.key} | grep -q . && touch found.txt; touch looked.txt")
    _require((home / "looked.txt").exists(), "the command did not run")
    _require(not (home / "found.txt").exists(), "it can read the configuration or the key")
    return worker.mechanism


def tool(worker: Worker, _daemon: Daemon, home: Path) -> str:
    """Return whether it runs a command, and whether the feed has the output."""
    events = worker.run("RUN echo made > made.txt; echo seen")
    results = [event for event in events if event["event"] == "tool_result"]
    _require((home / "made.txt").exists(), "the command did not run")
    _require(bool(results), "there is no tool_result")
    _require_end(events, "finished")
    return "yes" if any("seen" in str(event["data"]) for event in results) else "without its output"


def permission(worker: Worker, _daemon: Daemon, _home: Path) -> str:
    """Return the kind of permission that it asks for before it runs a command."""
    kinds = [item["tool_kind"] for item in items(worker.run("RUN touch asked.txt; echo asked"), "permission_request")]
    _require(bool(kinds), "it did not ask")
    return ", ".join(dict.fromkeys(kinds))


def denied(worker: Worker, _daemon: Daemon, home: Path) -> str:
    """Return what follows a denial."""
    events = worker.run("RUN touch denied.txt; echo denied", "reject_once")
    _require(not (home / "denied.txt").exists(), "the command ran all the same")
    return "told the model" if DONE in said(events) else "ended the run"


def interrupt(worker: Worker, _daemon: Daemon, home: Path) -> str:
    """Return whether an interrupt ends the run of a command, and the agent stays."""
    started = home / "started.txt"
    events = worker.run("RUN touch started.txt; sleep 300", until=started.exists)
    _require(started.exists(), "the command did not run")
    _require_end(events, "rolled_back")
    return "restarted" if any("started again" in str(event) for event in events) else "yes"


def restart(worker: Worker, daemon: Daemon, _home: Path) -> str:
    """Return whether the model is given the conversation again after a restart of the daemon, in another minute.

    Gemini CLI 0.61.0 overwrites a conversation that it loads in the minute in which the session was opened.
    """
    daemon.stop()
    time.sleep(MINUTE_S - time.time() % MINUTE_S)
    daemon.start()
    answer = said(worker.run(f"RECALL {HELLO}"))
    _require(REMEMBERED in answer or FORGOTTEN in answer, "it does not answer after the restart")
    return "resumed" if REMEMBERED in answer else "new session"


def diff(worker: Worker, _daemon: Daemon, home: Path) -> str:
    """Return whether a file that it writes is shown as a diff."""
    events = worker.run(f"WRITE {home / 'written.txt'}")
    _require((home / "written.txt").exists(), "the file is not there")
    shown = [str(item.get("new_text")).strip() for item in items(events, "diff")]
    return "yes" if WRITTEN.strip() in shown else "none"


CHECKS: Mapping[str, Callable[[Worker, Daemon, Path], str]] = {
    check.__name__: check for check in (text, confined, tool, permission, denied, interrupt, restart, diff)
}


def said(events: Sequence[Event]) -> str:
    """Return what the agent said."""
    return "".join(event["data"]["text"] for event in events if event["event"] == "text_done")


def items(events: Sequence[Event], kind: str) -> list[Event]:
    """Return the items of a kind."""
    found = (event["data"]["item"] for event in events if event["event"] == "system_item")
    return [item for item in found if item["kind"] == kind]


def _require(is_so: bool, missing: str) -> None:
    if not is_so:
        raise CheckFailed(missing)


def _require_end(events: Sequence[Event], result: str) -> None:
    ends = [event["data"]["result"] for event in events if event["event"] == "run_end"]
    _require(ends == [result], f"its run ended as {', '.join(ends)} instead of {result}")
