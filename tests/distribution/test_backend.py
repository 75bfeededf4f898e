"""The wheel and the sdist: what is in them, and that what they install runs."""

import configparser
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import runtimed
from distribution import backend
from distribution.commands import walk
from tests.distribution.conftest import ROOT, Release

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("release")]
DEADLINE_S = 60
PROGRAMS = ("runtimed", "runtimectl")


@pytest.fixture(scope="session")
def prefix(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; what the wheel needs comes from the environment of the tests."""
    folder = tmp_path_factory.mktemp("prefix")
    venv.create(folder, symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-index", "--quiet", str(release.wheel)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [packages] = folder.glob("lib/python3.*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run(prefix: Path, program: str, *arguments: str) -> str:
    command = [str(prefix / "bin" / program), *arguments]
    done = subprocess.run(
        command, cwd=prefix, env={"LANG": "C.UTF-8"}, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as opened:
        return set(opened.namelist())


def record(wheel: Path) -> str:
    """The name, hash and size of each file in a wheel."""
    with zipfile.ZipFile(wheel) as opened:
        [name] = [name for name in opened.namelist() if name.endswith(".dist-info/RECORD")]
        return opened.read(name).decode()


def test_both_programs_of_an_installed_wheel_state_its_version(prefix: Path) -> None:
    said = {program: run(prefix, program, "--version") for program in PROGRAMS}

    assert said == {program: f"{program} {runtimed.__version__}\n" for program in PROGRAMS}


def test_an_installed_wheel_runs_its_own_code_and_finds_its_backends(prefix: Path) -> None:
    script = (
        "import importlib.metadata as m, runtimed, runtimectl.commands.workers;"
        "print(runtimed.__file__, m.version('runtimed'), sorted(m.entry_points(group='runtimed.backends').names))"
    )

    said = run(prefix, "python", "-c", script)

    assert said.startswith(str(prefix))
    assert said.endswith(f" {runtimed.__version__} ['acp', 'echo', 'process', 'shell']\n")


def test_the_version_of_the_package_is_that_of_the_code_and_stands_nowhere_else(release: Release) -> None:
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg")

    assert metadata["metadata"]["version"] == "attr: runtimed.__version__"
    assert "version" not in re.findall(
        r"^(\w+) =", (ROOT / "pyproject.toml").read_text().split("[tool")[0], re.MULTILINE
    )
    assert f"-{runtimed.__version__}-" in release.wheel.name
    assert f"-{runtimed.__version__}.tar" in release.sdist.name


def test_every_command_has_a_man_page_where_man_finds_it(prefix: Path) -> None:
    pages = {path.stem for path in (prefix / "share" / "man" / "man1").iterdir()}

    assert pages == {one.page for one in walk()}
    assert {"runtimed", "runtimed-exec", "runtimectl", "runtimectl-workers-create"} <= pages


def test_each_program_has_completions_where_shells_find_them(prefix: Path) -> None:
    places = ("bash-completion/completions/{}", "zsh/site-functions/_{}", "fish/vendor_completions.d/{}.fish")

    missing = [
        place.format(program)
        for place in places
        for program in PROGRAMS
        if program not in (prefix / "share" / place.format(program)).read_text()
    ]

    assert missing == []


def test_bash_completes_the_commands_of_an_installed_program(prefix: Path) -> None:
    script = (
        'source "$0"; COMP_WORDS=(runtimectl work); COMP_CWORD=1;'
        '_runtimectl_completion runtimectl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    file = prefix / "share" / "bash-completion" / "completions" / "runtimectl"
    env = {"PATH": f"{prefix / 'bin'}:/usr/bin:/bin", "LANG": "C.UTF-8"}

    done = subprocess.run(
        ["bash", "-c", script, str(file)], env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )

    assert done.stdout.split() == ["workers", "workspaces"], done.stderr


def test_the_wheel_has_types_the_unit_files_and_the_licenses_and_no_tests(release: Release) -> None:
    found = names(release.wheel)
    data = f"runtimed-{runtimed.__version__}.data/data/share"
    units = {path.name for path in (ROOT / "contrib" / "systemd").glob("*.*")}

    assert {"runtimed/py.typed", "runtimectl/py.typed", f"{data}/doc/runtimed/THIRD_PARTY.md"} <= found
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in found)
    assert {Path(name).name for name in found if "/share/runtimed/systemd/" in name} == units
    assert {name.split("/")[0] for name in found if ".d" not in name.split("/")[0]} == {"runtimed", "runtimectl"}


def test_the_sdist_builds_the_same_wheel_as_the_repository(release: Release) -> None:
    assert record(release.wheel) == record(release.direct)


def test_the_sdist_has_the_tests_and_pages_and_nothing_that_was_built(release: Release) -> None:
    with tarfile.open(release.sdist) as opened:
        found = {name.partition("/")[2] for name in opened.getnames()}

    wanted = {"tests/programs.py", "docs/index.md", "contrib/demo.sh", "requirements.lock", "distribution/backend.py"}
    assert wanted <= found
    assert not [name for name in found if name.endswith(".pyc") or name.split("/")[0] in {"build", "dist", ".venv"}]


def test_a_build_in_isolation_asks_for_what_the_commands_import() -> None:
    wanted = backend.get_requires_for_build_wheel()

    assert [one for one in wanted if one.startswith("click>=")]
    assert [one for one in wanted if one.startswith("typed-settings>=")]
    assert backend.get_requires_for_build_editable() == []
