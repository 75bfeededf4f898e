"""What Landlock holds programs to; each refusal has the same program without it as its control."""

import errno
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from runtimed.execution.confinement import landlock
from runtimed.execution.confinement.instructions import Instructions
from runtimed.execution.confinement.landlock import UNRESTRICTED, Access, Files, Ports, Ruleset
from runtimed.execution.confinement.seccomp import seccomp_filter
from tests.execution.confinement.conftest import PYTHON, PYTHON_FOLDERS, SYSTEM, launch

MERE_FILES = Files(readable=PYTHON_FOLDERS)
DENIED = errno.EACCES


def requires(abi: int) -> pytest.MarkDecorator:
    return pytest.mark.skipif(landlock.abi() < abi, reason=f"needs version {abi} of Landlock")


def confined(access: Access) -> Instructions:
    return Instructions(landlock.ruleset(access, landlock.abi()))


def error_of(instructions: Instructions, source: str, *arguments: object) -> int:
    """Run a few lines of Python, and return the number of the OSError that they raise, or 0."""
    body = "".join(f"    {line}\n" for line in source.splitlines())
    program = (
        f"import ctypes, fcntl, os, signal, socket, sys\ntry:\n{body}except OSError as e:\n    os._exit(e.errno)\n"
    )
    ended = launch(instructions, str(PYTHON), "-I", "-S", "-c", program, *map(str, arguments))
    assert not ended.stderr
    return ended.returncode


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A TCP server on loopback, outside of what is confined."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def loaders() -> list[Path]:
    """Return the programs that the kernel starts to load programs that are linked dynamically."""
    return [loader.resolve() for folder in ("/lib", "/lib64") for loader in Path(folder).glob("ld-linux*")]


@pytest.fixture
def free_ports() -> Iterator[Sequence[int]]:
    """Two ports where nobody listens, and where only who reuses addresses can begin to."""
    with socket.socket() as one, socket.socket() as other:
        for held in (one, other):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", 0))
        yield [held.getsockname()[1] for held in (one, other)]


def test_each_version_restricts_what_it_knows() -> None:
    everything = Access(files=Files(), executable=(), ports=Ports(), scoped=True)

    rulesets = [landlock.ruleset(everything, abi) for abi in range(1, 8)]

    assert [each.files for each in rulesets] == [0x1FFF, 0x3FFF, 0x7FFF, 0x7FFF, 0xFFFF, 0xFFFF, 0xFFFF]
    assert [each.network for each in rulesets] == [0, 0, 0, 3, 3, 3, 3]
    assert [each.scopes for each in rulesets] == [0, 0, 0, 0, 0, 3, 3]


def test_no_rule_has_a_right_that_its_version_does_not_know() -> None:
    access = Access(
        Files((Path("/a"),), (Path("/b"),), (Path("/dev/c"),)), (Path("/d"),), Ports((1,), (2,)), scoped=True
    )

    for abi in range(1, 8):
        made = landlock.ruleset(access, abi)
        assert all(rights and rights & made.files == rights for _, rights in made.path_rules)
        assert all(rights & made.network == rights for _, rights in made.port_rules)


def test_an_access_of_nothing_but_none_restricts_nothing() -> None:
    assert landlock.ruleset(Access(), 7) == UNRESTRICTED == Ruleset()


def test_each_version_closes_more() -> None:
    open_by_version = [set(landlock.gaps(abi)) for abi in range(1, 8)]

    assert all(later <= earlier for earlier, later in pairwise(open_by_version))
    assert [len(gaps) for gaps in open_by_version] == [8, 8, 7, 6, 5, 4, 4]
    assert any("TCP" in gap for gap in open_by_version[2])
    assert not any("TCP" in gap for gap in open_by_version[3])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.ENOSYS, "Landlock: this kernel does not have it"),
        (errno.EOPNOTSUPP, "Landlock: switched off"),
        (errno.EPERM, "Landlock: refused, probably by the seccomp filter of a container"),
    ],
)
def test_where_landlock_cannot_be_used_the_reason_is_told(error: int, reason: str) -> None:
    steps = ((0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x00050000 | error), (0x06, 0, 0, 0x7FFF0000))
    without = Instructions(filters=(b"".join(struct.pack("=HBBI", *step) for step in steps),))
    source = "from runtimed.execution.confinement import landlock; print(landlock.abi(), landlock.unusable())"

    told = launch(without, sys.executable, "-c", source)

    assert told.stdout.startswith(f"0 {reason}")


@requires(1)
def test_where_landlock_can_be_used_there_is_no_reason_against_it() -> None:
    assert landlock.unusable() is None
    assert 1 <= landlock.abi() <= landlock.MAX_ABI


@requires(1)
def test_a_program_reads_the_files_it_was_given_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    given, other = tmp_path / "given" / "file", tmp_path / "other"
    given.write_text("text")
    other.write_text("text")
    held = confined(Access(Files((*PYTHON_FOLDERS, given.parent))))
    read = "open(sys.argv[1]).read()"

    assert error_of(held, read, given) == 0
    assert error_of(held, read, other) == DENIED
    assert error_of(Instructions(), read, other) == 0
    assert error_of(held, "os.listdir(sys.argv[1])", tmp_path) == DENIED
    assert error_of(held, "open(sys.argv[1], 'w')", given) == DENIED


@requires(3)
def test_a_program_changes_files_where_it_may_and_nowhere_else(tmp_path: Path) -> None:
    for name in ("own", "other"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "file").write_text("text")
    held = confined(Access(Files(PYTHON_FOLDERS, (tmp_path / "own",))))
    changes = (
        "os.mkdir(sys.argv[1] + '/new')",
        "os.symlink('x', sys.argv[1] + '/link')",
        "os.truncate(sys.argv[1] + '/file', 0)",
        "os.rename(sys.argv[1] + '/file', sys.argv[1] + '/inner/moved')",
        "os.remove(sys.argv[1] + '/inner/moved')",
        "open(sys.argv[1] + '/made', 'w')",
    )

    assert [error_of(held, change, tmp_path / "own") for change in changes] == [0] * 6
    refused = [error_of(held, change, tmp_path / "other") for change in changes[:4]]
    assert set(refused) <= {DENIED, errno.EXDEV}
    assert (tmp_path / "other" / "file").read_text() == "text"
    assert [error_of(Instructions(), change, tmp_path / "other") for change in changes] == [0] * 6


@requires(2)
def test_only_listed_programs_are_executed_and_files_stay_free(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "file").write_text("text")
    listed = tuple(path.resolve() for path in (Path("/bin/sh"), Path("/bin/mv"), *loaders()))
    held = confined(Access(executable=listed))
    script = f"mv {tmp_path}/file {tmp_path}/inner/moved && cat {tmp_path}/inner/moved"

    ended = launch(held, "sh", "-c", script)

    assert ended.returncode == 126
    assert (tmp_path / "inner" / "moved").read_text() == "text"
    assert launch(Instructions(), "cat", str(tmp_path / "inner" / "moved")).stdout == "text"


@requires(1)
@pytest.mark.skipif(not loaders(), reason="the C library is not glibc")
def test_the_loader_runs_a_program_that_is_not_listed_only_if_it_is_readable() -> None:
    loader = loaders()[0]
    listed = (Path("/bin/sh").resolve(), loader)
    libraries = tuple({Path(folder).resolve() for folder in ("/lib", "/lib64", "/usr/lib", "/etc")})
    script = f"{loader} /usr/bin/id; exit $?"

    readable = launch(confined(Access(executable=listed)), "sh", "-c", script)
    unreadable = launch(confined(Access(Files(libraries), listed)), "sh", "-c", script)

    assert readable.stdout.startswith("uid=")
    assert unreadable.stdout == ""
    assert "/usr/bin/id" in unreadable.stderr


@requires(1)
def test_a_program_in_memory_is_executed_unless_the_filter_refuses_it() -> None:
    access = Access(executable=PYTHON_FOLDERS)
    held = landlock.ruleset(access, landlock.abi())
    source = (
        "memory = os.memfd_create('program', 0)\n"
        "os.write(memory, open('/bin/true', 'rb').read())\n"
        "os.execv(f'/proc/self/fd/{memory}', ['true'])"
    )

    assert error_of(Instructions(held), source) == 0
    assert error_of(Instructions(held, (seccomp_filter("executables"),)), source) == errno.EPERM


@requires(5)
def test_devices_are_controlled_only_where_that_was_given() -> None:
    control = "fcntl.ioctl(os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY), 0x5413, b'12345678')"
    terminals = tuple({Path("/dev/ptmx"), Path("/dev/ptmx").resolve()})
    terminals = tuple(path for path in terminals if not path.is_symlink())
    as_files = confined(Access(Files(PYTHON_FOLDERS, terminals)))
    as_devices = confined(Access(Files(PYTHON_FOLDERS, (), terminals)))

    assert error_of(as_files, control) == DENIED
    assert error_of(as_devices, control) == 0


@requires(4)
def test_a_program_connects_to_the_ports_it_was_given_and_no_others(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    connect = "socket.create_connection((b'127.0.0.1', int(sys.argv[1])))"

    assert error_of(confined(Access(ports=Ports(connect=(port,)))), connect, port) == 0
    assert error_of(confined(Access(ports=Ports(connect=(port + 1,)))), connect, port) == DENIED
    assert error_of(Instructions(), connect, port) == 0


@requires(4)
def test_a_program_reaches_a_server_of_its_own_on_the_ports_for_that(free_ports: Sequence[int]) -> None:
    own, other = free_ports
    held = confined(Access(ports=Ports(connect=(other,), serve=(own,))))
    serve = (
        "server = socket.socket()\n"
        "server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "server.bind(('127.0.0.1', int(sys.argv[1])))\n"
        "server.listen()\n"
        "socket.create_connection((b'127.0.0.1', int(sys.argv[1])))"
    )

    assert error_of(held, serve, own) == 0
    assert error_of(held, serve, other) == DENIED
    assert error_of(held, serve, 0) == DENIED
    assert error_of(Instructions(), serve, other) == 0


@requires(4)
def test_the_filter_closes_the_ways_around_the_ports(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    ruleset = landlock.ruleset(Access(ports=Ports()), landlock.abi())
    held = Instructions(ruleset, (seccomp_filter("landlock"),))
    ways = {
        "socket.socket().sendto(b'x', 0x20000000, ('127.0.0.1', int(sys.argv[1])))": errno.EOPNOTSUPP,
        "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).connect(('127.0.0.1', int(sys.argv[1])))": (
            errno.EPROTONOSUPPORT
        ),
    }
    for source, refusal in ways.items():
        assert error_of(held, source, port) == refusal


@requires(6)
def test_a_program_signals_its_own_children_and_nothing_else() -> None:
    held = confined(Access(scoped=True))
    own = "child = os.fork()\nif not child: signal.pause()\nos.kill(child, 9)\nos.waitpid(child, 0)"
    with subprocess.Popen(["sleep", "1000"]) as outside:
        signal_it = "os.kill(int(sys.argv[1]), 0)"

        assert error_of(held, signal_it, outside.pid) == errno.EPERM
        assert error_of(Instructions(), signal_it, outside.pid) in {0, errno.EPERM}
        assert error_of(held, own) == 0
        outside.kill()


@requires(6)
def test_abstract_sockets_of_others_are_out_of_reach(tmp_path: Path) -> None:
    name = f"confinement {tmp_path}"
    connect = "socket.socket(socket.AF_UNIX).connect('\\0' + sys.argv[1])"
    with socket.socket(socket.AF_UNIX) as outside:
        outside.bind(f"\0{name}")
        outside.listen()

        assert error_of(confined(Access(scoped=True)), connect, name) == errno.EPERM
        assert error_of(Instructions(), connect, name) == 0


@requires(1)
def test_the_environment_of_other_processes_is_out_of_reach() -> None:
    held = confined(Access(Files((*PYTHON_FOLDERS, Path("/proc")))))
    read = "open(f'/proc/{sys.argv[1]}/environ').read()"
    with subprocess.Popen(["sleep", "1000"]) as outside:
        assert error_of(held, read, outside.pid) == DENIED
        assert error_of(held, read, "self") == 0
        assert error_of(Instructions(), read, outside.pid) in {0, DENIED}
        outside.kill()


@requires(1)
def test_a_path_that_is_missing_allows_nothing_and_stops_nothing() -> None:
    held = confined(Access(Files((*PYTHON_FOLDERS, Path("/nonexistent/folder")))))

    assert error_of(held, "pass") == 0


@requires(1)
def test_a_path_that_leads_through_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/root")
    held = confined(Access(Files((*SYSTEM, tmp_path / "link" / "folder"))))

    ended = launch(held, "true")

    assert ended.returncode == 126
    reason = "Too many levels of symbolic links"
    assert ended.stderr == f"runtimed: cannot confine the program: Landlock: {tmp_path}/link/folder: {reason}\n"
