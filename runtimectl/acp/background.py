"""Do something that waits for the daemon, while the editor goes on."""

import threading
from collections.abc import Callable


def in_background(act: Callable[[], None]) -> threading.Thread:
    """Run a function in a thread of its own, which ends with the program at the latest. Returns that thread."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread
