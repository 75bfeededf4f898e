"""The time from a create to a ready agent: a warm one, divided by one that is started for its Worker."""

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from checks import CheckFailed, text
from daemon import POLL_S, Daemon, Worker

COLD, WARM = "builtin:cold", "builtin:warm"
REPETITIONS = 5
WARM_DEADLINE_S = 120.0


def ratio(folder: Path, configuration: Mapping[str, Any], key: Path) -> float:
    """Return the ratio of the medians. The two take turns, and the warm ones are measured once an agent waits.

    Args:
        folder: A new folder for a daemon.
        configuration: That of the agent, with one profile.
        key: The file of the key.

    Raises:
        CheckFailed: A warm agent does not work.
        TimeoutError: No agent got warm.
    """
    (profile,) = configuration["profiles"].values()
    daemon = Daemon(folder, {**configuration, "profiles": {COLD: profile, WARM: {**profile, "warm": 1}}}, key)
    daemon.start()
    try:
        _wait_warm(daemon)
        _create(daemon, profile, COLD)  # the first one loads the library of the protocol
        cold, warm = [], []
        for _ in range(REPETITIONS):
            cold.append(_create(daemon, profile, COLD))
            _wait_warm(daemon)
            warm.append(_create(daemon, profile, WARM))
            _wait_warm(daemon)
        return median(warm) / median(cold)
    finally:
        daemon.stop()


def _create(daemon: Daemon, profile: Mapping[str, Any], name: str) -> float:
    """Return how long a create takes, in seconds, after the agent has shown that it works."""
    began = time.monotonic()
    worker = Worker(daemon, profile["capabilities"], name)
    took_s = time.monotonic() - began
    if not worker.is_ready:
        raise CheckFailed(worker.refusal)
    text(worker, daemon, Path())
    worker.stop()
    return took_s


def _wait_warm(daemon: Daemon) -> None:
    """Wait until an agent waits for a Worker."""
    deadline = time.monotonic() + WARM_DEADLINE_S
    while not _ready(daemon):
        if time.monotonic() > deadline:
            raise TimeoutError("no agent got warm")
        time.sleep(POLL_S)


def _ready(daemon: Daemon) -> int:
    profiles = daemon.ask("GET", "/v1/profiles")["profiles"]
    return int(next(one["warm"]["ready"] for one in profiles if one["selector"] == WARM))
