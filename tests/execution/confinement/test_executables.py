"""Programs that may execute only those of a list."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from runtimed.execution.confinement import landlock
from runtimed.execution.confinement.landlock_confinement import LandlockConfinement
from runtimed.execution.confinement.probe import find_bubblewrap
from runtimed.execution.confinement.reach import Bind, Confinement, Reach
from runtimed.model.profile import Mechanism
from tests.execution.confinement.conftest import finish

UID = 100_000 if os.geteuid() == 0 else None
ENV = {"PATH": "/usr/bin:/bin"}
LOADERS = tuple(path.resolve() for path in Path("/usr/lib").glob("**/ld-linux*.so.*"))


@pytest.fixture(params=["bubblewrap", "landlock"])
def mechanism(request: pytest.FixtureRequest) -> Confinement:
    wanted: Mechanism = request.param
    if (unusable := landlock.unusable()) is not None:
        pytest.skip(unusable)
    if wanted == "landlock":
        return LandlockConfinement(landlock.abi())
    problem, found = find_bubblewrap(UID)
    return found or pytest.skip(problem)


def run(mechanism: Confinement, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program that may execute `cat`, with a limit of descriptors, and return its status and output."""
    cat = Path(shutil.which("cat") or "").resolve()
    uid = UID if mechanism.has_own_files else None
    reach = Reach((Bind(folder, folder),), uid=uid, network="none", executables=(cat, *LOADERS))
    return finish(mechanism.launch(reach, command, Path("/"), ENV, max_descriptors=64))


def test_a_program_executes_itself_and_those_of_the_list_and_no_other(
    mechanism: Confinement, open_folder: Path
) -> None:
    script = open_folder / "script"
    script.write_text("#!/usr/bin/env -S bash\nulimit -Sn; echo text | cat; ls /; echo $?\n")
    script.chmod(0o755)

    ran = run(mechanism, open_folder, str(script))

    assert ran.stdout.split() == ["64", "text", "126"], ran.stderr


def test_a_program_of_the_list_runs_with_a_limit_of_descriptors(mechanism: Confinement, open_folder: Path) -> None:
    ran = run(mechanism, open_folder, "cat", "/proc/self/limits")

    assert "Max open files            64" in ran.stdout, ran.stderr
