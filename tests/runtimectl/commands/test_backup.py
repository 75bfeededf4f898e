"""`runtimectl backup`: a whole file or none."""

import os
import re
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from runtimectl.job.private_file import PrivateFile
from runtimed.store.sqlite.inspection import inspect
from runtimed.store.sqlite.restore import restore
from tests.programs import RUNTIMECTL
from tests.runtimectl.conftest import Ctl, ServeRaw, StartCtl, StartDaemon, Until

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"


def test_the_file_is_a_backup_for_its_user_alone_and_replaces_an_earlier_one(
    start_daemon: StartDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    start_daemon("--store", f"fs:{tmp_path / 'store'}")
    assert ctl("workers", "create").returncode == 0
    file = tmp_path / "backup"
    file.write_text("an earlier backup")
    file.chmod(0o644)

    done = ctl("backup", str(file))

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"runtimectl: {file}: {file.stat().st_size} bytes, not checked\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".backup")] == []
    assert restore(file, tmp_path / "restored").check.workers == 1
    assert inspect(tmp_path / "restored").check.findings == ()
    quiet = ctl("-q", "backup", str(file))
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_the_folder_of_the_file_is_on_the_disk_before_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, bool]] = []
    fsync, place = os.fsync, tmp_path / "backup"

    def note(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink(), place.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    file = PrivateFile(str(place))
    file.write(b"a backup")
    file.close()

    assert [is_there for _, is_there in synced] == [False, True]
    assert synced[-1] == (tmp_path, True)


def test_with_folders_the_command_names_what_is_left_out(start_daemon: StartDaemon, ctl: Ctl, tmp_path: Path) -> None:
    start_daemon("--store", f"fs:{tmp_path / 'store'}")
    home = tmp_path / "store" / "workers" / "worker-00000001" / "home"
    home.mkdir(parents=True)
    os.mkfifo(home / "pipe")
    (home / "file").write_text("precious")
    file = tmp_path / "backup.tar"

    done = ctl("backup", "--with-folders", str(file))

    assert (done.returncode, done.stdout) == (0, "")
    told, left_out = done.stderr.splitlines()
    assert told == f"runtimectl: {file}: {file.stat().st_size} bytes, not checked"
    assert left_out.startswith("runtimectl: not in the backup: 'workers/worker-00000001/home/pipe': ")
    restore(file, tmp_path / "restored")
    assert (tmp_path / "restored" / home.relative_to(tmp_path / "store") / "file").read_text() == "precious"


@pytest.mark.usefixtures("daemon")
def test_a_refused_backup_leaves_an_earlier_file_as_it_is(ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    file.write_text("an earlier backup")

    done = ctl("backup", str(file))

    assert done.returncode == 5
    assert done.stderr.startswith("runtimectl: backup_unavailable: ")
    assert file.read_text() == "an earlier backup"


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("place", ["", "missing/backup"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_asked_for(
    ctl: Ctl, tmp_path: Path, place: str
) -> None:
    done = ctl("backup", str(tmp_path / place))

    assert done.returncode == 2
    assert done.stderr.startswith(f"runtimectl: cannot write {tmp_path / place}: ")


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 100\r\n\r\nSQLite",
        b"Transfer-Encoding: chunked\r\n\r\n6\r\nSQLite\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n60\r\nSQLite",
    ],
)
def test_an_answer_that_ends_early_leaves_no_file(ctl: Ctl, serve_raw: ServeRaw, tmp_path: Path, body: bytes) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(HEAD + body)

    done = ctl("--url", serve_raw(answer), "backup", str(tmp_path / "backup"), extra={"RUNTIMECTL_TOKEN": "t" * 20})

    assert done.returncode == 6
    assert "in the middle of its answer" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == []


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_interrupted_backup_leaves_nothing(
    start_ctl: StartCtl,
    serve_raw: ServeRaw,
    tmp_path: Path,
    until: Until,
    sent: signal.Signals,
    code: int,
    env: dict[str, str],
) -> None:
    begun = []

    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n" + bytes(500_000))
        begun.append(True)
        connection.recv(1)

    env["RUNTIMECTL_TOKEN"] = "t" * 20
    running = start_ctl("--url", serve_raw(answer), "backup", str(tmp_path / "backup"))
    until(lambda: begun, "the answer")
    running.process.send_signal(sent)

    assert running.finished() == code
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == []


def test_a_pipe_gets_the_backup_as_it_comes(
    start_daemon: StartDaemon, ctl: Ctl, tmp_path: Path, env: dict[str, str]
) -> None:
    start_daemon("--store", f"fs:{tmp_path / 'store'}")
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        done = ctl("backup", str(tmp_path / "pipe"))
        assert reader.stdout is not None
        found = reader.stdout.read()

    assert done.returncode == 0
    assert found.startswith(b"SQLite format 3\0")
    assert done.stderr.endswith(f": {len(found)} bytes, not checked\n")


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("target", ["precious", "absent", "pipe", "folder"])
def test_a_link_in_the_place_of_the_file_is_neither_followed_nor_replaced(
    ctl: Ctl, tmp_path: Path, target: str
) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    link = tmp_path / "backup"
    link.symlink_to(tmp_path / target)

    done = ctl("backup", str(link))

    problem = "Is a directory" if target == "folder" else "it is a symbolic link; name the file itself"
    assert (done.returncode, done.stderr) == (2, f"runtimectl: cannot write {link}: {problem}\n")
    assert link.readlink() == tmp_path / target
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "absent").exists()
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_link_among_the_folders_of_the_path_is_followed(
    start_daemon: StartDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    start_daemon("--store", f"fs:{tmp_path / 'store'}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")

    assert ctl("backup", str(tmp_path / "link" / "backup")).returncode == 0

    assert (tmp_path / "folder" / "backup").read_bytes().startswith(b"SQLite format 3\0")
    assert (tmp_path / "link").is_symlink()


@pytest.mark.usefixtures("daemon")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a pipe to another user")
def test_a_pipe_of_another_user_gets_nothing(ctl: Ctl, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    os.chown(pipe, 65_534, 65_534)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        done = ctl("backup", str(pipe))

        assert (done.returncode, done.stderr) == (
            2,
            f"runtimectl: cannot write {pipe}: it is a pipe of another user\n",
        )
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/null"])
def test_a_device_or_an_open_file_gets_the_backup_as_it_comes(
    start_daemon: StartDaemon, env: dict[str, str], tmp_path: Path, name: str
) -> None:
    start_daemon("--store", f"fs:{tmp_path / 'store'}")

    done = subprocess.run([*RUNTIMECTL, "backup", name], env=env, capture_output=True, check=True)

    assert done.stdout.startswith(b"SQLite format 3\0") is (name != "/dev/null")
    assert re.fullmatch(rf"runtimectl: {name}: [0-9]{{5,}} bytes, not checked\n", done.stderr.decode())
