"""Settings of the store."""

from pathlib import Path

import attrs

from runtimed.store.factories import find_store


@attrs.frozen(slots=False)
class StoreSettings:
    """Where the Runtime keeps its data: the URL of a store, whose factory has the settings of its own."""

    store: str = "memory"

    @property
    def store_path(self) -> Path | None:
        """Where the store is kept, None for one without a place."""
        return find_store(self.store).settings.path

    def check_store(self) -> None:
        """Raise ConfigurationError if no installed store has this URL."""
        find_store(self.store)
