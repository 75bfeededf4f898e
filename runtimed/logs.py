"""The log: one line a record, on stderr, as text or as JSON. A record can't forge a second line."""

import json
import logging
import sys
import time
from collections.abc import Mapping

ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: "\\n", 13: "\\r", 9: "\\t"}
ESCAPES |= {0x2028: "\\u2028", 0x2029: "\\u2029"}


def configure(log_format: str, level: str) -> None:
    """Send the log of the whole process to stderr; `auto` is text on a terminal and JSON elsewhere."""
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("asyncio").setLevel(max(logging.INFO, root.level))


class TextFormatter(logging.Formatter):
    """Time, level, logger and message, control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """See Formatter."""
        fields = _fields(record)
        line = f"{fields['time']} {fields['level']:<7} {fields['logger']}: {fields['message']}"
        return (line + f" | {fields['error']}" if "error" in fields else line).translate(ESCAPES)


class JsonFormatter(logging.Formatter):
    """The same as a JSON object in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """See Formatter."""
        return json.dumps(_fields(record))


def _fields(record: logging.LogRecord) -> Mapping[str, str]:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    fields = {
        "time": f"{moment}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }
    if record.exc_info:
        fields["error"] = logging.Formatter().formatException(record.exc_info)
    return {name: text.encode("utf-8", "replace").decode() for name, text in fields.items()}
