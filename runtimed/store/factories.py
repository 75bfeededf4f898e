"""The stores that are installed, each found by the scheme of its URL."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, Protocol

import attrs

from runtimed.core.ports import Store
from runtimed.errors import ConfigurationError
from runtimed.model.runtime import StoreCheck
from runtimed.store.data_dir import DataDir

GROUP = "runtimed.stores"
"""The group of entry points. The name of an entry point is a scheme, its object a StoreFactory."""


@attrs.frozen
class OpenedStore:
    """A store that is ready to be given to a Runtime, and the directory of its Workers' folders.

    Args:
        store: The store; the Runtime opens and closes it.
        data_dir: Holds a folder for each Worker.
        keeps_token: Whether `data_dir` outlives the daemon and keeps its token.
    """

    store: Store
    data_dir: DataDir
    keeps_token: bool


@attrs.frozen
class Inspection:
    """What is in a store that no daemon holds.

    Args:
        check: What was read and found.
        remarks: What a start would do, if an operator should know it beforehand.
    """

    check: StoreCheck
    remarks: tuple[str, ...]


@attrs.frozen
class Restored:
    """What came of a backup.

    Args:
        check: What was read of it. The store has what was found.
        skipped: What the backup had to leave out of the folders of Workers, and why.
    """

    check: StoreCheck
    skipped: tuple[str, ...] = ()


Progress = Callable[[int, int], None]
"""Called with how many pages are copied, and how many there are."""


class StoreSettings(Protocol):
    """The settings in the URL of a store: its path, and the options in its query.

    `rule` describes the accepted URLs in error messages.
    """

    rule: ClassVar[str]

    @property
    def path(self) -> Path | None:
        """The path of the store, or None if it has none."""

    @classmethod
    def parse(cls, url: str) -> "StoreSettings":
        """Return the settings in a URL. Raises ValueError for a URL that `rule` does not describe."""


class StoreTools(Protocol):
    """What can be done with stores that no daemon holds.

    All methods block. They raise StoreInUse while a daemon holds the store, and StoreUnsupported if there is no store
    or no backup that this version can read.
    """

    def inspect(self, settings: Any) -> Inspection:
        """Read the whole store of these settings, and change nothing."""

    def back_up(self, settings: Any, file: Path, progress: Progress) -> Inspection:
        """Copy the store into a file, without the folders of Workers, and read the whole copy.

        The file appears whole, or not at all.
        """

    def restore(self, file: Path, settings: Any) -> Restored:
        """Make a store of a backup. It appears whole, or not at all.

        Damage with which the store can be opened is reported and restored. Raises StoreCorrupt for any other.
        """


class StoreFactory(Protocol):
    """Makes the stores of one scheme."""

    @property
    def settings(self) -> type[StoreSettings]:
        """The class of the settings in a URL."""

    @property
    def tools(self) -> StoreTools | None:
        """What can be done with stores that no daemon holds. None if no store outlives a daemon."""

    def open(self, settings: Any) -> contextlib.AbstractContextManager[OpenedStore]:
        """Make a store from its settings; leaving the context cleans up. Blocks only briefly."""


@attrs.frozen
class ConfiguredStore:
    """A store as its URL names it."""

    factory: StoreFactory
    settings: StoreSettings

    def open(self) -> contextlib.AbstractContextManager[OpenedStore]:
        """Make the store; leaving the context cleans up."""
        return self.factory.open(self.settings)


@cache
def installed_stores() -> Mapping[str, EntryPoint]:
    """Return the entry points of the stores that are installed, by scheme. The first call reads files."""
    return {found.name: found for found in entry_points(group=GROUP)}


def find_store(url: str, option: str = "store") -> ConfiguredStore:
    """Find the store that a URL names.

    Args:
        url: A scheme, followed by what its settings accept.
        option: The option that holds the URL, for the error message.

    Raises:
        ConfigurationError: No store that is installed accepts the URL.
    """
    found = installed_stores().get(url.partition(":")[0])
    if found is not None:
        factory: StoreFactory = found.load()
        with contextlib.suppress(ValueError):
            return ConfiguredStore(factory, factory.settings.parse(url))
    raise _refusal(option, _load(installed_stores().values()))


def find_tools(url: str, option: str) -> tuple[StoreTools, StoreSettings]:
    """Find what can be done with the store that a URL names, among those that outlive a daemon.

    Raises:
        ConfigurationError: No such store accepts the URL.
    """
    lasting = [factory for factory in _load(installed_stores().values()) if factory.tools is not None]
    with contextlib.suppress(ConfigurationError):
        found = find_store(url, option)
        if (tools := found.factory.tools) is not None:
            return tools, found.settings
    raise _refusal(option, lasting)


def _load(found: Iterable[EntryPoint]) -> list[StoreFactory]:
    return [entry_point.load() for entry_point in found]


def _refusal(option: str, factories: Iterable[StoreFactory]) -> ConfigurationError:
    """Name the accepted URLs, the shortest rule first: options at its end would seem to belong to the next rule."""
    rules = sorted((factory.settings.rule for factory in factories), key=len)
    return ConfigurationError(f"{option}: expected {' or '.join(rules)}")
