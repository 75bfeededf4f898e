"""Check periodically what process trees use."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from runtimed.execution.tasks import begin, finish
from runtimed.model.execution import LossReason

INTERVAL_S = 0.5
MAX_SHARE = 0.05
"""Seconds between two checks, and the share of the time that checks may take at most."""

log = logging.getLogger(__name__)


class Limited(Protocol):
    """A process tree that has limits."""

    def find_excess(self) -> LossReason | None:
        """Return the limit that is exceeded now, if any. Blocks."""

    def exceed(self, reason: LossReason) -> None:
        """End the tree for this reason; returns at once."""


class ResourceMonitor:
    """Ends trees that exceed a limit. It runs one task, while it has any trees.

    A check that fails is logged once for each tree and does not affect the others.
    """

    def __init__(self) -> None:
        self._trees: set[Limited] = set()
        self._failing: set[Limited] = set()
        self._task: asyncio.Task[None] | None = None

    def add(self, tree: Limited) -> None:
        """Check this tree from now on."""
        self._trees.add(tree)
        self._task = self._task or begin(self._run())

    async def discard(self, tree: Limited) -> None:
        """Stop checking it. May be called again."""
        self._trees.discard(tree)
        self._failing.discard(tree)
        if not self._trees and self._task is not None:
            task, self._task = self._task, None
            await finish(task)

    async def _run(self) -> None:
        loop, pause = asyncio.get_running_loop(), INTERVAL_S
        while True:
            await asyncio.sleep(pause)
            began = loop.time()
            for tree, found in await asyncio.to_thread(_check_all, tuple(self._trees)):
                if isinstance(found, Exception):
                    self._report(tree, found)
                elif found:
                    tree.exceed(found)
            pause = max(INTERVAL_S, (loop.time() - began) / MAX_SHARE)

    def _report(self, tree: Limited, error: Exception) -> None:
        if tree in self._trees and tree not in self._failing:
            self._failing.add(tree)
            log.error("could not check the resources of a process tree", exc_info=error)


def _check_all(trees: Sequence[Limited]) -> list[tuple[Limited, LossReason | Exception | None]]:
    return [(tree, _check(tree)) for tree in trees]


def _check(tree: Limited) -> LossReason | Exception | None:
    try:
        return tree.find_excess()
    except Exception as error:  # noqa: BLE001 whatever it is, the other trees are to be looked at
        return error
