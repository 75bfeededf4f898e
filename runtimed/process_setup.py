"""Set up the process of the daemon: its memory, its descriptors, and its children as process 1."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
from collections.abc import AsyncIterator

from runtimed.execution.processes.folder_size import MAX_DEPTH
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.tasks import begin, finish
from runtimed.signals import handle

PR_SET_DUMPABLE = 4
GC_THRESHOLDS = (50_000, 50, 50)
"""Thresholds of the garbage collector. With the default of 700 it takes a third of an input's time and finds nothing:
the Runtime holds its objects for long, and hardly any of them are in cycles."""

KEPT_BLOCK_BYTES = 2 * 2**20
"""Several times what one stream through a gateway has in memory."""

OWN_DESCRIPTORS = 64 + 2 * MAX_DEPTH
"""The most descriptors that the daemon needs besides those of connections and Workers: store, sockets, log, and the
folders that are open while the folder of a Worker is counted."""

REAP_PAUSE_S = 0.1
"""The shortest pause of process 1 between two searches for ended children."""

log = logging.getLogger(__name__)


def hide_memory() -> None:
    """Keep other processes of this user, above all Workers, from reading the memory and environment of this one."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def keep_freed_memory() -> None:
    """Have the C library keep some of the memory that is freed: giving it back for each chunk of a stream is slow.

    glibc learns from a large block that is freed: from then on it keeps up to twice as much for reuse.
    """
    bytes(KEPT_BLOCK_BYTES)


def raise_descriptor_limit(max_connections: int) -> int | None:
    """Let this process open as many descriptors as the system allows. Logs a warning if these are too few.

    Args:
        max_connections: The most connections of all listeners.

    Returns:
        The limit from before, which Workers' programs get because those that call select(2) need it. None if the
        limit did not change.
    """
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # not every system accepts its own value for "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and allowed < max_connections + OWN_DESCRIPTORS:
        fields = {"allowed": allowed, "max_connections": max_connections}
        log.warning("too few descriptors may be open for max_connections on each listener", extra=fields)
    return before if allowed != before else None


def spare_garbage_collection() -> None:
    """Treat all present objects as permanent, and collect garbage less often."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


@contextlib.asynccontextmanager
async def reaping(supervisor: Supervisor) -> AsyncIterator[None]:
    """Reap orphans if this is process 1, which the kernel makes their parent."""
    if os.getpid() != 1:
        yield
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    handle(signal.SIGCHLD, lambda _number, _frame: loop.call_soon_threadsafe(ended.set))
    task = begin(_reap(supervisor, ended))
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        await finish(task)


async def _reap(supervisor: Supervisor, ended: asyncio.Event) -> None:
    while True:
        await supervisor.reap()
        await asyncio.sleep(REAP_PAUSE_S)
        await ended.wait()
        ended.clear()
