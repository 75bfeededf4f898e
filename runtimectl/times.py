"""Times of the daemon, for people."""

import time

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))


def age(unix_ms: int) -> str:
    """Return how long ago a time was, in its largest whole unit: `12s`, `5m`, `3h`, `40d`."""
    seconds = max(0, int(time.time() - unix_ms / 1_000))
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def local(unix_ms: int) -> str:
    """Return a time in ISO 8601, to the millisecond, in the time zone of this machine."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(unix_ms / 1_000, UTC).astimezone().isoformat(timespec="milliseconds")
