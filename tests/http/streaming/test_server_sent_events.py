"""Pages and streams of events where one event on the disk is damaged."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import apsw
import pytest

from runtimed.core import Runtime
from runtimed.execution.registry import ProfileRegistry
from runtimed.model.interaction import WorkerInput
from runtimed.store.data_dir import DataDir
from runtimed.store.sqlite import SqliteStore
from tests.http.conftest import Served, serving

EVENTS = 5
DAMAGED = 4
CURSORS = [f"wo_{sequence:016x}" for sequence in range(EVENTS + 1)]
DEADLINE_S = 20

paths = pytest.mark.parametrize("path", ["/v1/workers/worker-00000001/events", "/v1/events"])


@pytest.fixture
async def damaged(tmp_path: Path) -> AsyncIterator[Served]:
    """A Runtime with one Worker, of whose five events the fourth is damaged."""
    store = tmp_path / "store"
    backend = ProfileRegistry({}, workspaces=DataDir(tmp_path))
    async with Runtime(SqliteStore(store), backend) as first, asyncio.timeout(DEADLINE_S):
        ref = (await first.create_worker()).worker_ref
        await first.send_input(ref, WorkerInput("user", "hello"))
        while first.newest_sequence(ref) < EVENTS:
            await asyncio.sleep(0.01)
    connection = apsw.Connection(str(store / "runtime.sqlite3"))
    connection.execute("UPDATE event SET checksum = checksum + 1 WHERE sequence = ?", (DAMAGED,))
    connection.close()
    async with Runtime(SqliteStore(store)) as second, serving(second) as served:
        yield served


@paths
async def test_a_page_ends_in_front_of_a_damaged_event_and_only_the_one_that_begins_there_fails(
    damaged: Served, path: str
) -> None:
    async with damaged.client.get(f"{damaged.url}{path}") as answer:
        page = await answer.json()
        assert [event["cursor"] for event in page["events"]] == CURSORS[1:DAMAGED]
        assert (page["next_cursor"], page["has_more"]) == (CURSORS[DAMAGED - 1], True)
    async with damaged.client.get(f"{damaged.url}{path}?cursor={page['next_cursor']}") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (500, "store_corrupt")
    async with damaged.client.get(f"{damaged.url}{path}?cursor={CURSORS[DAMAGED]}") as answer:
        page = await answer.json()
        assert ([event["cursor"] for event in page["events"]], page["has_more"]) == (CURSORS[DAMAGED + 1 :], False)


@paths
async def test_a_stream_ends_in_front_of_a_damaged_event(damaged: Served, path: str) -> None:
    headers = {"Accept": "text/event-stream"}
    url = f"{damaged.url}{path}?cursor={CURSORS[0]}"
    async with damaged.client.get(url, headers=headers) as answer:
        events = [dict(_fields(one)) for one in (await answer.text()).split("\n\n") if "event:" in one]
    names = [event["event"] for event in events]
    shown = [event["id"] for event in events if event["event"] not in {"snapshot", "diagnostic"}]
    assert (shown, names[-1]) == (CURSORS[1:DAMAGED], "diagnostic")
    assert json.loads(events[-1]["data"])["message"].endswith("is damaged")


def _fields(event: str) -> Iterator[tuple[str, str]]:
    for line in event.splitlines():
        name, _, value = line.partition(": ")
        yield name, value
