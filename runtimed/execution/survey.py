"""The look that is taken, now and then, at what process trees use."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from runtimed.execution.tasks import begin, finish
from runtimed.model.execution import LossReason

SURVEY_S = 0.5
SURVEY_SHARE = 0.05
"""How often it is looked whether a tree uses too much, and what share of the time that may take at most."""


class Limited(Protocol):
    """A process tree that has limits."""

    def looked_at(self) -> LossReason | None:
        """Which limit is exceeded now. Blocks."""

    def exceed(self, reason: LossReason) -> None:
        """Take note that it is; returns at once."""


class Survey:
    """Looks at the trees that were added, and tells each that uses too much; one task, while there are any."""

    def __init__(self) -> None:
        self._trees: set[Limited] = set()
        self._task: asyncio.Task[None] | None = None

    def add(self, tree: Limited) -> None:
        """Look at this tree from now on."""
        self._trees.add(tree)
        self._task = self._task or begin(self._run())

    async def discard(self, tree: Limited) -> None:
        """Look at it no longer. Harmless when repeated."""
        self._trees.discard(tree)
        if not self._trees and self._task is not None:
            task, self._task = self._task, None
            await finish(task)

    async def _run(self) -> None:
        loop, pause = asyncio.get_running_loop(), SURVEY_S
        while True:
            await asyncio.sleep(pause)
            began = loop.time()
            for tree, reason in await asyncio.to_thread(_excesses, tuple(self._trees)):
                tree.exceed(reason)
            pause = max(SURVEY_S, (loop.time() - began) / SURVEY_SHARE)


def _excesses(trees: Sequence[Limited]) -> list[tuple[Limited, LossReason]]:
    return [(tree, reason) for tree in trees if (reason := tree.looked_at())]
