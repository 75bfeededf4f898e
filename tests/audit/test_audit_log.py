"""The audit log: its lines, its file, its journal, and what happens when they cannot be written."""

import asyncio
import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runtimed.audit import AuditLog, AuditPolicy, AuditRecord, audit_log
from runtimed.audit.destinations import AuditFile
from runtimed.audit.record import MAX_TEXT
from runtimed.errors import ConfigurationError
from tests.acceptance.daemon.conftest import until
from tests.faults.store.disk import small_disk

NOON_MS = 1_800_014_400_125


def record(target: str, outcome: str = "200") -> AuditRecord:
    return AuditRecord(NOON_MS, outcome, "default", "admin", "input", target, "request-1", "127.0.0.1")


def _has_lines(file: Path) -> bool:
    return bool(file.read_bytes())


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def targets(file: Path) -> list[str]:
    return [line["target"] for line in lines(file)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def opened(file: Path) -> Iterator[AuditLog]:
    log = AuditLog(AuditPolicy(str(file)))
    yield log
    close(log)


def close(log: AuditLog) -> None:
    asyncio.run(log.close())


def reopen(log: AuditLog, policy: AuditPolicy) -> None:
    asyncio.run(log.prepare(policy))()


def test_a_record_is_a_line_of_json_with_exactly_these_keys(file: Path, opened: AuditLog) -> None:
    opened.record(record("/v1/workers/worker-00000001/input"))
    opened.record(AuditRecord(NOON_MS, "401 unauthorized", remote="unix"))
    close(opened)

    assert lines(file) == [
        {
            "time": "2027-01-15T12:00:00.125Z",
            "token": "default",
            "role": "admin",
            "verb": "input",
            "target": "/v1/workers/worker-00000001/input",
            "outcome": "200",
            "request_id": "request-1",
            "remote": "127.0.0.1",
        },
        {
            "time": "2027-01-15T12:00:00.125Z",
            "token": None,
            "role": None,
            "verb": None,
            "target": None,
            "outcome": "401 unauthorized",
            "request_id": None,
            "remote": "unix",
        },
    ]


def test_a_text_of_a_client_forges_no_line_and_is_bounded(file: Path, opened: AuditLog) -> None:
    forged = '/v1/workers/x"}\n{"token":"root"}\r\u2028\x00\udcff'
    opened.record(record(forged))
    opened.record(record("y" * 10_000))
    close(opened)

    assert file.read_bytes().isascii()
    assert [len(target) for target in targets(file)] == [len(forged), MAX_TEXT + 1]
    assert targets(file)[0] == forged


def test_lines_are_in_the_order_of_the_records_and_all_are_written_at_the_end(file: Path, opened: AuditLog) -> None:
    for number in range(2_000):
        opened.record(record(str(number)))
    close(opened)

    assert targets(file) == [str(number) for number in range(2_000)]
    assert opened.failed == 0


def test_the_file_is_created_for_its_user_alone_and_is_appended_to(file: Path) -> None:
    before = os.umask(0)
    try:
        for number in range(2):
            log = AuditLog(AuditPolicy(str(file)))
            log.record(record(str(number)))
            close(log)
    finally:
        os.umask(before)

    assert file.stat().st_mode & 0o777 == 0o600
    assert targets(file) == ["0", "1"]


def test_a_line_that_a_crash_has_torn_does_not_swallow_the_next_one(file: Path) -> None:
    file.write_bytes(b'{"time":"20')
    file.chmod(0o600)
    log = AuditLog(AuditPolicy(str(file)))
    log.record(record("whole"))
    close(log)

    assert json.loads(file.read_bytes().splitlines()[1])["target"] == "whole"


def link(file: Path) -> None:
    file.symlink_to(file.with_name("elsewhere"))


def pipe(file: Path) -> None:
    os.mkfifo(file, 0o600)


def folder(file: Path) -> None:
    file.mkdir()


def writable_by_others(file: Path) -> None:
    file.touch()
    file.chmod(0o622)


@pytest.mark.parametrize("make", [link, pipe, folder, writable_by_others])
def test_a_file_that_others_could_control_is_refused_by_name(file: Path, make: Callable[[Path], None]) -> None:
    make(file)

    with pytest.raises(ConfigurationError, match=rf"^audit\.file: {file}: ."):
        AuditLog(AuditPolicy(str(file)))

    assert not file.with_name("elsewhere").exists()


def test_after_a_rotation_a_reopened_log_writes_into_a_new_file(file: Path, opened: AuditLog) -> None:
    opened.record(record("before"))
    until(file.read_bytes)
    rotated = file.rename(file.with_suffix(".1"))
    opened.record(record("between"))
    until(lambda: len(lines(rotated)) == 2)
    reopen(opened, AuditPolicy(str(file)))
    opened.record(record("after"))
    close(opened)

    assert targets(rotated) == ["before", "between"]
    assert targets(file) == ["after"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_reopening_that_fails_changes_nothing(file: Path, opened: AuditLog, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing/audit"):
        reopen(opened, AuditPolicy(str(tmp_path / "missing" / "audit"), required=True))
    opened.record(record("here"))
    close(opened)

    assert targets(file) == ["here"]
    assert opened.problem is None


def test_a_log_is_turned_on_moved_and_turned_off_while_the_daemon_runs(tmp_path: Path) -> None:
    files = [tmp_path / "first", tmp_path / "second"]
    log = AuditLog(AuditPolicy())
    log.record(record("off"))
    for file in files:
        reopen(log, AuditPolicy(str(file)))
        log.record(record(file.name))
        until(partial(_has_lines, file))
    reopen(log, AuditPolicy())
    log.record(record("off again"))
    close(log)

    assert [targets(file) for file in files] == [["first"], ["second"]]
    assert log.failed == 0


class FakeJournal:
    """A socket in the place of the journal's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(60)

    def entry(self) -> dict[str, str]:
        """The fields of the next entry."""
        return dict(line.split("=", 1) for line in self._socket.recv(65_536).decode().splitlines())

    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.entry()["MESSAGE"])
        return found

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FakeJournal]:
    with contextlib.closing(FakeJournal(tmp_path / "journal")) as made:
        yield made


def test_the_journal_gets_each_line_as_an_entry_that_can_be_selected(journal: FakeJournal, tmp_path: Path) -> None:
    log = AuditLog(AuditPolicy("journal"), journal=tmp_path / "journal")
    log.record(record("first"))
    close(log)

    entry = journal.entry()

    assert json.loads(entry.pop("MESSAGE"))["target"] == "first"
    assert entry == {"SYSLOG_IDENTIFIER": "runtimed", "PRIORITY": "5", "RUNTIMED_AUDIT": "1"}


def test_a_journal_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^audit\.file: journal: No such file"):
        AuditLog(AuditPolicy("journal"), journal=tmp_path / "journal")


def fail_to_close(self: AuditFile) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_a_file_that_cannot_be_closed_keeps_no_line_out_of_the_next_one(
    file: Path, opened: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.record(record("before"))
    until(partial(_has_lines, file))
    rotated = file.rename(file.with_suffix(".1"))
    with monkeypatch.context() as failing:
        failing.setattr(AuditFile, "close", fail_to_close)
        reopen(opened, AuditPolicy(str(file)))
        opened.record(record("after"))
        until(partial(_has_lines, file))
    close(opened)

    assert (targets(rotated), targets(file)) == (["before"], ["after"])
    assert opened.failed == 0


@pytest.mark.usefixtures("impatient")
def test_a_line_waits_though_its_destination_fails_in_an_unknown_way(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: AuditFile, found: object) -> None:
        raise RuntimeError("nobody knows why")

    log = AuditLog(AuditPolicy(str(file), required=True))
    with monkeypatch.context() as failing:
        failing.setattr(AuditFile, "write", fail)
        log.record(record("first"))
        until(lambda: "nobody knows why" in str(log.problem))
    until(lambda: log.problem is None)
    close(log)

    assert targets(file) == ["first"]
    assert "cannot write the audit log: its records wait" in [one.getMessage() for one in caplog.records]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_log_whose_thread_has_ended_is_a_problem(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(BaseException):
        pass

    def end(self: AuditFile, found: object) -> None:
        raise Ended

    monkeypatch.setattr(AuditFile, "write", end)
    log = AuditLog(AuditPolicy(str(file), required=True))
    assert log.problem is None
    log.record(record("first"))

    until(lambda: log.problem == "audit_failed: the thread that writes the audit log has ended")
    close(log)

    assert log.failed == 1


def test_a_record_that_waits_holds_no_long_text() -> None:
    waiting = record("x" * 30_000)

    assert len(waiting.target or "") <= MAX_TEXT + 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry soon, and queue little."""
    monkeypatch.setattr(audit_log, "RETRY_S", 0.01)
    monkeypatch.setattr(audit_log, "MAX_QUEUED", 3)


@pytest.mark.usefixtures("impatient")
def test_records_wait_for_a_journal_that_is_away_and_lost_ones_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal"
    away = FakeJournal(path)
    log = AuditLog(AuditPolicy("journal", required=True), journal=path)
    away.close()
    log.record(record("first"))
    until(lambda: log.problem is not None)
    for number in range(5):
        log.record(record(str(number)))
    assert log.failed == 2
    assert "cannot be written" in str(log.problem)

    with contextlib.closing(FakeJournal(path)) as journal:
        found = [journal.message() for _ in range(5)]
        until(lambda: log.problem is None)
        log.record(record("last"))
        last = journal.message()
        close(log)

    assert [one["outcome"] for one in found] == ["lost 2", "200", "200", "200", "200"]
    assert [one["target"] for one in (*found, last)] == [None, "first", "0", "1", "2", "last"]
    messages = [one.getMessage() for one in caplog.records]
    assert messages.count("cannot write the audit log: its records wait") == 1
    assert messages.count("audit records are lost") == 1


@pytest.mark.usefixtures("impatient")
def test_what_cannot_be_written_at_the_end_is_counted_and_the_end_comes_soon(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    away = FakeJournal(path)
    log = AuditLog(AuditPolicy("journal"), journal=path)
    away.close()
    log.record(record("first"))
    log.record(record("second"))
    began = time.monotonic()
    close(log)

    assert log.failed == 2
    assert log.problem is None
    assert time.monotonic() - began < audit_log.CLOSE_TIMEOUT_S


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_on_a_full_disk_lines_wait_whole_and_are_written_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "RETRY_S", 0.01)
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        log = AuditLog(AuditPolicy(str(disk / "audit"), required=True))
        (disk / "filler").write_bytes(bytes(40 * 1024))
        for number in range(100):
            log.record(record(f"{number} {'x' * 400}"))
        until(lambda: "No space left on device" in str(log.problem))
        assert (disk / "audit").read_bytes()[-1:] in {b"", b"\n"}

        (disk / "filler").unlink()
        until(lambda: log.problem is None)
        close(log)

        assert [int(target.split()[0]) for target in targets(disk / "audit")] == list(range(100))
        assert log.failed == 0
