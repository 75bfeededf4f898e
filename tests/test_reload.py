"""A reload changes all parts of the daemon, or none."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
import pytest

from runtimed.errors import ConfigurationError
from runtimed.reload import Apply, Part, Reload, reads_no_configuration
from runtimed.settings import Settings

BEFORE = Settings(max_workers=1, display_name="before")
AFTER = attrs.evolve(BEFORE, max_workers=2, max_bundles=5, display_name="after")


class Applied:
    """Parts that note what they have applied."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def part(self, name: str, *settings: str, rereads: bool = False) -> Part:
        return Part(frozenset(settings), partial(self._prepare, name), rereads)

    async def _prepare(self, name: str, new: Settings) -> Apply:
        return lambda: self.found.append(f"{name} {new.max_workers}")


@pytest.fixture
def applied() -> Applied:
    return Applied()


def failing(error: Exception) -> Part:
    async def prepare(_new: Settings) -> Apply:
        raise error

    return Part(frozenset({"max_bundles"}), prepare)


async def test_only_parts_with_a_changed_setting_and_those_that_read_files_are_asked(
    applied: Applied, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    parts = (
        applied.part("workers", "max_workers"),
        applied.part("bundles", "log_level"),
        applied.part("files", rereads=True),
    )
    reload = Reload(BEFORE, lambda: AFTER, parts)

    assert await reload.run() == "serving"
    assert await reload.run() == "serving"

    assert applied.found == ["workers 2", "files 2", "files 2"]
    told = [(record.message, vars(record).get("changed") or vars(record)["settings"]) for record in caplog.records]
    only_at_start = ("these settings change at the next start only", "display_name, max_bundles")
    assert told == [
        ("configuration reloaded", "max_workers"),
        only_at_start,
        ("configuration reloaded", "nothing"),
        only_at_start,
    ]


@pytest.mark.parametrize("error", [ConfigurationError("max_bundles: too many"), OSError("disk"), KeyError("a bug")])
async def test_a_part_that_refuses_keeps_the_others_from_changing(applied: Applied, error: Exception) -> None:
    parts = (applied.part("first", "max_workers"), failing(error), applied.part("last", "max_workers"))
    reload = Reload(BEFORE, lambda: AFTER, parts)

    assert (await reload.run()).startswith("the last reload failed")

    assert applied.found == []


@pytest.mark.parametrize(("name", "is_later"), [("display_name", True), ("max_bundles", False)])
async def test_a_refusal_for_a_setting_that_changes_at_the_next_start_asks_for_a_restart(
    applied: Applied, name: str, is_later: bool
) -> None:
    reload = Reload(BEFORE, lambda: AFTER, (failing(ConfigurationError(f"{name}: /used/file: not found")),))

    told = await reload.run()

    assert told.startswith(f"the last reload failed: {name}: /used/file: not found")
    assert told.endswith("its new value holds from the next start on: restart the daemon") is is_later


async def test_parts_get_what_changes_live_and_the_rest_as_it_is_in_use(tmp_path: Path) -> None:
    used, other = tmp_path / "used", tmp_path / "other"
    before = Settings(token_file=str(used))
    found: list[tuple[str, int]] = []

    async def prepare(new: Settings) -> Apply:
        return lambda: found.append((new.token_file, new.max_workers))

    new = attrs.evolve(before, token_file=str(other), max_workers=2)
    await Reload(before, lambda: new, (Part(frozenset({"max_workers"}), prepare),)).run()

    assert found == [(str(used), 2)]


async def test_a_mount_of_a_file_that_the_daemon_still_uses_is_refused(tmp_path: Path, applied: Applied) -> None:
    used, other = tmp_path / "used", tmp_path / "other"
    before = Settings(token_file=str(used))
    new = attrs.evolve(before, token_file=str(other), mounts={"data": {"path": str(used)}})
    await asyncio.to_thread(new.check)

    told = await Reload(before, lambda: new, (applied.part("workers", "mounts"),)).run()

    assert told.startswith("the last reload failed: mounts.data.path: ")
    assert applied.found == []


async def test_a_part_that_cannot_be_applied_keeps_no_other_from_it_nor_the_next_reload(
    applied: Applied, caplog: pytest.LogCaptureFixture
) -> None:
    async def prepare(_new: Settings) -> Apply:
        return _broken

    parts = (Part(frozenset({"max_workers"}), prepare), applied.part("last", "max_workers", rereads=True))
    reload = Reload(BEFORE, lambda: AFTER, parts)

    assert await reload.run() == "a part of the last reload failed; the log has the details"
    assert await reload.run() == "serving"

    assert applied.found == ["last 2"] * 2
    assert "a part of the configuration was not applied" in caplog.messages


async def test_a_reload_that_failed_is_made_up_for_by_the_next_one(applied: Applied) -> None:
    loads: Iterator[Callable[[], Settings]] = iter([_refused, lambda: AFTER])

    def load() -> Settings:
        return next(loads)()

    reload = Reload(BEFORE, load, (applied.part("workers", "max_workers"),))

    assert await reload.run() == "the last reload failed: config: not found"
    assert await reload.run() == "serving"

    assert applied.found == ["workers 2"]


async def test_the_users_of_workers_stay_as_they_are(applied: Applied, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    new = attrs.evolve(BEFORE, sandbox={"uids": "200000-200009", "network": "none"})

    await Reload(BEFORE, lambda: new, (applied.part("workers", "sandbox"),)).run()

    assert [vars(record).get("changed") or vars(record)["settings"] for record in caplog.records] == [
        "sandbox.network",
        "sandbox.uids",
    ]


async def test_files_that_settings_name_are_read_without_a_configuration_too(applied: Applied) -> None:
    reload = Reload(BEFORE, reads_no_configuration, (applied.part("files", rereads=True),))

    assert await reload.run() == "serving"

    assert applied.found == ["files 1"]


def _broken() -> None:
    raise KeyError("a bug")


def _refused() -> Settings:
    raise ConfigurationError("config: not found")
