"""Replaces `time.sleep` at Python's start: libfaketime 0.9.10 makes it fail with EINVAL, but not select."""

import select
import time
from typing import SupportsIndex


def _sleep(seconds: float | SupportsIndex, /) -> None:
    select.select([], [], [], float(seconds))


time.sleep = _sleep
