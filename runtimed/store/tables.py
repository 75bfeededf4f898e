"""Descriptors of durable tables: columns, rows, checksums and statements of a noun, declared in one place."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter, itemgetter
from struct import Struct
from struct import error as StructError  # noqa: N812 it is a class
from typing import Any, Generic, Literal, TypeVar
from zlib import crc32

import attrs

from runtimed.core.state.change import Change, Forgotten
from runtimed.errors import StoreCorrupt

E = TypeVar("E")
D = TypeVar("D")
Row = tuple[Any, ...]

ABSENT = -1
"""The number that a checksum uses for NULL."""


@attrs.frozen
class Column:
    """A column of a STRICT table.

    Args:
        name: The name in SQL.
        kind: The type in SQL.
        nullable: Whether NULL is accepted, for numbers.
        default: An SQL literal for rows that were written before the column existed.
    """

    name: str
    kind: Literal["INTEGER", "TEXT", "BLOB"]
    nullable: bool = False
    default: str | None = None

    @property
    def definition(self) -> str:
        """The definition in CREATE TABLE, unless the column is the primary key."""
        null = "" if self.nullable else " NOT NULL"
        default = "" if self.default is None else f" DEFAULT {self.default}"
        return f"{self.name} {self.kind}{null}{default}"


CHECKSUM = Column("checksum", "INTEGER")
"""A column of each table, at any place after the primary key."""


def integer(name: str, *, nullable: bool = False, default: str | None = None) -> Column:
    """Return a column of 64-bit numbers."""
    return Column(name, "INTEGER", nullable, default)


def text(name: str, default: str | None = None) -> Column:
    """Return a column of text."""
    return Column(name, "TEXT", default=default)


def blob(name: str, default: str | None = None) -> Column:
    """Return a column of bytes."""
    return Column(name, "BLOB", default=default)


@attrs.frozen
class Counter:
    """A number that is never given out twice.

    Args:
        key: Its key in the table `meta`.
        column: The column with the numbers.
        loaded_as: The field of StoredState that holds it.
    """

    key: str
    column: str
    loaded_as: str


@attrs.frozen
class Expiry:
    """Which rows a Change forgets.

    Args:
        limit: Reads the limit from a Change's `forgotten`; None forgets nothing.
        keeps_newest: The limit is a number of rows: those with the highest keys stay. Otherwise the limit is a key:
            rows up to it are forgotten.
    """

    limit: Callable[[Forgotten], int | None]
    keeps_newest: bool = False


@attrs.define(eq=False)
class Table(Generic[E, D]):
    """A durable noun: how it is stored, read, counted, checked, forgotten and deleted.

    The values of a noun are those of all columns except the checksum, in the order of the columns. A row is its
    values followed by its checksum, wherever the checksum is on disk. The checksum is the CRC-32 of the table's name,
    then the numbers as little-endian 64 bits, then the texts and blobs, each in the order of the columns.

    Args:
        name: The name in SQL. It is part of each checksum.
        columns: All columns in their order on disk. The first is the primary key.
        encode: Makes values from an item. Raises TypeError or UnicodeEncodeError for text that is not Unicode.
        decode: Makes an item from values. Raises ValueError for values that this version does not know.
        describe: Names a row for an operator, even a damaged one.
        part: The field of Change with the items of this table, a sequence or a single item. None for tables that
            `encoding` handles itself: Workers, events and entries, which most Changes have.
        replaces: Whether a row replaces an earlier one with the same key.
        indexes: The definitions of its indexes, in SQL.
        counter: The counter that numbers the rows, if their numbers are never given out twice.
        owner: The column with the number of a Worker, if rows are deleted together with that Worker.
        expiry: Which rows a Change forgets.
        loaded_as: The field of StoredState that holds all its rows, by key.
        is_essential: Whether a store is refused because of a damaged row. Otherwise the row is left out.
    """

    name: str
    columns: tuple[Column, ...]
    encode: Callable[[E], Row]
    decode: Callable[..., D]
    describe: Callable[[Row], str]
    part: str | None = None
    replaces: bool = False
    indexes: tuple[str, ...] = ()
    counter: Counter | None = None
    owner: str | None = None
    expiry: Expiry | None = None
    loaded_as: str | None = None
    is_essential: bool = False

    key: str = attrs.field(init=False)
    names: tuple[str, ...] = attrs.field(init=False)
    create: str = attrs.field(init=False)
    insert: str = attrs.field(init=False)
    select: str = attrs.field(init=False)
    delete_of_worker: str = attrs.field(init=False)
    delete_expired: str = attrs.field(init=False)
    delete_row: str = attrs.field(init=False)
    counter_at: int = attrs.field(init=False)
    checksum: Callable[[Row], int] = attrs.field(init=False)
    _texts_at: tuple[int, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Derive the statements and the checksum from the columns."""
        name, key = self.name, self.columns[0]
        columns = [column for column in self.columns if column is not CHECKSUM]
        self.names = tuple(column.name for column in (*columns, CHECKSUM))
        names = ", ".join(self.names)
        definitions = [f"{key.name} {key.kind} PRIMARY KEY", *(column.definition for column in self.columns[1:])]
        verb = "INSERT OR REPLACE" if self.replaces else "INSERT"
        newest = f"(SELECT {key.name} FROM {name} ORDER BY {key.name} DESC LIMIT 1 OFFSET ?)"  # noqa: S608
        limit = newest if self.expiry and self.expiry.keeps_newest else "?"
        self.key = key.name
        self.create = ";\n".join((f"CREATE TABLE {name} ({', '.join(definitions)}) STRICT", *self.indexes))
        self.insert = f"{verb} INTO {name} ({names}) VALUES ({', '.join('?' * len(self.columns))})"
        self.select = f"SELECT {names} FROM {name}"  # noqa: S608
        self.delete_of_worker = f"DELETE FROM {name} WHERE {self.owner} = ?" if self.owner else ""  # noqa: S608
        self.delete_expired = f"DELETE FROM {name} WHERE {key.name} <= {limit}" if self.expiry else ""  # noqa: S608
        self.delete_row = f"DELETE FROM {name} WHERE {key.name} = ?"  # noqa: S608
        self.counter_at = self.place_of(self.counter.column) if self.counter else 0
        self.checksum = _make_checksum(name, columns)
        self._texts_at = tuple(place for place, column in enumerate(columns) if column.kind == "TEXT")

    @property
    def lowest_key(self) -> int | str:
        """A value below every key."""
        return "" if self.columns[0].kind == "TEXT" else -(2**63)

    def place_of(self, column: str) -> int:
        """Return the index of a column in values and rows."""
        return self.names.index(column)

    def row(self, item: E) -> Row:
        """Return the row of an item. Raises what `encode` raises."""
        values = self.encode(item)
        return (*values, self.checksum(values))

    def rows(self, items: Iterable[E]) -> list[Row]:
        """Return the rows of items. Raises what `encode` raises."""
        checksum = self.checksum
        return [(*values, checksum(values)) for values in map(self.encode, items)]

    def values(self, items: Iterable[E]) -> list[Row]:
        """Return the values of items. Raises what `encode` raises."""
        found = list(map(self.encode, items))
        for place in self._texts_at:
            for values in found:
                values[place].encode()
        return found

    def is_sound(self, row: Row) -> bool:
        """Return whether a row matches its checksum."""
        try:
            stored: object = row[-1]
            return self.checksum(row) == stored
        except (TypeError, StructError):
            return False

    def read(self, row: Row) -> D:
        """Return the item of a row.

        Raises:
            StoreCorrupt: The row does not match its checksum, or this version does not know its values.
        """
        if not self.is_sound(row):
            raise StoreCorrupt(f"{self.describe(row)} is damaged")
        try:
            return self.decode(*row[:-1])
        except ValueError as error:
            raise StoreCorrupt(f"{self.describe(row)} is unknown to this version") from error


def checksum_seed(name: str) -> int:
    """The checksum of the name of a table, which each checksum of its rows begins with."""
    return crc32(name.encode())


def _make_checksum(name: str, columns: Sequence[Column]) -> Callable[[Row], int]:
    """Make the function that computes the checksum of values, or of a row. Each commit and each read calls it."""
    seed = checksum_seed(name)
    numbers = [place for place, column in enumerate(columns) if column.kind == "INTEGER"]
    bodies = [place for place, column in enumerate(columns) if column.kind != "INTEGER"]
    conversions = [
        (place, _plain(column)) for place, column in enumerate(columns) if column.nullable or column.kind == "TEXT"
    ]
    pick, pack = _picker(numbers), Struct(f"<{len(numbers)}q").pack

    def checksum(row: Sequence[Any]) -> int:
        found = crc32(pack(*pick(row)), seed)
        for place in bodies:
            found = crc32(row[place], found)
        return found

    if len(bodies) == 1 and not conversions:  # events and entries: a call less for each row
        [body] = bodies
        return lambda row: crc32(row[body], crc32(pack(*pick(row)), seed))

    def checksum_converted(row: Row) -> int:
        converted = list(row)
        for place, convert in conversions:
            converted[place] = convert(converted[place])
        return checksum(converted)

    return checksum_converted if conversions else checksum


def _picker(places: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda row: [row[place] for place in places]


def _plain(column: Column) -> Callable[[Any], Any]:
    """Make the function that converts a value of a column for its checksum."""
    return str.encode if column.kind == "TEXT" else lambda number: ABSENT if number is None else number


class Tables:
    """All tables of a store, in the order of their creation.

    Args:
        tables: At least two of them must have a `part`.

    Attributes:
        counter_keys: The keys of all counters in the table `meta`.
        counter_fields: The field of StoredState that holds each counter, by its key.
    """

    def __init__(self, *tables: Table[Any, Any]) -> None:
        self._tables = tables
        self._with_part = [table for table in tables if table.part]
        self._parts_of = attrgetter(*(table.part for table in self._with_part if table.part))
        counters = [table.counter for table in tables if table.counter]
        self.counter_fields = {counter.key: counter.loaded_as for counter in counters}
        self.counter_keys = tuple(self.counter_fields)

    def __iter__(self) -> Iterator[Table[Any, Any]]:
        return iter(self._tables)

    def parts(self, change: Change) -> Iterable[tuple[Table[Any, Any], Sequence[Any]]]:
        """Return the parts of a Change, by table. Most Changes have none."""
        parts = self._parts_of(change)
        if not any(parts):
            return ()
        return [
            (table, part if isinstance(part, list | tuple) else (part,))
            for table, part in zip(self._with_part, parts, strict=True)
            if part
        ]
