"""Do something that waits for the daemon, while the editor goes on."""

import threading
from collections.abc import Callable


def in_background(act: Callable[[], None]) -> None:
    """Run a function in a thread of its own, which ends with the program at the latest."""
    threading.Thread(target=act, daemon=True).start()
