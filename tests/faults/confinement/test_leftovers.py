"""Confined Workers leave nothing behind: process, mount, namespace, control group, descriptor, socket, folder."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest

from tests.acceptance.daemon.conftest import Daemon, until
from tests.faults.conftest import Require, Rounds
from tests.security.conftest import ABSENT, WAYS, Mechanism, Place, User, capabilities, new_daemon, new_place
from tests.security.conftest import require as require_mechanism

AT_A_TIME = 4
COMMAND = "{ sleep 600 & (setsid sleep 600 &) ; } >/dev/null 2>&1; echo made >made"
"""Leaves two programs behind, one of them in a session of its own, and none that holds the output."""

DELETED = 204


@attrs.frozen
class Census:
    """What there is of a daemon and its Workers.

    Attributes:
        processes: How many processes.
        mounts: The mounts that the daemon sees.
        namespaces: The namespaces that the processes are in.
        descriptors: What they have open, by kind: files, pipes, sockets, namespaces.
        groups: The control groups of Workers.
        folders: The folders of Workers, and all else in the home of the daemon's user.
    """

    processes: int
    mounts: frozenset[str]
    namespaces: frozenset[str]
    descriptors: Counter[str]
    groups: frozenset[Path]
    folders: frozenset[Path]


def census(daemon: Daemon, place: Place) -> Census:
    pids = {*_with_environment(bytes(place.home)), *_descendants(daemon.pid)}
    folders = [place.home, place.home / "run", place.store, place.store / "workers"]
    return Census(
        processes=len(pids),
        mounts=frozenset(Path(f"/proc/{daemon.pid}/mountinfo").read_text().splitlines()),
        namespaces=frozenset(link for pid in pids for link in _links(f"/proc/{pid}/ns")),
        descriptors=Counter(link.partition(":")[0] for pid in pids for link in _links(f"/proc/{pid}/fd")),
        groups=frozenset(_groups(daemon.pid)),
        folders=frozenset(path for folder in folders if folder.is_dir() for path in folder.iterdir()),
    )


def _with_environment(text: bytes) -> Iterator[int]:
    """Yield the processes of the whole host that were started with a text in their environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text in (folder / "environ").read_bytes():
                yield int(folder.name)


def _descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from _descendants(int(child))


def _links(folder: str) -> list[str]:
    return [str(path.readlink()) for path in Path(folder).iterdir()]


def _groups(pid: int) -> Iterator[Path]:
    for owner in Path("/sys/fs/cgroup").rglob(f"runtimed-*-{pid}-*"):
        yield from (path for path in owner.rglob("*") if path.is_dir())


def is_as_before(daemon: Daemon, place: Place, before: Census) -> bool:
    with contextlib.suppress(OSError):  # a process ended while it was looked at
        return census(daemon, place) == before
    return False


@pytest.fixture(params=["root", "another user"])
def user(request: pytest.FixtureRequest, require: Require) -> User:
    require(root=True)
    found: User = request.param
    return found


@pytest.mark.parametrize("mechanism", ["bubblewrap", "landlock"])
def test_200_workers_that_are_stopped_leave_nothing(user: User, mechanism: Mechanism, rounds: Rounds) -> None:
    require_mechanism(mechanism, user)

    def live(number: int) -> None:
        """Create a Worker, have it run programs, and end it."""
        way = WAYS[number % len(WAYS)]
        worker_id = _create(daemon, way)
        daemon.run(worker_id, COMMAND if way == "shell" else json.dumps(["sh", "-c", COMMAND]))
        daemon.call("POST", f"/v1/workers/{worker_id}/{'stop' if number % 3 else 'cancel'}").ok("ack")
        assert daemon.call("DELETE", f"/v1/workers/{worker_id}").status == DELETED

    with new_place(user, ABSENT[mechanism]) as place, new_daemon(place, "required") as daemon:
        with ThreadPoolExecutor(AT_A_TIME) as threads:
            list(threads.map(live, range(AT_A_TIME)))
            until(lambda: not daemon.workers())
            before = census(daemon, place)

            list(threads.map(live, range(rounds(200, 2000))))

        with contextlib.suppress(AssertionError):  # the comparison below says what is left
            until(lambda: is_as_before(daemon, place, before))
        after = census(daemon, place)
    differing = {name: value for name, value in attrs.asdict(before).items() if attrs.asdict(after)[name] != value}
    assert {name: attrs.asdict(after)[name] for name in differing} == differing


def test_the_census_sees_a_worker_that_still_runs(user: User) -> None:
    require_mechanism("bubblewrap", user)
    with new_place(user) as place, new_daemon(place, "required") as daemon:
        before = census(daemon, place)

        _create(daemon, "shell")

        after = census(daemon, place)
    differing = {name for name in attrs.asdict(before) if getattr(before, name) != getattr(after, name)}
    assert {"processes", "namespaces", "descriptors", "folders"} <= differing


def _create(daemon: Daemon, way: str) -> str:
    profile = {"kind": "builtin", "value": f"builtin:{way}"}
    return daemon.create(profile=profile, requested_capabilities=capabilities(way))
