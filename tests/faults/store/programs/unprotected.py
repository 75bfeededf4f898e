"""Runs the daemon with one protection taken out, so that a test can show that it notices.

It stands in front of the usual command: NAME PYTHON -m runtimed OPTIONS. Each function below takes one protection
out; all fail when what they replace is no longer there.
"""

import fcntl
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any


def replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put `make(old)` in place of an attribute."""
    setattr(owner, name, make(getattr(owner, name)))


def commit_before_ack() -> None:
    """A Change is acknowledged and published when it is queued; the commit takes its time."""
    from runtimed.store.sqlite.writer import Writer

    def submit_first(old: Callable[..., Any]) -> Callable[..., Any]:
        def submit(self: Any, rows: Any) -> Any:
            old(self, rows)
            told = self._loop.create_future()
            told.set_result(rows.events)
            return told

        return submit

    def slowly(old: Callable[..., Any]) -> Callable[..., Any]:
        def transaction(self: Any, changes: Any) -> None:
            time.sleep(0.05)
            old(self, changes)

        return transaction

    replace(Writer, "submit", submit_first)
    replace(Writer, "_transaction", slowly)


def keys_in_the_same_commit() -> None:
    """An idempotency key is stored a moment after what it is for."""
    import attrs

    from runtimed.core.state.change import Change
    from runtimed.store.sqlite import SqliteStore

    def make(old: Callable[..., Any]) -> Callable[..., Any]:
        def commit(self: Any, change: Any) -> Any:
            committed = old(self, attrs.evolve(change, idempotency=()))
            if change.idempotency:
                committed.get_loop().call_later(0.05, old, self, Change(idempotency=change.idempotency))
            return committed

        return commit

    replace(SqliteStore, "commit", make)


def replay_without_a_hole() -> None:
    """A page of stored events has lost its first."""
    _reread(lambda events: events[1:] if len(events) > 1 else events)


def replay_without_a_repeat() -> None:
    """A page of stored events has its first twice."""
    _reread(lambda events: [*events[:1], *events])


def _reread(change: Callable[[Any], Any]) -> None:
    from runtimed.store.sqlite import SqliteStore

    def make(old: Callable[..., Any]) -> Callable[..., Any]:
        async def read_events(self: Any, worker: Any, after: int, *given: Any) -> Any:
            found = await old(self, worker, after, *given)
            return change(found) if after else found

        return read_events

    replace(SqliteStore, "read_events", make)


def synchronous_full() -> None:
    """A commit does not wait for the disk."""
    from runtimed.store.sqlite.writer import Writer

    def make(old: Callable[..., None]) -> Callable[..., None]:
        def init(self: Any, connection: Any, *given: Any) -> None:
            connection.pragma("synchronous", "NORMAL")
            old(self, connection, *given)

        return init

    replace(Writer, "__init__", make)


def stop_after_a_failed_sync() -> None:
    """What could not be synced counts as stored."""
    _forgive("IOError")


def refusal_on_a_full_disk() -> None:
    """What did not fit counts as stored."""
    _forgive("FullError")


def _forgive(error: str) -> None:
    import apsw

    from runtimed.store.sqlite.writer import Writer

    def make(old: Callable[..., None]) -> Callable[..., None]:
        def transaction(self: Any, changes: Any) -> None:
            try:
                old(self, changes)
            except getattr(apsw, error):
                return

        return transaction

    replace(Writer, "_transaction", make)


def recovery_from_a_full_disk() -> None:
    """A full disk counts as one that failed."""
    import apsw

    from runtimed.store.sqlite.writer import Writer

    def make(old: Callable[..., None]) -> Callable[..., None]:
        def transaction(self: Any, changes: Any) -> None:
            try:
                old(self, changes)
            except apsw.FullError as error:
                raise apsw.IOError from error

        return transaction

    replace(Writer, "_transaction", make)


def row_checksums() -> None:
    """Whatever a row holds has the same checksum."""
    replace(zlib, "crc32", lambda old: lambda *given: 0)


def check_of_the_log() -> None:
    """A log that can't be read to its end is taken for a torn one."""
    from runtimed.store.sqlite import store

    replace(store, "repair_log", lambda old: lambda *given: None)


def torn_tail() -> None:
    """A log that is torn is read up to its last commit all the same."""
    from runtimed.store.sqlite.wal import Damage, Log

    def make(old: Callable[..., Any]) -> Callable[..., Any]:
        def damage(self: Any, readable: int) -> Any:
            commits = [frame.number for frame in self._frames(readable + 1) if frame.commits]
            return Damage(readable + 1, commits[-1], len(commits)) if commits else old(self, readable)

        return damage

    replace(Log, "damage", make)


def lock() -> None:
    """Nobody is kept out."""
    replace(fcntl, "flock", lambda old: lambda *given: None)


def main() -> None:
    """Take the protection out and be the daemon."""
    name, _python, _m, _runtimed, *options = sys.argv[1:]
    globals()[name]()
    sys.argv = ["runtimed", *options]
    from runtimed.cli import main as runtimed

    runtimed()


if __name__ == "__main__":
    main()
