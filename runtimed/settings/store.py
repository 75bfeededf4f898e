"""Settings of the store."""

import re
from pathlib import Path

import attrs

from runtimed.errors import ConfigurationError
from runtimed.store.sync import Sync

STORE_QUERY = r"sync=normal(?:&create=no)?|create=no(?:&sync=normal)?"
STORE = re.compile(rf"fs:(?P<path>[^?]*[^?\s][^?]*)(?:\?(?P<query>{STORE_QUERY}))?")
STORE_RULE = "fs:PATH, with ?sync=normal, ?create=no or ?sync=normal&create=no"


@attrs.frozen(slots=False)
class StoreSettings:
    """Where the Runtime keeps its data."""

    store: str = "memory"

    @property
    def store_path(self) -> Path | None:
        """The folder of an `fs:` store, `~` being the user's home; None for one in memory."""
        return None if self.store == "memory" else store_folder(self.store)

    @property
    def store_sync(self) -> Sync:
        """When the commits of an `fs:` store are synced."""
        return "normal" if "sync=normal" in _store_query(self.store) else "full"

    @property
    def store_create(self) -> bool:
        """Whether an `fs:` store that is not there is made."""
        return "create=no" not in _store_query(self.store)

    def check_store(self) -> None:
        """Raise ConfigurationError if the store is not named as it must be."""
        if self.store != "memory" and not STORE.fullmatch(self.store):
            raise ConfigurationError(f"store: expected memory or {STORE_RULE}")


def store_folder(store: str, name: str = "store") -> Path:
    """The folder that `fs:PATH` names, whatever its query. Raises ConfigurationError for anything else."""
    match = STORE.fullmatch(store)
    if match is None:
        raise ConfigurationError(f"{name}: expected {STORE_RULE}")
    return Path(match["path"]).expanduser()


def _store_query(store: str) -> list[str]:
    match = STORE.fullmatch(store)
    return (match["query"] or "").split("&") if match else []
