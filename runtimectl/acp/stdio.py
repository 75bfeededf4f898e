"""The messages of an editor on stdin, those for it on stdout: one a line."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

from runtimectl.acp.agent import Agent
from runtimectl.acp.jsonrpc import MAX_MESSAGE_BYTES, Peer


def serve(make_agent: Callable[[Peer], Agent], *, stop_on_exit: bool) -> None:
    """Serve the editor until it closes stdin.

    Args:
        make_agent: Makes the agent of the editor.
        stop_on_exit: Stop the Workers that the agent created, however the editor leaves.
    """
    peer = Peer(_write)
    agent = make_agent(peer)
    try:
        for message in _lines():
            peer.receive(message, agent)
    finally:
        if stop_on_exit:
            agent.stop_workers()


def _lines() -> Iterator[bytes]:
    """Yield each line that is not blank. Of one that is too long only the beginning is yielded: it is no JSON."""
    while line := sys.stdin.buffer.readline(MAX_MESSAGE_BYTES):
        if not line.isspace():
            yield line
        while len(line) == MAX_MESSAGE_BYTES and not line.endswith(b"\n"):
            line = sys.stdin.buffer.readline(MAX_MESSAGE_BYTES)


def _write(message: bytes) -> None:
    """Write a message past Python's buffers, which a thread that ends with the program must not hold."""
    left = memoryview(message)
    with suppress(BrokenPipeError):  # The editor is gone: the main thread is told and ends.
        while left:
            left = left[os.write(sys.stdout.fileno(), left) :]
