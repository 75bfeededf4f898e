"""The scheme `fs`."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import attrs

from runtimed.store.factories import Inspection, OpenedStore, Progress, Restored
from runtimed.store.sqlite.inspection import inspect
from runtimed.store.sqlite.offline_backup import back_up
from runtimed.store.sqlite.restore import restore
from runtimed.store.sqlite.store import SqliteStore
from runtimed.store.sqlite.sync import Sync

_QUERY = r"sync=normal(?:&create=no)?|create=no(?:&sync=normal)?"
_URL = re.compile(rf"fs:(?P<path>[^?]*[^?\s][^?]*)(?:\?(?P<query>{_QUERY}))?")


@attrs.frozen
class FsSettings:
    """A URL `fs:PATH`.

    Args:
        path: The folder of the store. `~` is the user's home.
        sync: When commits are synced: before they are acknowledged, or some time later (`?sync=normal`).
        create: Whether a missing store is created (not with `?create=no`).
    """

    rule: ClassVar[str] = "fs:PATH, with ?sync=normal, ?create=no or ?sync=normal&create=no"
    path: Path
    sync: Sync = "full"
    create: bool = True

    @classmethod
    def parse(cls, url: str) -> "FsSettings":
        """Return the settings in a URL. Raises ValueError for a URL that `rule` does not describe."""
        match = _URL.fullmatch(url)
        if match is None:
            raise ValueError(url)
        query = (match["query"] or "").split("&")
        sync: Sync = "normal" if "sync=normal" in query else "full"
        return cls(Path(match["path"]).expanduser(), sync, "create=no" not in query)


class FsFactory:
    """Makes stores that are kept in a folder."""

    settings = FsSettings

    @property
    def tools(self) -> "FsTools":
        """What can be done with stores that no daemon holds."""
        return FsTools()

    @contextlib.contextmanager
    def open(self, settings: FsSettings) -> Iterator[OpenedStore]:
        """Make a store. Its folder stays when the context is left."""
        store = SqliteStore(settings.path, settings.sync, create=settings.create)
        yield OpenedStore(store, store.data_dir, keeps_token=True)


class FsTools:
    """What can be done with stores in folders that no daemon holds."""

    def inspect(self, settings: FsSettings) -> Inspection:
        return inspect(settings.path)

    def back_up(self, settings: FsSettings, file: Path, progress: Progress) -> Inspection:
        return back_up(settings.path, file, progress)

    def restore(self, file: Path, settings: FsSettings) -> Restored:
        return restore(file, settings.path)


FACTORY = FsFactory()
