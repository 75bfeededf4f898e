"""Settings of the log."""

from typing import Literal, get_args

import attrs

LogFormat = Literal["auto", "text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
LOG_LEVELS = get_args(LogLevel)


@attrs.frozen(slots=False)
class LogSettings:
    """How the daemon logs."""

    log_format: LogFormat = "auto"
    log_level: LogLevel = "info"
