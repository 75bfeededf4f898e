"""Replaces `time.sleep` at Python's start: libfaketime 0.9.10 makes it fail with EINVAL, but not select."""

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep
