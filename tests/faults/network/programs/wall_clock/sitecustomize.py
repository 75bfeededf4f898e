"""Python imports this at its start. libfaketime 0.9.10 fails each `time.sleep` with EINVAL; select is unharmed."""

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep
