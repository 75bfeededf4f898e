"""A backup of a daemon that serves, the daemon on its restored copy, and what clients of the lost time meet."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import programs
from tests.acceptance.daemon.conftest import DEADLINE_S, ZERO, Daemon, Launch
from tests.programs import RUNTIMED

LOST_SEQUENCES = 2**32
LOST_WORKERS = 2**16

Store = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Runs `runtimed store`."""

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = programs.run([*RUNTIMED, "store", *args], env, timeout=DEADLINE_S, cwd=tmp_path)
        assert "Traceback" not in done.stderr
        return done

    return run


def fetch(daemon: Daemon, file: Path, query: str = "") -> Path:
    answer = daemon.call("GET", f"/v1/runtime/backup{query}")
    assert (answer.status, answer.header("Content-Type")) == (200, "application/octet-stream"), answer.body
    file.write_bytes(answer.body)
    return file


def sequence(cursor: str) -> int:
    return int(cursor.removeprefix("wo_"), 16)


def worker_number(worker_id: str) -> int:
    return int(worker_id.removeprefix("worker-"), 16)


def diagnostic(daemon: Daemon, worker_id: str, cursor: str) -> str:
    """The code with which a feed of a Worker refuses a cursor."""
    with daemon.observe(worker_id, cursor) as observer:
        [frame] = observer.rest()
    return str(frame["diagnostic"]["code"])


def refusal(daemon: Daemon, path: str) -> tuple[int, str]:
    answer = daemon.call("GET", path)
    return answer.status, json.loads(answer.body)["error"]["code"]


class Restored:
    """A daemon on a store that was restored from a backup, after which its Runtime had gone on."""

    def __init__(self, daemon: Daemon, worker_id: str, kept: str, lost: str, lost_worker: str) -> None:
        self.daemon = daemon
        self.worker_id = worker_id
        self.kept = kept
        self.lost = lost
        self.lost_worker = lost_worker


@pytest.fixture
def restored(tmp_path: Path, launch: Launch, store: Store) -> Iterator[Restored]:
    first = launch(store=f"fs:{tmp_path / 'first'}").ready()
    worker_id = first.echo()
    first.input(worker_id, "kept")
    first.idle(worker_id)
    kept = first.worker(worker_id)["last_cursor"]
    file = fetch(first, tmp_path / "backup")
    lost_worker = first.echo()
    first.input(worker_id, "lost")
    first.idle(worker_id)
    lost = first.worker(worker_id)["last_cursor"]
    first.kill()

    done = store("restore", str(file), f"fs:{tmp_path / 'second'}")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"{tmp_path / 'second'}: restored"
    second = launch(store=f"fs:{tmp_path / 'second'}").ready()
    assert (second.runtime_id, second.token != first.token) == (first.runtime_id, True)
    yield Restored(second, worker_id, kept, lost, lost_worker)
    second.stop()
    assert store("check", f"fs:{tmp_path / 'second'}").returncode == 0


def test_a_cursor_of_the_lost_time_is_unknown_for_ever_and_one_of_the_backup_goes_on(restored: Restored) -> None:
    daemon, worker_id = restored.daemon, restored.worker_id
    assert sequence(restored.lost) > sequence(restored.kept)
    assert [item["content"] for item in daemon.items(worker_id)][::2] == ["kept"]
    unknown = "runtime.cursor_unknown_or_expired"
    for _ in range(2):
        assert diagnostic(daemon, worker_id, restored.lost) == unknown
        for path in (f"/v1/workers/{worker_id}/events", "/v1/events"):
            assert refusal(daemon, f"{path}?cursor={restored.lost}") == (410, unknown)
        wait = f"/v1/workers/{worker_id}/wait?for=idle&cursor={restored.lost}"
        assert refusal(daemon, wait) == (410, unknown)
        daemon.input(worker_id, "new")
        daemon.idle(worker_id)

    with daemon.observe(worker_id, restored.kept) as observer:
        snapshot, first = observer.envelope(), observer.envelope()
    assert snapshot["cursor"] == restored.kept
    assert first["payload"]["event"] == "user_message"
    assert LOST_SEQUENCES < sequence(first["cursor"]) < 2**53
    newest = daemon.worker(worker_id)
    assert newest["last_event_id"] == sequence(newest["last_cursor"]) < 2**53


def test_new_workers_and_runtime_events_get_numbers_that_the_lost_time_cannot_have_given_out(
    restored: Restored,
) -> None:
    daemon = restored.daemon
    daemon.call("GET", f"/v1/workers/{restored.lost_worker}").refused(404, "worker_not_found")

    assert worker_number(daemon.echo()) > 1 + LOST_WORKERS

    events = json.loads(daemon.call("GET", "/v1/runtime/events").body)["events"]
    started = [event["id"] for event in events if event["kind"] == "runtime_started"]
    assert started[0] == 1
    assert started[1] > LOST_SEQUENCES


def test_an_observer_of_all_workers_that_begins_right_after_the_restore_misses_nothing(restored: Restored) -> None:
    daemon = restored.daemon
    with daemon.observe_all() as observer:
        daemon.input(restored.worker_id, "new")
        names = [observer.envelope()["payload"]["event"] for _ in range(2)]
    with daemon.observe_all(f"?cursor={restored.kept}") as observer:
        resumed = [observer.envelope()["payload"]["event"] for _ in range(2)]
    with daemon.observe_all(f"?cursor={ZERO}") as observer:
        everything = [observer.envelope()["cursor"] for _ in range(5)]

    assert names[0] == "user_message"
    assert resumed == names
    assert everything == sorted(everything)


def test_a_backup_of_the_restored_store_is_restored_again_with_another_gap(
    restored: Restored, tmp_path: Path, launch: Launch, store: Store
) -> None:
    restored.daemon.input(restored.worker_id, "second life")
    restored.daemon.idle(restored.worker_id)
    between = restored.daemon.worker(restored.worker_id)["last_cursor"]
    file = fetch(restored.daemon, tmp_path / "second backup")
    restored.daemon.input(restored.worker_id, "lost again")
    restored.daemon.idle(restored.worker_id)
    lost_again = restored.daemon.worker(restored.worker_id)["last_cursor"]
    assert store("restore", str(file), f"fs:{tmp_path / 'third'}").returncode == 0

    third = launch(store=f"fs:{tmp_path / 'third'}").ready()
    third.input(restored.worker_id, "third life")
    third.idle(restored.worker_id)

    for cursor in (restored.lost, lost_again):
        assert diagnostic(third, restored.worker_id, cursor) == "runtime.cursor_unknown_or_expired"
    with third.observe(restored.worker_id, between) as observer:
        assert observer.envelope()["cursor"] == between
        assert sequence(observer.envelope()["cursor"]) > sequence(between) + LOST_SEQUENCES
    assert worker_number(third.echo()) > 1 + 2 * LOST_WORKERS
    third.stop()


def test_a_second_restore_of_the_same_backup_knows_no_cursor_of_the_first_one(
    restored: Restored, tmp_path: Path, launch: Launch, store: Store
) -> None:
    restored.daemon.input(restored.worker_id, "second life")
    restored.daemon.idle(restored.worker_id)
    newest = restored.daemon.worker(restored.worker_id)["last_cursor"]
    worker_id = restored.daemon.echo()
    assert store("restore", str(tmp_path / "backup"), f"fs:{tmp_path / 'third'}").returncode == 0

    third = launch(store=f"fs:{tmp_path / 'third'}").ready()
    for _ in range(2):
        third.input(restored.worker_id, "third life")
        third.idle(restored.worker_id)
    other = third.echo()

    assert diagnostic(third, restored.worker_id, newest) == "runtime.cursor_unknown_or_expired"
    assert refusal(third, f"/v1/events?cursor={newest}") == (410, "runtime.cursor_unknown_or_expired")
    assert other != worker_id
    third.call("GET", f"/v1/workers/{worker_id}").refused(404, "worker_not_found")
    third.stop()


def test_a_backup_with_folders_brings_the_files_of_workers_back(tmp_path: Path, launch: Launch, store: Store) -> None:
    first = launch(store=f"fs:{tmp_path / 'first'}").ready()
    worker_id = first.shell()
    first.input(worker_id, "echo precious > file; ln -s file link; mkfifo pipe")
    first.idle(worker_id)
    file = fetch(first, tmp_path / "backup.tar", "?folders=true")
    first.stop()

    done = store("restore", str(file), f"fs:{tmp_path / 'second'}")

    assert done.returncode == 0
    assert (
        f"note: not in the backup: 'workers/{worker_id}/home/pipe': it is a device, a pipe or a socket" in done.stdout
    )
    second = launch(store=f"fs:{tmp_path / 'second'}").ready()
    second.input(worker_id, "cat link")
    second.idle(worker_id)
    assert "precious" in [item["content"].strip() for item in second.items(worker_id)]
    second.stop()


def test_a_store_in_memory_has_no_backup_and_says_what_has_one(launch: Launch) -> None:
    daemon = launch().ready()

    message = daemon.call("GET", "/v1/runtime/backup").refused(409, "backup_unavailable")

    assert "--store fs:PATH" in message
    daemon.call("GET", "/v1/runtime/backup?folders=yes").refused(400, "invalid_query")
    assert daemon.call("GET", "/v1/runtime/backup", token=None).status == 401


def test_a_store_that_is_in_use_or_not_there_is_named(tmp_path: Path, launch: Launch, store: Store) -> None:
    daemon = launch(store=f"fs:{tmp_path / 'used'}").ready()
    used, missing = f"fs:{tmp_path / 'used'}", f"fs:{tmp_path / 'missing'}"

    for args in (("check", used), ("backup", used, "file")):
        done = store(*args)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == f"runtimed: store {tmp_path / 'used'}: in use by process {daemon.pid}\n"
    for args in (
        ("check", missing),
        ("backup", missing, "file"),
        ("backup", "memory", "file"),
        ("restore", "x", "memory"),
    ):
        done = store(*args)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    fetch(daemon, tmp_path / "file")
    done = store("restore", "file", used)
    assert done.returncode == 2
    assert done.stderr.endswith("/used: it exists already; expected a path at which there is nothing yet\n")
    daemon.stop()


def test_a_backup_without_a_daemon_is_read_and_its_size_is_told(tmp_path: Path, launch: Launch, store: Store) -> None:
    daemon = launch(store=f"fs:{tmp_path / 'store'}").ready()
    daemon.echo()
    daemon.kill()

    done = store("backup", f"fs:{tmp_path / 'store'}", "file")

    size = (tmp_path / "file").stat().st_size
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"1 Workers, 0 entries and 0 events were read: no problem found\nfile: {size} bytes\n"


def test_a_damaged_backup_is_restored_but_for_what_is_damaged(tmp_path: Path, launch: Launch, store: Store) -> None:
    first = launch(store=f"fs:{tmp_path / 'first'}").ready()
    damaged, sound = first.echo(), first.echo()
    for worker_id in (damaged, sound):
        first.input(worker_id, f"precious {worker_id}")
        first.idle(worker_id)
    file = fetch(first, tmp_path / "backup")
    first.kill()
    content, text = file.read_bytes(), f"precious {damaged}".encode()
    file.write_bytes(content.replace(text, text.upper()))

    done = store("restore", str(file), f"fs:{tmp_path / 'second'}")

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    *findings, summary, restored = done.stdout.splitlines()
    assert findings
    assert all(line.startswith(f"{damaged}: ") for line in findings)
    assert "problems found" in summary
    assert restored == f"{tmp_path / 'second'}: restored"
    assert done.stderr == f"runtimed: {file}: the backup is damaged, and so is the restored store\n"
    second = launch(store=f"fs:{tmp_path / 'second'}").ready()
    assert [item["content"] for item in second.items(sound)][::2] == [f"precious {sound}"]
    assert refusal(second, f"/v1/workers/{damaged}/transcript")[1] == "store_corrupt"
    second.stop()

    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    done = store("restore", str(file), f"fs:{tmp_path / 'third'}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("runtimed: nothing was restored: the store is damaged")
    assert not (tmp_path / "third").exists()
