"""The Runtime's own events."""

import asyncio
from collections.abc import Sequence

import pytest

from runtimed.core import Runtime
from runtimed.core.state.change import Change, EncodedEvent
from runtimed.errors import StoreFull
from runtimed.store.memory import MemoryStore
from tests.http.conftest import serving


class Full(MemoryStore):
    """A store that has no room left once it is `full`."""

    full = False

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        if not self.full:
            return super().commit(change)
        refused: asyncio.Future[Sequence[EncodedEvent]] = asyncio.get_running_loop().create_future()
        refused.set_exception(StoreFull("there is no room"))
        return refused


async def test_a_page_of_runtime_events_does_not_promise_those_that_a_full_disk_refused() -> None:
    store = Full()
    async with Runtime(store) as runtime, serving(runtime) as served:
        await runtime.create_worker()
        store.full = True
        with pytest.raises(StoreFull):
            await runtime.create_worker()
        pages = []
        for query in ("?limit=1", "?limit=1&after=1", ""):
            async with served.client.get(f"{served.url}/v1/runtime/events{query}") as answer:
                page = await answer.json()
                pages.append((len(page["events"]), page["next_after"], page["has_more"]))
        assert pages == [(1, 1, True), (1, 2, False), (2, 2, False)]
        store.full = False
