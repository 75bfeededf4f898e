"""Which process trees are ended because the folders of their Workers are too large."""

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from runtimed.execution.processes import folder_monitor
from runtimed.execution.processes.folder_monitor import FolderMonitor
from runtimed.execution.processes.folder_size import folder_size
from runtimed.execution.processes.limits import FolderLimit

DEADLINE_S = 30.0
MIB = 1 << 20
LIMIT = 8 * MIB


class Tree:
    """What the monitor knows of a process tree, and the sizes for which it was told to end."""

    def __init__(self, *, is_in_run: bool = True) -> None:
        self.is_in_run = is_in_run
        self.sizes: list[int] = []

    def outgrow(self, size_bytes: int) -> None:
        self.sizes.append(size_bytes)

    async def ended(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            while not self.sizes:
                await asyncio.sleep(0.01)
        return self.sizes[0]


class Counts:
    """Counts folders as the monitor does, and how often."""

    def __init__(self) -> None:
        self.folders: list[Path] = []
        self._size = folder_size

    def __call__(self, folder: Path, is_cut: Callable[[], bool]) -> int | None:
        found = self._size(folder, is_cut)
        self.folders.append(folder)
        return found

    async def more(self, folder: Path, count: int = 2) -> None:
        """Wait until the folder was counted so often again, the results of all but the last included."""
        wanted = self.folders.count(folder) + count + 1
        async with asyncio.timeout(DEADLINE_S):
            while self.folders.count(folder) < wanted:
                await asyncio.sleep(0.01)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    made = Counts()
    monkeypatch.setattr(folder_monitor, "folder_size", made)
    return made


@pytest.fixture
async def monitor(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FolderMonitor]:
    """A monitor that counts without long pauses."""
    monkeypatch.setattr(folder_monitor, "TICK_S", 0.01)
    monkeypatch.setattr(folder_monitor, "RUN_INTERVAL_S", 0.01)
    made = FolderMonitor()
    yield made
    await made.close()


def _folder(place: Path, name: str, size: int) -> FolderLimit:
    (place / name).mkdir()
    _fill(place / name / "file", size)
    return FolderLimit(place / name, LIMIT)


def _fill(path: Path, size: int) -> None:
    path.write_bytes(os.urandom(size))


async def test_a_tree_is_ended_when_its_folder_outgrows_the_limit_and_no_other(
    monitor: FolderMonitor, counts: Counts, tmp_path: Path
) -> None:
    grown, other = Tree(), Tree()
    limit, others = _folder(tmp_path, "grown", LIMIT // 2), _folder(tmp_path, "other", LIMIT // 2)
    monitor.add(grown, limit)
    monitor.add(other, others)
    await counts.more(limit.folder)
    assert grown.sizes == []

    await asyncio.to_thread(_fill, limit.folder / "more", LIMIT)

    assert await grown.ended() > LIMIT
    await counts.more(others.folder)
    assert other.sizes == []


async def test_the_next_program_in_a_large_folder_may_clean_up_but_not_fill_it_further(
    monitor: FolderMonitor, counts: Counts, tmp_path: Path
) -> None:
    first, second, third = Tree(), Tree(), Tree()
    limit = _folder(tmp_path, "folder", 2 * LIMIT)
    monitor.add(first, limit)
    await first.ended()
    await monitor.discard(first)

    monitor.add(second, limit)
    await counts.more(limit.folder)
    await asyncio.to_thread(_fill, limit.folder / "little", LIMIT // 32)
    await counts.more(limit.folder)
    assert second.sizes == []
    await asyncio.to_thread(_fill, limit.folder / "more", LIMIT // 8)
    assert await second.ended() > 2 * LIMIT
    await monitor.discard(second)

    monitor.add(third, limit)
    await counts.more(limit.folder)
    for name in ("file", "little", "more"):
        (limit.folder / name).unlink()
    await counts.more(limit.folder)
    assert third.sizes == []
    await asyncio.to_thread(_fill, limit.folder / "again", LIMIT + MIB)
    assert await third.ended() < 2 * LIMIT


async def test_what_was_cleaned_up_may_not_be_filled_again(
    monitor: FolderMonitor, counts: Counts, tmp_path: Path
) -> None:
    first, second = Tree(), Tree()
    limit = _folder(tmp_path, "folder", 3 * LIMIT)
    monitor.add(first, limit)
    await first.ended()
    await monitor.discard(first)
    monitor.add(second, limit)
    await counts.more(limit.folder)

    await asyncio.to_thread(_fill, limit.folder / "file", 2 * LIMIT)
    await counts.more(limit.folder)
    await asyncio.to_thread(_fill, limit.folder / "more", LIMIT // 2)

    assert await second.ended() < 3 * LIMIT


async def test_a_folder_is_counted_less_often_between_runs(
    monitor: FolderMonitor, counts: Counts, tmp_path: Path
) -> None:
    idle, running = Tree(is_in_run=False), Tree()
    limit, other = _folder(tmp_path, "idle", 2 * LIMIT), _folder(tmp_path, "running", MIB)
    monitor.add(idle, limit)
    monitor.add(running, other)
    await counts.more(other.folder)
    assert counts.folders.count(limit.folder) == 0

    idle.is_in_run = True

    await idle.ended()


async def test_a_folder_that_takes_long_to_count_is_counted_rarely(
    monitor: FolderMonitor, counts: Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_monitor, "MAX_SHARE", 1e-9)
    slow, limit = Tree(), _folder(tmp_path, "slow", MIB)
    monitor.add(slow, limit)
    await counts.more(limit.folder, 0)
    other, others = Tree(), _folder(tmp_path, "other", 2 * LIMIT)

    monitor.add(other, others)

    await other.ended()
    assert counts.folders.count(limit.folder) == 1


async def test_a_folder_that_cannot_be_counted_is_logged_once_and_the_others_are_counted(
    monitor: FolderMonitor, counts: Counts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, other = Tree(), Tree()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    monitor.add(broken, FolderLimit(tmp_path / "link", LIMIT))
    limit = _folder(tmp_path, "other", MIB)
    monitor.add(other, limit)

    await counts.more(limit.folder, 5)

    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in errors] == ["cannot count the folder of a Worker"]
    assert broken.sizes == other.sizes == []


async def test_a_folder_that_is_gone_is_no_failure(
    monitor: FolderMonitor, counts: Counts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = Tree()
    monitor.add(tree, FolderLimit(tmp_path / "nothing", LIMIT))
    await counts.more(tmp_path / "nothing")
    assert tree.sizes == []
    assert caplog.records == []


async def test_one_thread_counts_all_folders_and_ends_with_the_monitor(
    monitor: FolderMonitor, counts: Counts, tmp_path: Path
) -> None:
    limits = [_folder(tmp_path, str(number), 1000) for number in range(20)]
    for limit in limits:
        monitor.add(Tree(), limit)
    await counts.more(limits[-1].folder)
    assert len(_counting_threads()) == 1

    await monitor.close()
    await monitor.close()

    assert _counting_threads() == []


async def test_closing_cuts_a_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_monitor, "TICK_S", 0.01)
    monkeypatch.setattr(folder_monitor, "RUN_INTERVAL_S", 0.01)
    began = threading.Event()

    def endless(folder: Path, is_cut: Callable[[], bool]) -> int | None:
        began.set()
        while not is_cut():
            pass
        return None

    monkeypatch.setattr(folder_monitor, "folder_size", endless)
    monitor = FolderMonitor()
    monitor.add(Tree(), FolderLimit(tmp_path, LIMIT))
    assert await asyncio.to_thread(began.wait, DEADLINE_S)

    async with asyncio.timeout(DEADLINE_S):
        await monitor.close()

    assert _counting_threads() == []


async def test_only_so_many_large_folders_are_remembered(
    monitor: FolderMonitor, counts: Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_monitor, "MAX_OUTGROWN", 1)
    for name in ("forgotten", "remembered"):
        tree, limit = Tree(), _folder(tmp_path, name, 2 * LIMIT)
        monitor.add(tree, limit)
        await tree.ended()
        await monitor.discard(tree)

    forgotten, remembered = Tree(), Tree()
    monitor.add(remembered, FolderLimit(tmp_path / "remembered", LIMIT))
    monitor.add(forgotten, FolderLimit(tmp_path / "forgotten", LIMIT))

    await forgotten.ended()
    assert remembered.sizes == []


def _counting_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("folder-sizes")]


async def test_a_monitor_without_folders_runs_no_task(monitor: FolderMonitor, counts: Counts, tmp_path: Path) -> None:
    tree, before = Tree(), len(asyncio.all_tasks())
    limit = _folder(tmp_path, "folder", MIB)
    monitor.add(tree, limit)
    await counts.more(limit.folder)

    await monitor.discard(tree)
    await monitor.discard(tree)

    assert len(asyncio.all_tasks()) == before
    monitor.add(tree, limit)
    await counts.more(limit.folder)


async def test_a_monitor_that_never_had_a_folder_can_be_closed(monitor: FolderMonitor) -> None:
    await monitor.close()
