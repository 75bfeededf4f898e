"""The scheme `memory`."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import attrs

from runtimed.store.data_dir import DataDir
from runtimed.store.factories import OpenedStore
from runtimed.store.memory.store import MemoryStore

log = logging.getLogger(__name__)


@attrs.frozen
class MemorySettings:
    """The URL `memory`, which has no options."""

    rule: ClassVar[str] = "memory"
    path: None = None

    @classmethod
    def parse(cls, url: str) -> "MemorySettings":
        """Return the settings in a URL. Raises ValueError unless it is `memory`."""
        if url != cls.rule:
            raise ValueError(url)
        return cls()


class MemoryFactory:
    """Makes stores that live as long as the daemon, and a scratch directory for each."""

    settings = MemorySettings
    tools = None

    @contextlib.contextmanager
    def open(self, settings: MemorySettings) -> Iterator[OpenedStore]:
        """Make a store; leaving the context removes its Workers' folders."""
        scratch = Path(tempfile.mkdtemp(prefix="runtimed-"))
        data_dir = DataDir(scratch, is_scratch=True)
        try:
            yield OpenedStore(MemoryStore(), data_dir, keeps_token=False)
        finally:
            try:
                data_dir.remove_scratch()
            except OSError as error:
                log.warning("cannot remove the folder of the Workers", extra={"path": scratch, "reason": error})


FACTORY = MemoryFactory()
