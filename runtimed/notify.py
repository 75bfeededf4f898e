"""Notifications to the service manager, by the protocol of sd_notify(3)."""

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send a state to the socket named by NOTIFY_SOCKET. Does nothing if the variable is not set.

    Args:
        state: An assignment such as `READY=1`.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    name = f"\0{address[1:]}" if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), socket.MSG_DONTWAIT, name)
    except OSError as error:
        log.warning("cannot notify the service manager", extra={"state": state, "reason": error.strerror})
