"""Times of the daemon as text for people."""

import time

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))


def age(unix_ms: object) -> str | None:
    """Return how long ago a time was, in its largest unit: `12s`, `5m`, `3h`, `40d`; None if it is not an integer."""
    if not isinstance(unix_ms, int):
        return None
    seconds = max(0, int(time.time() - unix_ms / 1_000))
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def local(unix_ms: object) -> str | None:
    """Return a time in ISO 8601, with milliseconds and the local time zone; None if it is not an integer."""
    if not isinstance(unix_ms, int):
        return None
    from datetime import UTC, datetime

    return datetime.fromtimestamp(unix_ms / 1_000, UTC).astimezone().isoformat(timespec="milliseconds")
