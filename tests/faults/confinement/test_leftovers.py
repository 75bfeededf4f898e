"""Confined Workers leave nothing behind: process, mount, namespace, control group, descriptor, socket, folder."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acceptance.daemon.conftest import Daemon, until
from tests.faults.conftest import Require, Rounds
from tests.security.conftest import ABSENT, WAYS, Mechanism, Place, User, capabilities, mode_of, new_daemon, new_place
from tests.security.conftest import require as require_mechanism

AT_A_TIME = 4
ROUNDS = 100
"""For each user: 200 Workers by each mechanism."""

COMMAND = "{ sleep 600 & (setsid sleep 600 &) ; } >/dev/null 2>&1; echo made >made"
"""Leaves two programs behind, one of them in a session of its own, and none that holds the output."""

DELETED = 204


Census = Mapping[str, Counter[str]]
"""What there is of a daemon and its Workers, by kind."""


def census(daemon: Daemon, place: Place) -> Census:
    pids = {*_with_environment(bytes(place.home)), *_descendants(daemon.pid)}
    folders = [place.home, place.home / "run", place.store, place.store / "workers"]
    return {
        "processes": Counter(Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids),
        "mounts": Counter(Path(f"/proc/{daemon.pid}/mountinfo").read_text().splitlines()),
        "namespaces": Counter({link: 1 for pid in pids for link in _links(f"/proc/{pid}/ns")}),
        "descriptors": Counter(re.sub(r":\[\d+\]$", "", link) for pid in pids for link in _links(f"/proc/{pid}/fd")),
        "groups": Counter(map(str, _groups(daemon.pid))),
        "files": Counter(str(path) for folder in folders if folder.is_dir() for path in folder.iterdir()),
    }


def added(before: Census, after: Census) -> dict[str, Counter[str]]:
    """Return what there is more of."""
    return {kind: found - before[kind] for kind, found in after.items() if found - before[kind]}


def _sleepers(daemon: Daemon, place: Place) -> list[int]:
    """Return what the warm-up has left running so far."""
    return [pid for pid in {*_with_environment(bytes(place.home)), *_descendants(daemon.pid)} if _sleeps(pid)]


def _sleeps(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep")
    return False


def _with_environment(text: bytes) -> Iterator[int]:
    """Yield the processes of the whole host that were started with a text in their environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text in (folder / "environ").read_bytes():
                yield int(folder.name)


def _descendants(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from _descendants(int(child))


def _links(folder: str) -> list[str]:
    return [str(path.readlink()) for path in Path(folder).iterdir()]


def _groups(pid: int) -> Iterator[Path]:
    for owner in Path("/sys/fs/cgroup").rglob(f"runtimed-*-{pid}-*"):
        yield from (path for path in owner.rglob("*") if path.is_dir())


def left(daemon: Daemon, place: Place, before: Census) -> dict[str, Counter[str]]:
    """Return what there is more of at the deadline, or nothing as soon as there is nothing."""
    with contextlib.suppress(AssertionError):
        until(lambda: not _added_now(daemon, place, before))
    return _added_now(daemon, place, before)


def _added_now(daemon: Daemon, place: Place, before: Census) -> dict[str, Counter[str]]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return added(before, census(daemon, place))
    return {"processes": Counter(["one that ended while it was looked at"])}


@pytest.fixture(params=["root", "another user"])
def user(request: pytest.FixtureRequest, require: Require) -> User:
    require(root=True)
    found: User = request.param
    return found


@pytest.mark.parametrize("mechanism", ["bubblewrap", "landlock"])
def test_workers_that_are_stopped_leave_nothing(user: User, mechanism: Mechanism, rounds: Rounds) -> None:
    require_mechanism(mechanism, user)

    def live(number: int) -> None:
        """Create a Worker, have it run programs, and end it."""
        way = WAYS[number % len(WAYS)]
        worker_id = _create(daemon, way)
        daemon.run(worker_id, COMMAND if way == "shell" else json.dumps(["sh", "-c", COMMAND]))
        daemon.call("POST", f"/v1/workers/{worker_id}/{'stop' if number % 3 else 'cancel'}").ok("ack")
        assert daemon.call("DELETE", f"/v1/workers/{worker_id}").status == DELETED

    with new_place(user, ABSENT[mechanism]) as place, new_daemon(place, mode_of(user, mechanism)) as daemon:
        with ThreadPoolExecutor(AT_A_TIME) as threads:
            list(threads.map(live, range(AT_A_TIME)))
            until(lambda: not list((place.store / "workers").iterdir()) and not _sleepers(daemon, place))
            before = census(daemon, place)

            list(threads.map(live, range(rounds(ROUNDS, 10 * ROUNDS))))

        remaining = left(daemon, place, before)

    assert remaining == {}


def test_the_census_sees_a_worker_that_still_runs(user: User) -> None:
    require_mechanism("bubblewrap", user)
    with new_place(user) as place, new_daemon(place, "required") as daemon:
        before = census(daemon, place)

        _create(daemon, "shell")

        found = added(before, census(daemon, place))

    assert {"processes", "namespaces", "descriptors", "files"} <= set(found)


def _create(daemon: Daemon, way: str) -> str:
    profile = {"kind": "builtin", "value": f"builtin:{way}"}
    return daemon.create(profile=profile, requested_capabilities=capabilities(way))
