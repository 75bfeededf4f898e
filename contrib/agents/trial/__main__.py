"""`make agents`: install the agents of contrib/agents, run the same task by each, and print a table.

The model is scripted, on loopback, so nothing is spent. It demands a key, which the gateway of the recipe has and the
agent has not. Each agent is installed from npm or PyPI into a folder below `--folder`. ONLY="codex qwen" tries some.
PAGE=1 also writes the rows into the documentation.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from agents import AGENTS, PROFILE, Agent, installed
from checks import CHECKS, CheckFailed
from daemon import Daemon, Worker
from page import PAGE, insert, row
from providers import KEY, serving
from warm import ratio

COLUMNS = ("agent", "version", *CHECKS, "warm/cold")
NO = "no"
FAILURES = (CheckFailed, RuntimeError, TimeoutError, OSError, LookupError)


def main() -> int:
    """Try the agents, and print the table. The exit status is 0 even if an agent does not pass."""
    parser = argparse.ArgumentParser("make agents", description="Try the agents of contrib/agents.")
    names = [agent.name for agent in AGENTS]
    parser.add_argument("only", nargs="*", metavar="AGENT", help=f"which of {', '.join(names)} [all]")
    parser.add_argument("--folder", type=Path, default=Path("build/agents"), help="[build/agents]")
    parser.add_argument("--page", action="store_true", help="write the rows into docs/how-to/agents.md")
    given = parser.parse_args()
    if unknown := set(given.only) - set(names):
        parser.error(f"there is no agent {min(unknown)!r}: expected {', '.join(names)}")
    chosen = [agent for agent in AGENTS if not given.only or agent.name in given.only]
    print(row(COLUMNS), row(["---"] * len(COLUMNS)), sep="\n", flush=True)
    rows = []
    with serving() as url:
        for agent in chosen:
            rows.append(tried(agent, given.folder.resolve() / agent.name, url))
            print(row(rows[-1]), flush=True)
    if given.page:
        PAGE.write_text(insert(PAGE.read_text(), COLUMNS, rows))
    return 0


def tried(agent: Agent, folder: Path, url: str) -> Sequence[str]:
    """Return the row of an agent."""
    if not installed(agent, folder / "program"):
        return [agent.name, "not installed", *[""] * (len(COLUMNS) - 2)]
    trial = folder / f"trial-{time.time():.0f}"
    configuration = agent.configuration(folder / "program", url, key := _key_file(trial))
    capabilities = configuration["profiles"][PROFILE]["capabilities"]
    daemon = Daemon(trial, configuration, key)
    daemon.start()
    try:
        worker = Worker(daemon, capabilities, PROFILE)
        if not worker.is_ready:
            sys.stderr.write(f"{agent.name}: {worker.refusal}\n")
            return [agent.name, agent.version(folder / "program"), *[NO] * (len(COLUMNS) - 2)]
        cells = [_checked(agent, name, worker, daemon, trial) for name in CHECKS]
    finally:
        daemon.stop()
    warm = _cell(agent, "warm/cold", lambda: f"{ratio(trial / 'warm', configuration, key):.2f}")
    return [agent.name, agent.version(folder / "program"), *cells, warm]


def _key_file(folder: Path) -> Path:
    """Return a new file with the real key, which only the daemon's user can read."""
    folder.mkdir()
    key = folder / "key"
    key.touch(0o600)
    key.write_text(KEY)
    return key


def _checked(agent: Agent, name: str, worker: Worker, daemon: Daemon, trial: Path) -> str:
    """Return the cell of a check. The events of its run are in a file of the folder."""
    home = trial / "store" / "workers" / worker.id / "home"
    cell = _cell(agent, name, partial(CHECKS[name], worker, daemon, home))
    (trial / f"{name}.json").write_text(json.dumps(worker.events, indent=1))
    return cell


def _cell(agent: Agent, name: str, check: Callable[[], str]) -> str:
    try:
        return check()
    except FAILURES as error:
        sys.stderr.write(f"{agent.name}: {name}: {error}\n")
        return NO


if __name__ == "__main__":
    sys.exit(main())
