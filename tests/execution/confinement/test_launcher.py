"""The launcher gives a program what it was told to, and nothing else."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtimed.execution.confinement import launcher
from runtimed.execution.confinement.instructions import FOLDER, Instructions, argv
from runtimed.execution.confinement.seccomp import seccomp_filter
from tests.execution.confinement.conftest import DEADLINE_S, launch

NOBODY = (65534, 65534)
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapAmb")
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def status_of(shown: str) -> dict[str, str]:
    """Return the fields of a process's `status` in /proc."""
    pairs = (line.partition(":") for line in shown.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def test_the_program_gets_its_arguments_as_they_are() -> None:
    arguments = ["", "a b", "--", "-c", "'\"$", "ä", "\udcff"]

    ended = launch(Instructions(), "/bin/sh", "-c", 'printf "[%s]" "$@"', "sh", *arguments)

    assert ended.stdout == "".join(f"[{argument}]" for argument in arguments)


@pytest.mark.parametrize("locale", [{}, {"LANG": "C"}, {"LC_ALL": "POSIX"}, {"LC_CTYPE": "C.UTF-8"}])
def test_the_program_gets_its_environment_as_it_is(locale: dict[str, str]) -> None:
    given = {"PATH": "/usr/bin:/bin", "EMPTY": "", "EQUAL": "a=b", "BYTES": "\udcff", "PYTHONPATH": "/x", **locale}

    ended = launch(Instructions(), "env", "-0", env=given)

    assert dict(entry.split("=", 1) for entry in ended.stdout.split("\0")[:-1]) == given


def test_the_program_gets_the_variables_of_its_instructions_and_the_launcher_does_not() -> None:
    given = {"PATH": "/usr/bin:/bin", "BYTES": "\udcff", "EQUAL": "a=b", "LD_PRELOAD": "/nothing.so"}

    ended = launch(Instructions(environment=given), "env", "-0", env={"MARK": "1", "PATH": "/nothing"})

    assert dict(entry.split("=", 1) for entry in ended.stdout.split("\0")[:-1]) == {**given, "MARK": "1"}
    assert ended.stderr.count("LD_PRELOAD cannot be preloaded") == 1  # by env alone


def test_the_program_gets_no_descriptor_but_its_three_streams(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as leaked:
        high = os.dup2(leaked.fileno(), 200)
        os.set_inheritable(high, True)
        try:
            ended = launch(Instructions(), "/bin/ls", "-l", "/proc/self/fd", also_open=(leaked.fileno(), high))
        finally:
            os.close(high)

    descriptors = [line.split(" -> ")[0].split()[-1] for line in ended.stdout.splitlines() if " -> " in line]
    assert descriptors == ["0", "1", "2", "3"]  # ls reads the list itself from its third
    assert "secret" not in ended.stdout


def test_the_program_has_the_limit_of_descriptors_and_may_raise_it() -> None:
    ended = launch(
        Instructions(max_descriptors=64), "/bin/sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -Sn 65; ulimit -Sn"
    )

    soft, hard, raised = ended.stdout.split()
    assert (soft, raised) == ("64", "65")
    assert int(hard) > 65


def test_the_program_ignores_no_signal() -> None:
    ended = launch(Instructions(), "/bin/cat", "/proc/self/status")

    ignored = int(status_of(ended.stdout)["SigIgn"], 16)
    assert not [number for number in signal.valid_signals() if ignored >> (number - 1) & 1]


def test_a_program_without_a_slash_is_found_in_the_path_of_its_environment(tmp_path: Path) -> None:
    (tmp_path / "tool").mkdir()
    tool = tmp_path / "bin" / "tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)

    ended = launch(Instructions(), "tool", env={"PATH": f"{tmp_path}/missing:{tmp_path}:{tmp_path}/bin"})

    assert (ended.returncode, ended.stdout) == (0, "found\n")


@pytest.mark.parametrize("name", ["no-such-program", "/no/such/program"])
def test_a_program_that_does_not_exist_is_status_127(name: str) -> None:
    ended = launch(Instructions(), name)

    assert ended.returncode == launcher.NOT_FOUND
    assert ended.stderr == f"runtimed: cannot execute {name}: not found\n"


def test_a_program_that_cannot_be_executed_is_status_126(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_bytes(b"\0\1\2")
    tool.chmod(0o644)
    mode = launch(Instructions(), str(tool))
    tool.chmod(0o755)
    content = launch(Instructions(), str(tool))

    assert (mode.returncode, content.returncode) == (launcher.NOT_EXECUTED,) * 2
    assert mode.stderr == f"runtimed: cannot execute {tool}: Permission denied\n"
    assert content.stderr == f"runtimed: cannot execute {tool}: Exec format error\n"


def test_a_restriction_that_fails_is_named_and_nothing_is_executed(tmp_path: Path) -> None:
    made = tmp_path / "made"

    ended = launch(Instructions(filters=(b"\0" * 8,)), "/bin/sh", "-c", f"echo > {made}")

    assert ended.returncode == launcher.NOT_EXECUTED
    assert ended.stderr == "runtimed: cannot confine the program: seccomp: Invalid argument\n"
    assert not made.exists()


@pytest.mark.parametrize(
    "text", [b"", b"files=0\0network=0\0scopes=0\0", b"files=0\0network=0\0scopes=0\0mounts=1\0end=\0"]
)
def test_instructions_that_are_cut_off_or_unknown_execute_nothing(text: bytes, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, text)
    os.close(writer)
    command = argv(["/bin/sh", "-c", f"echo > {tmp_path}/made"], reader)

    ended = subprocess.run(
        command, pass_fds=(reader,), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    os.close(reader)

    assert ended.returncode == launcher.NOT_EXECUTED
    assert ended.stderr.endswith(": incomplete, or of another version\n")
    assert not (tmp_path / "made").exists()


def test_without_instructions_nothing_is_executed() -> None:
    command = argv(["/bin/echo", "text"], 99)

    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)

    assert (ended.returncode, ended.stdout) == (launcher.NOT_EXECUTED, "")
    assert ended.stderr == "runtimed: launcher: instructions in descriptor 99: Bad file descriptor\n"


def test_the_program_has_no_capability_and_can_gain_none() -> None:
    ended = launch(Instructions(), "/bin/cat", "/proc/self/status")

    shown = status_of(ended.stdout)
    assert {int(shown[name], 16) for name in CAPABILITIES} == {0}
    assert shown["NoNewPrivs"] == "1"


def test_all_filters_are_installed() -> None:
    filters = (seccomp_filter("bubblewrap"), seccomp_filter("executables"))

    ended = launch(Instructions(filters=filters), "/bin/cat", "/proc/self/status")

    before = status_of(Path("/proc/self/status").read_text())
    assert int(status_of(ended.stdout)["Seccomp_filters"]) == int(before["Seccomp_filters"]) + 2


@as_root
def test_root_becomes_another_user_without_groups_or_capabilities() -> None:
    ended = launch(Instructions(user=NOBODY), "/bin/cat", "/proc/self/status")

    shown = status_of(ended.stdout)
    assert shown["Uid"].split() == shown["Gid"].split() == ["65534"] * 4
    assert shown["Groups"] == ""
    assert {int(shown[name], 16) for name in (*CAPABILITIES, "CapBnd")} == {0}


@as_root
def test_a_program_that_dies_with_its_parent_does_so_as_another_user_too() -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not installed")

    ended = launch(Instructions(user=NOBODY), setpriv, "--dump", prefix=(setpriv, "--pdeathsig", "KILL"))

    assert ended.stdout.splitlines()[-1] == "Parent death signal: KILL"


@pytest.fixture
def launcher_for_others(open_folder: Path) -> Path:
    """A folder with a copy of the launcher, which other users can read."""
    shutil.copy(FOLDER / "launcher.py", open_folder)
    (open_folder / "launcher.py").chmod(0o644)
    return open_folder


@as_root
def test_an_ordinary_user_confines_its_programs_but_becomes_nobody_else(launcher_for_others: Path) -> None:
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no Python that other users can run")

    def run(instructions: Instructions) -> subprocess.CompletedProcess[str]:
        descriptor = instructions.descriptor()
        command = argv(["/bin/cat", "/proc/self/status"], descriptor, python)
        try:
            return subprocess.run(
                [str(launcher_for_others) if part == str(FOLDER) else part for part in command],
                pass_fds=(descriptor,), user=NOBODY[0], group=NOBODY[1], extra_groups=(),
                capture_output=True, text=True, timeout=DEADLINE_S, check=False,
            )  # fmt: skip
        finally:
            os.close(descriptor)

    held = run(Instructions(filters=(seccomp_filter("landlock"),)))
    other = run(Instructions(user=(1, 1)))

    assert held.returncode == 0, held.stderr
    shown = status_of(held.stdout)
    assert (shown["NoNewPrivs"], shown["Seccomp"], int(shown["CapEff"], 16)) == ("1", "2", 0)
    assert other.returncode == launcher.NOT_EXECUTED
    assert other.stderr == "runtimed: cannot confine the program: user: Operation not permitted\n"


def test_the_launcher_imports_little() -> None:
    source = "import sys; sys.path.append(sys.argv[1]); import launcher; print(*sys.modules)"
    shown = subprocess.run(
        [os.path.realpath(sys.executable), "-I", "-S", "-c", source, FOLDER],
        capture_output=True, text=True, check=True, timeout=DEADLINE_S,
    )  # fmt: skip

    assert not {"json", "re", "enum", "collections", "typing", "pathlib", "signal"} & set(shown.stdout.split())
