"""A check of a store that no daemon holds. It changes no file."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import apsw

from runtimed.errors import StoreCorrupt
from runtimed.store.data_dir import DataDir
from runtimed.store.factories import Inspection
from runtimed.store.sqlite.check import Check
from runtimed.store.sqlite.connection import connect_unchanging, translate_errors
from runtimed.store.sqlite.schema import VERSION, check_version
from runtimed.store.sqlite.wal_recovery import find_damage, kept_log, mended


def inspect(path: Path) -> Inspection:
    """Read the whole store in a folder, and report what a start would find. Blocks until everything is read.

    Raises:
        StoreInUse: A daemon holds the store.
        StoreUnsupported: The folder holds no store, or one of a newer version.
    """
    folder, check, remarks = DataDir(path), Check(), list[str]()
    with folder.locked() as database, translate_errors():
        for problem in folder.problems():
            check.found(problem)
        with _as_at_start(database, check) as connection:
            look(connection, check, remarks)
        if kept_log(database).exists():
            remarks.append(f"an earlier start kept a damaged log as {kept_log(database).name}")
    return Inspection(check.result(), tuple(remarks))


@contextlib.contextmanager
def _as_at_start(database: Path, check: Check) -> Iterator[apsw.Connection]:
    """Open a connection to what a start would see, or to the database as it is if a start would be refused."""
    damage = find_damage(database)
    with contextlib.ExitStack() as parts:
        if damage is not None:
            try:
                connection = parts.enter_context(mended(database, damage))
            except StoreCorrupt as error:
                check.found(f"a start is refused: {error.message}")
            else:
                check.found(f"{damage}; a start repairs it and keeps a copy")
                yield connection
                return
        yield parts.enter_context(contextlib.closing(connect_unchanging(database)))


def look(connection: apsw.Connection, check: Check, remarks: list[str]) -> None:
    """Read a whole database, and collect the findings, and the remarks about a start."""
    for step in check.structure():
        step(connection)
    version = check_version(connection)
    if version < VERSION:
        remarks.append(
            f"the store has version {version}: a start migrates it to {VERSION}, and earlier versions of runtimed"
            " cannot open it then; make a backup first. Its rows were not read"
        )
        return
    for step in check.rows():
        step(connection)
