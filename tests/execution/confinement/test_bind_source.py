"""Folders that somebody replaces by a link while a program is started."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import pytest

from runtimed.core.ports import NO_FOLDERS, Spawn, WorkingFolders, WorktreeRepository
from runtimed.execution.confinement import landlock
from runtimed.execution.confinement.bubblewrap import as_owner
from runtimed.execution.confinement.confiner import HostConfiner
from runtimed.execution.confinement.enclosure import Owned
from runtimed.execution.confinement.host_paths import HostPaths
from runtimed.execution.confinement.judgment import MOUNTS_FOLDER
from runtimed.execution.confinement.landlock_confinement import LandlockConfinement
from runtimed.execution.confinement.probe import Mechanisms, find_bubblewrap
from runtimed.execution.confinement.reach import Confinement
from runtimed.execution.confinement.users import Users
from runtimed.execution.policy import HostResources, Mount, NetworkKind, SandboxPolicy
from runtimed.execution.processes.confinement import ConfinementRefused, Enclosure, SandboxRequest, View
from runtimed.model.identity import worker_id
from runtimed.model.worker import CreateWorkerRequest, NamedReference
from tests.execution.confinement.conftest import finish
from tests.execution.conftest import NUMBERS

WORKER = worker_id(1)
PATH = "/usr/local/bin:/usr/bin:/bin"
NETWORKS: Sequence[NetworkKind] = ("none", "host")
MOUNTS: Sequence[NamedReference] = (NamedReference("docs", "mount:docs"),)
MARKS = ("mark", "objects/mark", "HEAD", "inner/mark", "worktrees/one/mark", "worktrees/mark")


@attrs.frozen
class Place:
    """The folder that is replaced, and what is shown instead if that succeeds.

    Attributes:
        given: What a Worker is shown.
        other: What it is not shown, with the same names.
        own: The Worker's own folder.
    """

    given: Path
    other: Path
    own: Path

    def replace(self, path: Path) -> None:
        """Replace a folder on the way to what is given, or within that, by a link to the other one's."""
        path.rename(path.with_name("moved"))
        path.symlink_to(self.other.parent / path.relative_to(self.given.parent))


@attrs.frozen
class Shown:
    """What a Worker asks for, and where it finds the mark then.

    Attributes:
        mark: The path of the mark, in its sandbox.
        replaced: The folder that is replaced.
    """

    mark: Path
    replaced: Path
    policy: SandboxPolicy = SandboxPolicy()
    folders: WorkingFolders = NO_FOLDERS
    mounts: Sequence[NamedReference] = ()
    command: Sequence[str] = ("true",)
    path: str = PATH
    hidden: Sequence[Path] = ()


def _repository(place: Place) -> WorkingFolders:
    given = str(place.given)
    return WorkingFolders(repositories=(WorktreeRepository(given, f"{given}/worktrees/one"),))


def _own(place: Place, name: str) -> Path:
    """Make a folder within the Worker's own the one that is given."""
    given = place.own / name
    if not given.exists():
        shutil.copytree(place.given, given)
    return given


KINDS: Mapping[str, Callable[[Place], Shown]] = {
    "workspace": lambda it: Shown(it.given / "mark", it.given, folders=WorkingFolders(str(it.given))),
    "further workspace": lambda it: Shown(
        it.given / "mark", it.given, folders=WorkingFolders(others={"OTHER": str(it.given)})
    ),
    "readonly": lambda it: Shown(it.given / "mark", it.given, SandboxPolicy(readonly=(it.given,))),
    "writable": lambda it: Shown(it.given / "mark", it.given, SandboxPolicy(writable=(it.given,))),
    "file": lambda it: Shown(it.given / "mark", it.given / "mark", SandboxPolicy(readonly=(it.given / "mark",))),
    "home of the user": lambda it: Shown(it.given / "mark", it.given, SandboxPolicy(home="user")),
    "mount": lambda it: Shown(Path(MOUNTS_FOLDER, "docs", "mark"), it.given, mounts=MOUNTS),
    "folder of PATH": lambda it: Shown(it.given / "mark", it.given, path=f"{it.given}:{PATH}"),
    "program": lambda it: Shown(it.given / "mark", it.given, command=(str(it.given / "program"),)),
    "borrowed objects": lambda it: Shown(
        it.given / "mark", it.given, folders=WorkingFolders(borrowed=(str(it.given),))
    ),
    "repository": lambda it: Shown(it.given / "HEAD", it.given, folders=_repository(it)),
    "objects of a repository": lambda it: Shown(
        it.given / "objects" / "mark", it.given / "objects", folders=_repository(it)
    ),
    "worktrees of a repository": lambda it: Shown(
        it.given / "worktrees" / "mark", it.given / "worktrees", folders=_repository(it)
    ),
    "folder of a worktree": lambda it: Shown(
        it.given / "worktrees" / "one" / "mark", it.given / "worktrees" / "one", folders=_repository(it)
    ),
    "folder around what is hidden": lambda it: Shown(
        it.given / "inner" / "mark",
        it.given / "inner",
        SandboxPolicy(writable=(it.given,)),
        hidden=(it.given / "inner" / "hidden",),
    ),
}


@pytest.fixture
def place(open_folder: Path) -> Place:
    given, other, own = (open_folder / name for name in ("place/given", "other/given", f"scratch/workers/{WORKER}"))
    for folder, text in ((given, "given"), (other, "other")):
        for name in MARKS:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        (folder / "inner" / "hidden").mkdir()
        shutil.copy("/bin/true", folder / "program")
    own.mkdir(parents=True)
    return Place(given, other, own)


UNDER_LANDLOCK = ("workspace", "further workspace", "readonly", "writable", "folder of PATH")
"""What Landlock can show where it is."""


@pytest.fixture
def by_landlock() -> Confinement:
    if (problem := landlock.unusable()) is not None:
        pytest.skip(problem)
    return LandlockConfinement(landlock.abi())


@pytest.fixture(scope="module")
def bubblewrap() -> Confinement:
    problem, found = find_bubblewrap(NUMBERS.start if os.geteuid() == 0 else None)
    return found or pytest.skip(f"bubblewrap does not work here: {problem}")


def enclose(place: Place, shown: Shown, mechanism: Confinement, network: NetworkKind = "none") -> Enclosure:
    """Decide what confines a Worker that asks for this."""
    users = Users(NUMBERS, place.own.parent) if os.geteuid() == 0 and mechanism.has_own_files else None
    home = place.given if shown.policy.home == "user" else place.own
    paths = HostPaths((place.own.parent.parent, *shown.hidden), home)
    resources = HostResources(mounts={"docs": Mount(place.given)})
    confiner = HostConfiner(Mechanisms((mechanism,)), paths, users, resources=resources)
    policy = attrs.evolve(shown.policy, mode="required", network=network)
    asked = SandboxRequest(policy, shown.command, {"PATH": shown.path}, {})
    spawn = Spawn(WORKER, CreateWorkerRequest(mount_refs=tuple(shown.mounts)), folders=shown.folders)
    asyncio.run(confiner.enclose(WORKER, asked, place.own, spawn))
    enclosure = confiner.of(WORKER)
    assert enclosure is not None
    return enclosure


def start(
    enclosure: Enclosure, *command: str, meanwhile: Callable[[], None] = lambda: None
) -> subprocess.CompletedProcess[str]:
    """Run a program, with something done between the checks of the daemon and the work of the mechanism."""
    launched = enclosure.launch(command, Path("/"), {"PATH": PATH})
    meanwhile()
    return finish(launched)


@pytest.mark.parametrize("above", [0, 1], ids=["the folder", "the folder above it"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_program_never_sees_what_a_link_leads_to_that_came_while_it_was_started(
    place: Place, bubblewrap: Confinement, kind: str, network: NetworkKind, above: int
) -> None:
    shown = KINDS[kind](place)
    enclosure = enclose(place, shown, bubblewrap, network)
    replaced = (shown.replaced, *shown.replaced.parents)[above]
    before = start(enclosure, "cat", str(shown.mark))

    ran = start(enclosure, "cat", str(shown.mark), meanwhile=lambda: place.replace(replaced))

    assert before.stdout == "given", before.stderr
    assert ran.stdout in {"given", ""}, ran.stderr
    assert (ran.returncode == 0) == (ran.stdout == "given")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_started_once_a_link_leads_to_what_a_worker_is_shown(
    place: Place, bubblewrap: Confinement, kind: str
) -> None:
    shown = KINDS[kind](place)
    enclosure = enclose(place, shown, bubblewrap)
    place.replace(shown.replaced)

    with pytest.raises(OSError, match="was replaced by a link"):
        start(enclosure, "cat", str(shown.mark))


def test_no_descriptor_of_what_is_shown_is_left_inside(place: Place, bubblewrap: Confinement) -> None:
    enclosure = enclose(place, KINDS["writable"](place), bubblewrap)

    ran = start(enclosure, "sh", "-c", 'for file in /proc/[0-9]*/fd/*; do readlink "$file"; done; true')

    assert "/dev/null" in ran.stdout, ran.stderr
    assert str(place.given.parent.parent) not in ran.stdout


def test_a_program_of_the_daemon_never_sees_what_a_link_leads_to_that_came_while_it_was_started(
    place: Place, bubblewrap: Confinement
) -> None:
    users = Users(NUMBERS, place.own.parent) if os.geteuid() == 0 else None
    confiner = HostConfiner(Mechanisms((bubblewrap,)), HostPaths(), users)
    view = View(place.given, (place.given,), (place.given / "inner",))
    enclosure = confiner.around(view, ("cat",), {"PATH": PATH})
    assert enclosure is not None

    ran = start(
        enclosure,
        "cat",
        str(place.given / "mark"),
        str(place.given / "inner" / "mark"),
        meanwhile=lambda: place.replace(place.given),
    )

    assert ran.stdout in {"givengiven", ""}, ran.stderr


@pytest.mark.parametrize("kind", UNDER_LANDLOCK)
@pytest.mark.parametrize("above", [0, 1], ids=["the folder", "the folder above it"])
def test_landlock_gives_no_access_to_what_a_link_leads_to_that_came_while_a_program_was_started(
    place: Place, by_landlock: Confinement, kind: str, above: int
) -> None:
    shown = KINDS[kind](place)
    enclosure = enclose(place, shown, by_landlock, "host")
    replaced = (shown.replaced, *shown.replaced.parents)[above]
    before = start(enclosure, "cat", str(shown.mark))

    ran = start(enclosure, "cat", str(shown.mark), meanwhile=lambda: place.replace(replaced))

    assert before.stdout == "given", before.stderr
    assert ran.stdout == ""
    assert "symbolic links" in ran.stderr


@pytest.mark.parametrize("kind", ["readonly", "writable", "folder of PATH"])
def test_landlock_gives_no_access_once_a_link_leads_to_what_a_worker_may_reach(
    place: Place, by_landlock: Confinement, kind: str
) -> None:
    shown = KINDS[kind](place)
    enclosure = enclose(place, shown, by_landlock, "host")
    place.replace(shown.replaced)

    ran = start(enclosure, "cat", str(shown.mark))

    assert ran.stdout == ""
    assert "symbolic links" in ran.stderr


def test_a_path_of_the_configuration_may_lead_through_a_link_and_shows_nothing_hidden(
    place: Place, bubblewrap: Confinement
) -> None:
    link = place.other.parent / "link"
    link.symlink_to(place.given)
    hidden = place.given / "inner" / "hidden"
    (hidden / "key").write_text("key")
    shown = Shown(link / "mark", place.given, SandboxPolicy(readonly=(link,)), hidden=(hidden,))
    enclosure = enclose(place, shown, bubblewrap)

    ran = start(enclosure, "cat", str(link / "mark"), str(link / "inner" / "hidden" / "key"))

    assert ran.stdout == "given"
    assert "No such file" in ran.stderr


def test_a_missing_path_of_the_configuration_is_named(place: Place, bubblewrap: Confinement) -> None:
    missing = place.given / "missing"

    policies = {"readonly": SandboxPolicy(readonly=(missing,)), "writable": SandboxPolicy(writable=(missing,))}
    for field, policy in policies.items():
        with pytest.raises(ConfinementRefused, match=rf"sandbox\.{field}: {missing}: No such file"):
            enclose(place, Shown(missing, missing, policy), bubblewrap)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root shows its folders as those of another user")
def test_a_folder_of_root_behind_a_link_is_shown_as_that_of_nobody(place: Place) -> None:
    place.replace(place.given.parent)

    ran = subprocess.run(
        as_owner(NUMBERS.start, (place.given,), ("/bin/echo", "started")), capture_output=True, text=True, check=False
    )

    assert (ran.returncode, ran.stdout) == (126, "")
    assert "a link leads to the folder" in ran.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders to users")
def test_a_folder_behind_a_link_is_given_to_nobody(place: Place) -> None:
    place.replace(place.given)
    owned = Owned((place.given / "inner" / "hidden", place.given / "new"), (), NUMBERS.start)

    with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
        owned.prepare()

    assert (place.other / "inner" / "hidden").stat().st_uid == 0
    assert not (place.other / "new").exists()
