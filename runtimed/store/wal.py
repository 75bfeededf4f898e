"""The write-ahead log as a file: whether it is damaged where SQLite silently stops to read it."""

from pathlib import Path

import apsw

from runtimed.errors import StoreCorrupt

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
PAGE_SIZES = frozenset(2**power for power in range(9, 17))


def check_log(connection: apsw.Connection) -> None:
    """Refuse a log that goes on behind the first frame that SQLite can't read.

    Each commit reaches the disk before the next begins, so that a crash tears one transaction at most. Two or more
    that can't be read were acknowledged, and then damaged. Raises StoreCorrupt.
    """
    try:
        readable, _ = connection.wal_checkpoint()
    except apsw.FullError:
        return  # on a full disk only SQLite knows how far it can read
    lost = _commits_behind(Path(connection.filename_wal), readable)
    if lost > 1:
        raise StoreCorrupt(
            f"the store's write-ahead log is damaged behind its frame {readable}: {lost} transactions cannot be read;"
            f" restore the store from a copy, or give them up by removing runtime.sqlite3-wal"
        )


def _commits_behind(path: Path, readable: int) -> int:
    with path.open("rb") as log:
        header = log.read(HEADER_BYTES)
        page_size, salts = int.from_bytes(header[8:12], "big"), header[16:24]
        if page_size not in PAGE_SIZES:
            return 0
        step, end = FRAME_HEADER_BYTES + page_size, log.seek(0, 2)
        found = 0
        for place in range(HEADER_BYTES + readable * step, end, step):
            log.seek(place)
            frame = log.read(FRAME_HEADER_BYTES)
            found += frame[8:16] == salts and any(frame[4:8])
        return found
