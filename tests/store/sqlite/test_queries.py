"""What reads of the durable store cost."""

from pathlib import Path

import apsw

from runtimed.core.paging import PageSize
from runtimed.core.state.change import Change
from runtimed.model.runtime import RuntimeEvent
from runtimed.store.sqlite import queries
from tests.store.conftest import NewStore

PAGE = PageSize(items=100, max_bytes=100_000)
STEPS_AT_ONCE = 100


def steps(connection: apsw.Connection, tenant: str) -> tuple[list[int], int]:
    """The ids of a tenant's runtime events, and how many hundred steps of SQLite's machine it took to find them."""
    taken = 0

    def count() -> bool:
        nonlocal taken
        taken += 1
        return False

    connection.set_progress_handler(count, STEPS_AT_ONCE)
    found = queries.runtime_events_after(connection, 0, PAGE, tenant, None)
    return [event.id for event in found], taken


def test_the_history_of_a_tenant_costs_the_same_however_much_others_have(new_store: NewStore, folder: Path) -> None:
    store = new_store()
    store.open()
    many = [RuntimeEvent(number, "worker_stopped", 1, tenant="other") for number in range(2, 5_002)]
    own = [RuntimeEvent(number, "worker_stopped", 1, tenant="acme") for number in (1, 5_002)]
    store.commit(Change(runtime_events=[own[0], *many, own[1]]))
    store.close()
    connection = apsw.Connection(str(folder / "runtime.sqlite3"))

    ids, taken = steps(connection, "acme")

    connection.close()
    assert ids == [1, 5_002]
    assert taken <= 2
