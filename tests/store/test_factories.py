"""Stores that are found by the scheme of their URL."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtimed.errors import ConfigurationError
from runtimed.model.identity import worker_id
from runtimed.store.data_dir import DataDir
from runtimed.store.factories import find_store, find_tools, installed_stores
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore

PLUGIN = """
import contextlib
from pathlib import Path


class Settings:
    rule = "quick:NAME"
    path = Path("/srv/quick")

    @classmethod
    def parse(cls, url):
        if not url.removeprefix("quick:"):
            raise ValueError(url)
        return cls()


class Factory:
    settings = Settings
    tools = None

    def open(self, settings):
        return contextlib.nullcontext("a quick store")


FACTORY = Factory()
"""


@pytest.fixture
def plugin(install_plugin: Callable[[str, str, str], None]) -> Iterator[None]:
    """Install a distribution with a store of its own."""
    install_plugin("runtimed.stores", "quick", PLUGIN)
    installed_stores.cache_clear()
    yield
    installed_stores.cache_clear()


def test_a_store_in_memory_has_a_scratch_directory_that_is_gone_afterwards() -> None:
    with find_store("memory").open() as opened:
        assert isinstance(opened.store, MemoryStore)
        assert not opened.keeps_token
        scratch = opened.data_dir.worker_folder(worker_id(1)).parent.parent
        assert scratch.is_dir()

    assert not scratch.exists()


def test_a_store_in_a_folder_keeps_the_token_there(tmp_path: Path) -> None:
    found = find_store(f"fs:{tmp_path / 'store'}?sync=normal")

    with found.open() as opened:
        assert isinstance(opened.store, SqliteStore)
        assert isinstance(opened.data_dir, DataDir)
        assert opened.keeps_token
    assert found.settings.path == tmp_path / "store"


@pytest.mark.parametrize("url", ["postgres:rt", "memory:", "memory?sync=normal", "memory:x"])
def test_a_url_of_no_store_is_refused_with_those_that_are_installed(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        find_store(url)

    assert str(refused.value) == (
        "store: expected memory or fs:PATH, with ?sync=normal, ?create=no or ?sync=normal&create=no"
    )


@pytest.mark.usefixtures("plugin")
def test_a_store_of_another_distribution_is_found_by_its_scheme() -> None:
    with find_store("quick:one").open() as opened:
        assert str(opened) == "a quick store"


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("url", ["quick:", "slow:one"])
def test_a_url_that_no_store_accepts_is_refused_with_all_that_are_installed(url: str) -> None:
    with pytest.raises(ConfigurationError, match="store: expected memory or quick:NAME or fs:PATH, with"):
        find_store(url)


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("url", ["memory", "quick:one", "slow:one", "fs:"])
def test_only_a_store_that_outlives_a_daemon_has_tools(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^check_store: expected fs:PATH, with"):
        find_tools(url, "check_store")


def test_a_store_in_memory_is_found_without_loading_sqlite() -> None:
    program = """
import sys
from runtimed.store.factories import find_store
find_store("memory")
print("apsw" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
