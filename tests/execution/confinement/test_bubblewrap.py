"""Programs that bubblewrap confines."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from runtimed.execution.confinement import bubblewrap
from runtimed.execution.confinement.bubblewrap import Bubblewrap
from runtimed.execution.confinement.probe import find_bubblewrap
from runtimed.execution.confinement.reach import Bind, Reach
from tests.execution.confinement.conftest import finish

UID = 100_000
USERS = (UID, None) if os.geteuid() == 0 else (None,)


@pytest.fixture
def mechanism() -> Bubblewrap:
    problem, found = find_bubblewrap(USERS[0])
    return found or pytest.skip(problem)


def run(
    mechanism: Bubblewrap,
    *command: str,
    reach: Reach,
    cwd: Path = Path("/"),
    env: Mapping[str, str] = os.environ,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, and return its status and output."""
    return finish(mechanism.launch(reach, command, cwd, env))


@pytest.mark.parametrize("uid", USERS)
def test_a_missing_program_ends_with_127_and_one_that_cannot_be_executed_with_126(
    mechanism: Bubblewrap, uid: int | None
) -> None:
    reach = Reach((), uid=uid, network="none")

    missing, not_executable = run(mechanism, "/nothing", reach=reach), run(mechanism, "/etc/hosts", reach=reach)

    assert (missing.returncode, not_executable.returncode) == (127, 126)
    assert "/nothing" in missing.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can show a program what its user cannot read")
def test_what_only_root_can_read_in_etc_stays_closed_to_a_user_of_a_workers_own(
    mechanism: Bubblewrap, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {mode: open_folder / f"{mode:o}" for mode in (0o644, 0o640, 0o600)}
    for mode, path in paths.items():
        path.write_text("read")
        path.chmod(mode)
    monkeypatch.setattr(bubblewrap, "ETC", tuple(paths.values()))

    shown = {
        mode: run(mechanism, "cat", str(path), reach=Reach((), uid=UID, network="none"))
        for mode, path in paths.items()
    }

    assert {mode: ran.stdout for mode, ran in shown.items()} == {0o644: "read", 0o640: "", 0o600: ""}
    assert "Permission denied" in shown[0o600].stderr


@pytest.mark.parametrize("uid", USERS)
def test_every_folder_that_leads_to_files_of_etc_can_be_entered(mechanism: Bubblewrap, uid: int | None) -> None:
    command = ("find", "/etc", "-xdev", "-type", "d", "!", "-perm", "-o=rx")

    ran = run(mechanism, *command, reach=Reach((), uid=uid, network="none"))

    assert (ran.stdout, ran.stderr, ran.returncode) == ("", "", 0)


@pytest.mark.parametrize("uid", USERS)
def test_a_program_starts_in_a_directory_that_only_its_user_can_enter(
    mechanism: Bubblewrap, open_folder: Path, uid: int | None
) -> None:
    own = open_folder / "own"
    own.mkdir(mode=0o700)
    if uid is not None:
        os.chown(own, uid, uid)

    ran = run(
        mechanism,
        "sh",
        "-c",
        'echo text >made && pwd && echo "$PWD"',
        reach=Reach((Bind(own, own, writable=True),), uid=uid, network="none"),
        cwd=own,
    )

    assert ran.stdout.split() == [str(own)] * 2, ran.stderr
    assert (own / "made").stat().st_uid == (os.geteuid() if uid is None else uid)


@pytest.mark.parametrize("uid", USERS)
def test_variables_for_the_loader_reach_the_program_and_nothing_that_starts_it(
    mechanism: Bubblewrap, open_folder: Path, uid: int | None
) -> None:
    outside, of_root, own = (open_folder / name for name in ("outside", "of_root", "own"))
    for folder in (outside, of_root, own):
        folder.mkdir()
    if uid is not None:
        os.chown(own, uid, uid)
    shown = of_root if uid is not None else own
    reach = Reach((Bind(own, own, writable=True), Bind(shown, shown, writable=True)), uid=uid, network="none")

    for folder in (outside, of_root, own):
        env = {"LD_DEBUG": "files", "LD_DEBUG_OUTPUT": str(folder / "log"), "LD_LIBRARY_PATH": "/'\"$x"}
        ran = run(mechanism, "sh", "-c", 'echo "$LD_LIBRARY_PATH" "${LD_DEBUG_OUTPUT##*/}"', reach=reach, env=env)
        assert "/'\"$x log\n" in ran.stdout, ran.stderr  # the loader adds what it cannot write to its file

    assert [list(folder.iterdir()) for folder in (outside, of_root)] == [[], []]
    owners = {path.stat().st_uid for path in own.iterdir()}
    assert owners == {os.geteuid() if uid is None else uid}  # a program itself may use its loader as it likes


def test_variables_that_cannot_be_set_are_refused(mechanism: Bubblewrap) -> None:
    for env in ({"A=B": "c"}, {"": "c"}, {"A": "b\0--bind\0/\0/"}):
        with pytest.raises(ValueError, match="variables"):
            mechanism.launch(Reach(()), ["true"], Path("/"), env)


@pytest.mark.parametrize("uid", USERS)
def test_a_program_makes_no_files_among_its_devices(mechanism: Bubblewrap, uid: int | None) -> None:
    script = "echo x >/dev/null; echo shared >/dev/shm/file; cat /dev/shm/file; echo x >/dev/file"

    ran = run(mechanism, "sh", "-c", script, reach=Reach((), uid=uid, network="none"))

    assert ran.stdout == "shared\n"
    assert "/dev/file" in ran.stderr


def test_what_is_hidden_in_a_writable_folder_stays_hidden_from_the_next_program(
    mechanism: Bubblewrap, open_folder: Path
) -> None:
    hidden, key = open_folder / "share" / "data" / "store", open_folder / "settings" / "key"
    for path in (hidden / "file", key):
        path.parent.mkdir(parents=True)
        path.write_text("hidden")
    reach = Reach(
        (Bind(open_folder, open_folder, writable=True),), hidden=(hidden, hidden / "file", key), network="none"
    )
    script = f"cd {open_folder}; mv share moved; mv settings moved; echo made >share/data/made"

    moving = run(mechanism, "sh", "-c", script, reach=reach)
    looking = run(mechanism, "grep", "-r", "hidden", str(open_folder), reach=reach)

    assert "hidden" not in looking.stdout, moving.stderr
    assert (open_folder / "share" / "data" / "made").read_text() == "made\n"
    assert moving.stderr.count("busy") == 2
