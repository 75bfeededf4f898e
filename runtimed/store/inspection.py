"""A check of a store that no daemon holds, which changes nothing at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import apsw
import attrs

from runtimed.errors import StoreCorrupt
from runtimed.model.runtime import StoreCheck
from runtimed.store.check import Check
from runtimed.store.connection import translated, untouching
from runtimed.store.folder import StoreFolder
from runtimed.store.salvage import find_damage, kept_log, mended
from runtimed.store.schema import VERSION, check_version


@attrs.frozen
class Inspection:
    """What was found, and in `remarks` what a start would do that an operator may want to know of before."""

    check: StoreCheck
    remarks: tuple[str, ...]


def inspect(path: Path) -> Inspection:
    """Read all of the store in a folder as a start would see it. Blocks, for as long as that takes.

    Raises StoreInUse while a daemon holds it, StoreUnsupported where it is none, or none of this version.
    """
    folder, check, remarks = StoreFolder(path), Check(), list[str]()
    with folder.held_still() as database, translated():
        for problem in folder.problems():
            check.found(problem)
        with _as_at_start(database, check) as connection:
            _look(connection, check, remarks)
        if kept_log(database).exists():
            remarks.append(f"an earlier start kept a damaged log as {kept_log(database).name}")
    return Inspection(check.result(), tuple(remarks))


@contextlib.contextmanager
def _as_at_start(database: Path, check: Check) -> Iterator[apsw.Connection]:
    """A connection that sees what a start would see, or what there is where a start would be refused."""
    damage = find_damage(database)
    with contextlib.ExitStack() as parts:
        if damage is not None:
            try:
                connection = parts.enter_context(mended(database, damage))
            except StoreCorrupt as error:
                check.found(f"a start is refused: {error.message}")
            else:
                check.found(f"{damage}; a start reads on behind it, and keeps a copy")
                yield connection
                return
        yield parts.enter_context(contextlib.closing(untouching(database)))


def _look(connection: apsw.Connection, check: Check, remarks: list[str]) -> None:
    for step in check.structure():
        step(connection)
    version = check_version(connection)
    if version < VERSION:
        remarks.append(
            f"this is version {version} of a store: a start brings it to {VERSION}; its rows were not read"
        )
        return
    for step in check.rows():
        step(connection)
