"""The log: one line a record, on stderr, as text or JSON. The fields of a record are the same in both.

A record has a message in plain words and fields in `extra`: `log.warning("cannot restart the Worker",
extra={"worker_id": name, "reason": text})`. This needs no library, and the logging of a program that embeds a Runtime
receives the fields too.
"""

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from runtimed.wire.request_id import current_request_id

ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: "\\n", 13: "\\r", 9: "\\t"}
ESCAPES |= {0x2028: "\\u2028", 0x2029: "\\u2029"}

STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""The attributes of every record; all others are fields."""

FIRST = ("time", "level", "logger", "message")
"""The names that a field cannot have: they come first in each record."""


def configure(log_format: str, level: str) -> None:
    """Send the log of the whole process to stderr.

    Args:
        log_format: `text`, `json`, or `auto` for text on a terminal and JSON elsewhere.
        level: The lowest level to log: debug, info, warning or error.
    """
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    handler.addFilter(add_request_id)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("asyncio").setLevel(max(logging.INFO, root.level))


def add_request_id(record: logging.LogRecord) -> bool:
    """Add the field `request_id` to a record that is written while a request is served. Returns True: it is kept."""
    request_id = current_request_id()
    if request_id is not None:
        record.__dict__.setdefault("request_id", request_id)
    return True


class TextFormatter(logging.Formatter):
    """Time, level, logger, message, then `name=value` for each field. Control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        first = _first(record)
        line = f"{first['time']} {first['level']:<7} {first['logger']}: {first['message']}"
        fields = _fields(record)
        error = fields.pop("error", None)
        line += "".join(f" {name}={_plain(value)}" for name, value in fields.items())
        return (f"{line} | {error}" if error is not None else line).translate(ESCAPES)


class JsonFormatter(logging.Formatter):
    """The same as one JSON object in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({**_first(record), **_fields(record)})


def _first(record: logging.LogRecord) -> Mapping[str, str]:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return {
        "time": f"{moment}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": _unicode(record.getMessage()),
    }


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of a record: numbers, booleans and None as they are, everything else as text."""
    extra = {name: value for name, value in record.__dict__.items() if name not in STANDARD and name not in FIRST}
    fields = {
        name: value if value is None or isinstance(value, bool | int | float) else _unicode(str(value))
        for name, value in extra.items()
    }
    if record.exc_info:
        fields["error"] = _unicode(logging.Formatter().formatException(record.exc_info))
    return fields


def _plain(value: Any) -> str:
    """Return a value as one word: quoted if it has spaces or quotation marks."""
    text = str(value)
    return text if text and not set(text) & set(" \"'=\t\r\n") else json.dumps(text, ensure_ascii=False)


def _unicode(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
