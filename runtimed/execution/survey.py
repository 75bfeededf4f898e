"""The look that is taken, now and then, at what process trees use."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from runtimed.execution.tasks import begin, finish
from runtimed.model.execution import LossReason

SURVEY_S = 0.5
SURVEY_SHARE = 0.05
"""How often it is looked whether a tree uses too much, and what share of the time that may take at most."""

_log = logging.getLogger(__name__)


class Limited(Protocol):
    """A process tree that has limits."""

    def looked_at(self) -> LossReason | None:
        """Which limit is exceeded now. Blocks."""

    def exceed(self, reason: LossReason) -> None:
        """Take note that it is; returns at once."""


class Survey:
    """Looks at the trees that were added, and tells each that uses too much; one task, while there are any.

    A look that fails keeps none of the others from theirs; the log says so, once for each tree.
    """

    def __init__(self) -> None:
        self._trees: set[Limited] = set()
        self._failing: set[Limited] = set()
        self._task: asyncio.Task[None] | None = None

    def add(self, tree: Limited) -> None:
        """Look at this tree from now on."""
        self._trees.add(tree)
        self._task = self._task or begin(self._run())

    async def discard(self, tree: Limited) -> None:
        """Look at it no longer. Harmless when repeated."""
        self._trees.discard(tree)
        self._failing.discard(tree)
        if not self._trees and self._task is not None:
            task, self._task = self._task, None
            await finish(task)

    async def _run(self) -> None:
        loop, pause = asyncio.get_running_loop(), SURVEY_S
        while True:
            await asyncio.sleep(pause)
            began = loop.time()
            for tree, found in await asyncio.to_thread(_looks, tuple(self._trees)):
                if isinstance(found, Exception):
                    self._report(tree, found)
                elif found:
                    tree.exceed(found)
            pause = max(SURVEY_S, (loop.time() - began) / SURVEY_SHARE)

    def _report(self, tree: Limited, error: Exception) -> None:
        if tree in self._trees and tree not in self._failing:
            self._failing.add(tree)
            _log.error("it could not be seen what a process tree uses", exc_info=error)


def _looks(trees: Sequence[Limited]) -> list[tuple[Limited, LossReason | Exception | None]]:
    return [(tree, _look(tree)) for tree in trees]


def _look(tree: Limited) -> LossReason | Exception | None:
    try:
        return tree.looked_at()
    except Exception as error:  # noqa: BLE001 whatever it is, the other trees are to be looked at
        return error
