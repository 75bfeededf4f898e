"""Settings are read again from the files that were read before, and from those that have come since."""

import asyncio
from pathlib import Path

import pytest

from runtimed.errors import ConfigurationError
from runtimed.reload import Apply, Part, Reload
from runtimed.settings import Configuration, Settings, configuration_folders


@pytest.fixture
def usual(user_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's configuration file, which is not there yet, and no file of the system."""
    monkeypatch.setattr("runtimed.settings.loading.SYSTEM_FILE", user_folders / "none.toml")
    (user_folders / "config" / "runtimed").mkdir()
    return user_folders / "config" / "runtimed" / "config.toml"


def test_without_a_file_there_is_nothing_to_read_again(usual: Path) -> None:
    configuration = Configuration({"max_workers": 5})

    assert configuration.load().max_workers == 5
    assert configuration.reload() is None


def test_a_file_that_has_come_since_is_read_below_the_flags(usual: Path) -> None:
    configuration = Configuration({"max_workers": 5})
    configuration.load()
    usual.write_text("max_workers = 6\nmax_bundles = 7\n")

    found = configuration.reload()

    assert found is not None
    assert (found.max_workers, found.max_bundles) == (5, 7)


def test_a_usual_file_that_cannot_be_looked_at_is_named_and_does_not_matter_where_another_is_given(
    usual: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = "x" * 256  # longer than a name may be, because root may look at everything else
    monkeypatch.setenv("XDG_CONFIG_HOME", folder)

    with pytest.raises(ConfigurationError, match=rf"config: {folder}/runtimed/config\.toml: File name too long"):
        Configuration({}).load()
    usual.write_text("max_workers = 6\n")
    assert Configuration({}, str(usual)).load().max_workers == 6
    assert not [found for found in configuration_folders() if folder in found.parts]


def test_a_file_that_is_gone_is_an_error_and_not_the_defaults(usual: Path) -> None:
    usual.write_text("max_workers = 6\n")
    configuration = Configuration({})
    configuration.load()
    usual.unlink()

    with pytest.raises(ConfigurationError, match=f"config: {usual}: not found"):
        configuration.reload()


def test_a_file_is_in_use_once_all_parts_of_the_daemon_have_taken_it(usual: Path) -> None:
    configuration = Configuration({})
    configuration.load()
    usual.write_text("max_workers = 6\n")
    assert "no room" in reload(configuration, Part(frozenset({"max_workers"}), _refuse))
    usual.unlink()
    assert reload(configuration) == "serving", "the file was never in use"
    usual.write_text("max_workers = 6\n")
    assert reload(configuration) == "serving"
    usual.unlink()

    assert f"{usual}: not found" in reload(configuration)


def reload(configuration: Configuration, *parts: Part) -> str:
    kept = Part(frozenset(), configuration.prepare, rereads=True)
    return asyncio.run(Reload(Settings(), configuration.reload, (kept, *parts)).run())


async def _refuse(_new: Settings) -> Apply:
    raise ConfigurationError("no room")


def test_a_file_that_was_bad_is_read_once_it_is_right(usual: Path) -> None:
    usual.write_text("max_workers = 6\n")
    configuration = Configuration({})
    configuration.load()
    usual.write_text("max_workers = 0\n")
    with pytest.raises(ConfigurationError, match="max_workers"):
        configuration.reload()
    usual.write_text("max_workers = 8\n")

    found = configuration.reload()

    assert found is not None
    assert found.max_workers == 8
